/** Samples in blocks that are read as they are needed. */
import { byteLength } from '../../graph/dtype.js';
import { Tensor } from '../../graph/tensor.js';
import { SHUFFLE_BYTES } from './dataset.js';
import { offsets, partOf } from './order.js';
import type { Samples } from './samples.js';

/** Blocks that are kept, beside those that are shuffled together and the next of them. */
const SPARE_BYTES = 32 * 2 ** 20;

type Arrays = ReadonlyMap<string, Tensor>;

/** Bytes of a sample. */
export function bytesOf({ arrays }: Pick<Samples, 'arrays'>): number {
  let sum = 0;
  for (const { dtype, dims } of arrays.values())
    sum += byteLength(
      dtype,
      dims.reduce((n, d) => n * d, 1),
    );
  return Math.max(1, sum);
}

export type BlockReading = Pick<Samples, 'arrays'> & {
  /** Rows of each block. */
  blocks: readonly number[];
  /** Most samples that are shuffled at a time. */
  shuffleBuffer?: number;
  read(block: number): Promise<Arrays>;
};

/** Keeps the blocks in use and the next. */
export function blockSamples({ arrays, blocks, shuffleBuffer, read }: BlockReading): Samples {
  const starts = offsets(blocks);
  const row = bytesOf({ arrays });
  const largest = blocks.reduce((n, rows) => Math.max(n, rows), 0);
  const window = Math.max(largest * row, shuffleBuffer === undefined ? SHUFFLE_BYTES : shuffleBuffer * row);
  const capacity = 2 * window + SPARE_BYTES;
  const kept = new Map<number, Promise<Arrays>>();
  let held = 0;
  const load = (block: number) => {
    let found = kept.get(block);
    kept.delete(block);
    if (!found) {
      found = read(block);
      // Whoever awaits it is told; the next one who asks tries again.
      found.catch(() => {
        if (kept.delete(block)) held -= blocks[block]! * row;
      });
      held += blocks[block]! * row;
    }
    kept.set(block, found);
    for (const [oldest] of kept) {
      if (held <= capacity || oldest === block) break;
      kept.delete(oldest);
      held -= blocks[oldest]! * row;
    }
    return found;
  };
  return {
    length: starts.at(-1)!,
    arrays,
    blocks,
    prepare(wanted) {
      for (const block of wanted) if (!kept.has(block)) load(block);
    },
    take: rows => takeFrom(starts, arrays, rows, load),
  };
}

/** Rows of arrays that lie in parts, each from one of `starts` on. */
export async function takeFrom(
  starts: readonly number[],
  arrays: Samples['arrays'],
  rows: Uint32Array,
  load: (part: number) => Arrays | Promise<Arrays>,
): Promise<Map<string, Tensor>> {
  const byPart = new Map<number, { from: number[]; to: number[] }>();
  for (const [i, taken] of rows.entries()) {
    const part = partOf(starts, taken);
    const places = byPart.get(part) ?? { from: [], to: [] };
    places.from.push(taken - starts[part]!);
    places.to.push(i);
    byPart.set(part, places);
  }
  const out = new Map<string, Tensor>();
  for (const [name, { dtype, dims }] of arrays) {
    const size = byteLength(
      dtype,
      dims.reduce((n, d) => n * d, 1),
    );
    out.set(name, new Tensor(dtype, [rows.length, ...dims], new Uint8Array(rows.length * size)));
  }
  const loading = [...byPart].map(async ([part, places]) => [await load(part), places] as const);
  for (const [found, { from, to }] of await Promise.all(loading))
    for (const [name, array] of found) copyRows(array, from, out.get(name)!, to);
  return out;
}

function copyRows(from: Tensor, rows: readonly number[], out: Tensor, places: readonly number[]): void {
  const width = out.dims[0] ? out.byteLength / out.dims[0] : 0;
  const { bytes } = from;
  for (const [i, row] of rows.entries())
    out.bytes.set(bytes.subarray(row * width, (row + 1) * width), places[i]! * width);
}
