import { AgdError } from '../../../graph/errors.js';
import type { Source } from '../source.js';
import type { DataFile } from './file.js';

export type TextIndex = { starts: number[] };

const BLOCK_BYTES = 2 ** 20;
const LF = 10;

/** Running text in portions that end with a line where one ends. Throws `bad-data`. */
export async function indexText(file: DataFile, blockBytes = BLOCK_BYTES): Promise<TextIndex> {
  const starts = [0];
  while (starts.at(-1)! < file.size) {
    const start = starts.at(-1)!;
    const bytes = await file.read(start, start + blockBytes);
    if (start + bytes.length >= file.size) {
      starts.push(file.size);
      break;
    }
    const line = bytes.lastIndexOf(LF) + 1;
    starts.push(start + (line || characterEnd(bytes)));
  }
  if (starts.length === 1) throw new AgdError('bad-data', `${file.path} is empty.`);
  return { starts };
}

/** Where the last whole UTF-8 character ends. */
function characterEnd(bytes: Uint8Array): number {
  let at = bytes.length;
  while (at > 0 && (bytes[at - 1]! & 0xc0) === 0x80) at--;
  return at > 1 ? at - 1 : bytes.length;
}

/** One field `text`, one row per portion, without the line break at its end. */
export function textSource(file: DataFile, { starts }: TextIndex): Source {
  return {
    name: file.path,
    fields: [{ name: 'text', kind: 'text' }],
    blocks: starts.slice(1).map(() => 1),
    async read(block) {
      const bytes = await file.read(starts[block]!, starts[block + 1]!);
      try {
        const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
        return { rows: 1, values: new Map([['text', [text.replace(/\r?\n$/, '')]]]) };
      } catch {
        throw new AgdError(
          'bad-data',
          `${file.path}: the text between bytes ${starts[block]} and ${starts[block + 1]} is not UTF-8; convert the file, as with iconv -f latin1 -t utf-8.`,
        );
      }
    },
    close: () => file.close(),
  };
}
