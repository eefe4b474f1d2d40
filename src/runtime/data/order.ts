/** In which order an epoch takes the samples. The same seed and epoch give the same order on every machine. */
import { below, permutation, type Random, random } from '../../graph/random.js';

export type Order = {
  /** The numbers of the samples at the positions `from` up to, not including, `to`. */
  rows(from: number, to: number): Uint32Array;
  /** The blocks that are read for the samples from this position on, as far as is worth reading ahead. */
  blocks?(position: number): readonly number[];
};

/** The samples as they are stored. */
export const fileOrder = (from: number, to: number) => new Uint32Array(to - from).map((_, i) => from + i);

/** As they are stored, in blocks. */
export function inBlocks(blocks: readonly number[]): Order {
  const starts = offsets(blocks);
  return {
    rows: fileOrder,
    blocks(position) {
      const first = partOf(starts, position);
      return [first, first + 1, first + 2].filter(block => block < blocks.length);
    },
  };
}

/** All samples in random order. */
export function shuffled(length: number, seed: number, epoch: number): Order {
  const order = permutation(length, random(seed, epoch));
  return { rows: (from, to) => order.subarray(from, to) };
}

/**
 * As many samples as there are, drawn with replacement in proportion to their weights: each is found in the cumulative
 * sums by bisection. Throws nothing; the weights are checked where they are read.
 */
export function weighted(weights: Float64Array, seed: number, epoch: number): Order {
  const sums = weights.slice();
  for (let i = 1; i < sums.length; i++) sums[i]! += sums[i - 1]!;
  const draw = random(seed, epoch);
  const total = sums.at(-1)!;
  const order = Uint32Array.from(sums, () => firstAbove(sums, unit(draw) * total));
  return { rows: (from, to) => order.subarray(from, to) };
}

/**
 * The samples, in ascending order, of which each is taken with this probability by itself. The gaps between them have a
 * geometric distribution: P(gap >= k) = (1 - rate)^k.
 */
export function poissonSample(length: number, rate: number, draw: Random): Uint32Array {
  if (rate >= 1) return fileOrder(0, length);
  const rows: number[] = [];
  const each = Math.log1p(-rate);
  for (let row = -1; ; ) {
    row += 1 + Math.floor(Math.log1p(-unit(draw)) / each);
    if (!(row < length)) return Uint32Array.from(rows);
    rows.push(row);
  }
}

/** A double of [0, 1) with 53 random bits. */
export function unit(draw: Random): number {
  return ((draw() >>> 5) * 2 ** 26 + (draw() >>> 6)) / 2 ** 53;
}

function firstAbove(sums: Float64Array, x: number): number {
  let [low, high] = [0, sums.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sums[middle]! > x) high = middle;
    else low = middle + 1;
  }
  return low;
}

/**
 * Random order for samples that are read in blocks: the blocks in random order, unless they are sequential, as many of them at a time as have at most
 * `buffer` samples together (one at least), and the samples of these in random order. A part of the order is computed
 * without what comes before it.
 */
export function blockwise(
  blocks: readonly number[],
  { buffer, isSequential = false }: { buffer: number; isSequential?: boolean },
  seed: number,
  epoch: number,
): Order {
  const starts = offsets(blocks);
  const sequence = isSequential ? blocks.keys() : permutation(blocks.length, random(seed, epoch));
  const windows: { start: number; length: number; blocks: number[] }[] = [];
  let at = 0;
  for (const block of sequence) {
    const rows = blocks[block]!;
    if (rows === 0) continue;
    const last = windows.at(-1);
    if (last && last.length + rows <= buffer) {
      last.blocks.push(block);
      last.length += rows;
    } else windows.push({ start: at, length: rows, blocks: [block] });
    at += rows;
  }
  let cached: { index: number; rows: Uint32Array } | undefined;
  const rowsOf = (index: number): Uint32Array => {
    if (cached?.index === index) return cached.rows;
    const { blocks: members, length } = windows[index]!;
    const rows = new Uint32Array(length);
    let to = 0;
    for (const block of members) for (let i = 0; i < blocks[block]!; i++) rows[to++] = starts[block]! + i;
    // Streams of the epochs' own orders are below 2^32.
    const order = permutation(length, random(seed, (epoch + 1) * 2 ** 32 + index));
    cached = { index, rows: order.map(i => rows[i]!) };
    return cached.rows;
  };
  const windowAt = (position: number) => windows.findLastIndex(({ start }) => start <= position);
  return {
    rows(from, to) {
      const out = new Uint32Array(to - from);
      let index = windowAt(from);
      for (let filled = 0; filled < out.length; index++) {
        const { start } = windows[index]!;
        const part = rowsOf(index).subarray(from + filled - start, to - start);
        out.set(part, filled);
        filled += part.length;
      }
      return out;
    },
    blocks(position) {
      const index = windowAt(position);
      return windows.slice(index, index + 2).flatMap(window => window.blocks);
    },
  };
}

/** Where each part begins, and after the last one the end of all. */
export function offsets(lengths: readonly number[]): number[] {
  const starts = [0];
  for (const length of lengths) starts.push(starts.at(-1)! + length);
  return starts;
}

/** The part, of those that begin at `starts`, that has this position. */
export function partOf(starts: readonly number[], position: number): number {
  let [low, high] = [0, starts.length - 2];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (starts[middle]! <= position) low = middle;
    else high = middle - 1;
  }
  return low;
}

/** A random part of `count` of all: which ones, in ascending order (Knuth, TAOCP 2, algorithm S). */
export function choose(all: number, count: number, draw: Random): Uint32Array {
  const out = new Uint32Array(count);
  for (let i = 0, found = 0; found < count; i++) if (below(all - i, draw) < count - found) out[found++] = i;
  return out;
}
