/**
 * Damages files of every format that the project reads, and reads them: `node dist/test/fuzz/main.js [mutants [seed]]`.
 * Each mutant is either refused by an AgdError of one printable line, or read as the same values again when it is written.
 * Prints a line per format; anything else, and what takes the processor more than two seconds, is printed with its mutant and exits 1.
 */

import { decodeModel } from '../../src/graph/proto/codec.js';
import { Tensor } from '../../src/graph/tensor.js';
import { AgdError, encodeModel, inject } from '../../src/internal.js';
import { originalBytes } from '../../src/passes/file/embed-original.js';
import { readStep } from '../../src/passes/file/step-metadata.js';
import { decodeNpy, encodeNpy } from '../../src/runtime/data/npy.js';
import { decodeNpz, encodeNpz } from '../../src/runtime/data/npz.js';
import { random } from '../../src/runtime/data/random.js';
import { decodeSafetensors, encodeSafetensors } from '../../src/runtime/data/safetensors.js';
import { decodeCheckpoint, encodeCheckpoint } from '../../src/runtime/formats/ort-checkpoint.js';
import { mlp } from '../sample.js';

const SLOWEST = 2000;

/** A file to damage, and what reads it: a text that says all it found, and the file written anew from that, if any. */
type Format = { seed: Uint8Array; read: (bytes: Uint8Array) => Promise<Read> | Read };
type Read = { found: string; again?: Uint8Array };

const show = (tensors: Iterable<readonly [string, Tensor]>) =>
  [...tensors]
    .map(([name, t]) => `${name} ${t.dtype} [${t.dims}] ${Buffer.from(t.bytes).toString('base64')}`)
    .join('\n');

const tensors = new Map<string, Tensor>([
  ['x', Tensor.from('float32', [2, 3], Float32Array.of(1, -2, 3, 4, 5, 6))],
  ['labels', Tensor.from('int64', [4], BigInt64Array.of(1n, 2n, 3n, 4n))],
  ['step', Tensor.from('int64', [], BigInt64Array.of(7n))],
]);

async function formats(): Promise<Record<string, Format>> {
  const model = mlp();
  const { model: injected } = await inject(model, { loss: { kind: 'cross-entropy' } });
  const readModel = (bytes: Uint8Array): Read => {
    const found = decodeModel(bytes);
    const again = encodeModel(found);
    const { graph } = found;
    const nodes = graph.nodes.map(
      n => `${n.label} ${n.inputs.map(v => v?.name)} ${n.outputs.map(v => v?.name)}`,
    );
    const stored = [...graph.initializers].map(([v, t]) => [v.name, t] as const);
    return { found: [...nodes, show(stored)].join('\n'), again };
  };
  const momentum = new Map([['momentum0', tensors.get('x')!]]);
  const checkpoint = {
    trainable: new Map([['x', tensors.get('x')!]]),
    frozen: new Map([['labels', tensors.get('labels')!]]),
    optimizers: [{ name: 'group0', step: 3, lr: 0.5, momentums: new Map([['x', momentum]]) }],
    properties: new Map([['epoch', { int: 5n }]]),
  };
  return {
    onnx: { seed: encodeModel(model), read: readModel },
    injected: {
      seed: encodeModel(injected),
      read: bytes => {
        const found = decodeModel(bytes);
        return {
          found: JSON.stringify(readStep(found)) + Buffer.from(originalBytes(found)).toString('base64'),
        };
      },
    },
    npy: {
      seed: encodeNpy(tensors.get('x')!),
      read: bytes => {
        const array = decodeNpy(bytes, 'x.npy');
        return { found: show([['x', array]]), again: encodeNpy(array) };
      },
    },
    npz: {
      seed: encodeNpz(tensors),
      read: bytes => {
        const arrays = decodeNpz(bytes, 'x.npz');
        return { found: show(arrays), again: encodeNpz(arrays) };
      },
    },
    safetensors: {
      seed: encodeSafetensors(tensors, { format: 'pt' }),
      read: bytes => {
        const { tensors: found, metadata } = decodeSafetensors(bytes, 'x.safetensors');
        return { found: show([...found].sort()), again: encodeSafetensors(found, metadata) };
      },
    },
    checkpoint: {
      seed: encodeCheckpoint(checkpoint),
      read: async bytes => {
        const found = await decodeCheckpoint(bytes, 'checkpoint');
        return { found: show([...found.trainable, ...found.frozen].sort()), again: encodeCheckpoint(found) };
      },
    },
  };
}

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
  if (!first.again) return late() ?? 'accepted';
  const second = await Promise.resolve(first.again)
    .then(read)
    .catch(error => ({ found: String(error) }));
  if (second.found !== first.found)
    return { wrong: `reads other values when written again: ${second.found.slice(0, 300)}` };
  return late() ?? 'accepted';
}

const [count = 2000, seed = 1] = process.argv.slice(2).map(Number);
let failures = 0;
for (const [name, format] of Object.entries(await formats())) {
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
