import { availableParallelism } from 'node:os';
import { AgdError } from '../../../graph/errors.js';
import type { Source } from '../source.js';
import { ADVICE, checkImage, type EncodedImage } from './decode.js';

/** The rows whose images can all be decoded, and the messages of those that cannot. */
export type Checked = { rows: Uint32Array; damaged: string[] };

/**
 * Reads every image of these columns once, so that which samples there are does not depend on when a damaged one is found.
 * Missing ones count as damaged. Throws `bad-data` where none is left.
 */
export async function findDamaged(source: Source, columns: readonly string[]): Promise<Checked> {
  const rows: number[] = [];
  const damaged: string[] = [];
  let first = 0;
  for (const [i, count] of source.blocks.entries()) {
    const { values } = await source.read(i, columns);
    const lists = columns.map(column => values.get(column) as readonly (EncodedImage | null)[]);
    const errors: (string | undefined)[] = Array(count).fill(undefined);
    let next = 0;
    const work = async () => {
      while (next < count) {
        const row = next++;
        for (const list of lists) errors[row] ??= await problem(list[row]!, first + row + 1, source.name);
      }
    };
    await Promise.all(Array.from({ length: 2 * availableParallelism() }, work));
    for (const [row, error] of errors.entries())
      if (error === undefined) rows.push(first + row);
      else damaged.push(error);
    first += count;
  }
  if (!rows.length && damaged.length)
    throw new AgdError('bad-data', `No image of ${source.name} can be decoded. ${damaged[0]}`);
  return { rows: Uint32Array.from(rows), damaged };
}

async function problem(image: EncodedImage | null, row: number, source: string): Promise<string | undefined> {
  if (image === null) return `Row ${row} of ${source} has no image.`;
  try {
    await checkImage(image, typeof image === 'string' ? image : `in row ${row} of ${source}`);
    return undefined;
  } catch (error) {
    if (!(error instanceof AgdError) || error.code === 'bad-option') throw error;
    return error.message.replace(ADVICE, '.');
  }
}

/** One line on what was left out. */
export function describeDamaged({ damaged }: Checked): string | undefined {
  const [first] = damaged;
  if (first === undefined) return undefined;
  const more = damaged.length > 1 ? ` (and ${damaged.length - 1} more)` : '';
  return `Left out ${damaged.length} damaged image${damaged.length > 1 ? 's' : ''}: ${first.replace(/\.$/, '')}${more}.`;
}
