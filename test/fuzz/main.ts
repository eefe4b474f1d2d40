/**
 * Damages files of every format that the project reads, and reads them: `node dist/test/fuzz/main.js [mutants [seed [format]]]`.
 * Each mutant is either refused by an AgdError of one printable line, or read as the same values again when it is written,
 * and as those that another reader finds in it: ONNX Runtime for tensors of a model, one of the test's own for arrays.
 * Prints a line per format; anything else, and what takes the processor more than two seconds, is printed with its mutant and exits 1.
 */

import { random } from '../../src/graph/random.js';
import { AgdError } from '../../src/internal.js';
import { type Format, formats, type Read } from './formats.js';

const SLOWEST = 2000;

/** Numbers from 0 to 1, those of a seed and a mutant. */
function draws(seed: number, mutant: number): () => number {
  const draw = random(seed, mutant);
  return () => draw() / 2 ** 32;
}

const EVIL = [0, 1, 0x7f, 0x80, 0xff, 0x22, 0x7b, 0x7d, 0x28, 0x30, 0x39];

/** One to four changes: bits, bytes, lengths of 32 bits, pieces left out, doubled, or moved. Half of them near the begin. */
function mutate(seed: Uint8Array, draw: () => number): Uint8Array {
  const below = (n: number) => Math.floor(draw() * n);
  let bytes = Buffer.from(seed);
  for (let changes = 1 + below(4); changes > 0; changes--) {
    const length = Math.max(1, bytes.length);
    const at = below(draw() < 0.5 ? Math.min(length, 512) : length);
    const piece = bytes.subarray(at, at + 1 + below(draw() < 0.9 ? 16 : length));
    switch (below(6)) {
      case 0:
        bytes[at]! ^= 1 << below(8);
        break;
      case 1:
        bytes[at] = EVIL[below(EVIL.length)]!;
        break;
      case 2:
        if (at + 4 <= bytes.length)
          bytes.writeUInt32LE([0, 0xffffffff, 0x7fffffff, below(2 ** 32)][below(4)]!, at);
        break;
      case 3:
        bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + piece.length)]);
        break;
      case 4:
        bytes = Buffer.concat([bytes.subarray(0, at), piece, bytes.subarray(at)]);
        break;
      default:
        piece.copy(bytes, below(length));
    }
  }
  return new Uint8Array(bytes);
}

/** What is wrong with how a mutant was read; `accepted` where it was. */
async function check(
  { read }: Format,
  bytes: Uint8Array,
): Promise<'accepted' | 'refused' | { wrong: string }> {
  const begin = process.cpuUsage();
  const late = () => {
    // Of the processor: a busy machine is not a slow reader.
    const ms = process.cpuUsage(begin).user / 1000;
    return ms > SLOWEST ? { wrong: `took ${Math.round(ms)} ms` } : undefined;
  };
  let first: Read;
  try {
    first = await read(bytes);
  } catch (error) {
    if (!(error instanceof AgdError)) return { wrong: String((error as Error)?.stack ?? error) };
    if (/[\p{Cc}]/u.test(error.message)) return { wrong: `prints ${JSON.stringify(error.message)}` };
    return late() ?? 'refused';
  }
  if (first.wrong) return { wrong: first.wrong };
  if (!first.again) return late() ?? 'accepted';
  const second = await Promise.resolve(first.again)
    .then(read)
    .catch(error => ({ found: String(error) }));
  if (second.found !== first.found)
    return { wrong: `reads other values when written again: ${second.found.slice(0, 300)}` };
  return late() ?? 'accepted';
}

const [count = 2000, seed = 1] = process.argv.slice(2, 4).map(Number);
const only = process.argv[4];
let failures = 0;
for (const [name, format] of Object.entries(await formats())) {
  if (only !== undefined && name !== only) continue;
  const sound = await check(format, format.seed);
  if (sound !== 'accepted') throw new Error(`The undamaged ${name} file is not read.`);
  let accepted = 0;
  for (let i = 0; i < count; i++) {
    const bytes = mutate(format.seed, draws(seed, i));
    const outcome = await check(format, bytes);
    if (outcome === 'accepted') accepted++;
    if (typeof outcome === 'string') continue;
    if (++failures <= 20) console.log(`${name}, seed ${seed}, mutant ${i}: ${outcome.wrong}`);
  }
  console.log(`${name}: ${count} mutants, ${accepted} accepted`);
}
console.log(`${failures} failures`);
process.exitCode = failures ? 1 : 0;
