/** Sources of some of the rows of another. */
import { gatherBlock } from './gather.js';
import { offsets } from './order.js';
import type { Source } from './source.js';

/** Some rows of a source: `rows` ascend. Blocks without any are empty ones, so that blocks keep their numbers. */
export function someRows(source: Source, rows: Uint32Array): Source {
  const starts = offsets(source.blocks);
  const bounds = starts.map(start => lowerBound(rows, start));
  return {
    ...source,
    blocks: source.blocks.map((_, i) => bounds[i + 1]! - bounds[i]!),
    async read(block, fields) {
      const own = rows.subarray(bounds[block]!, bounds[block + 1]!);
      return gatherBlock(
        await source.read(block, fields),
        own.map(row => row - starts[block]!),
      );
    },
    close: () => source.close(),
  };
}

/** The position of the first row that is not below `value`. */
export function lowerBound(rows: Uint32Array, value: number): number {
  let [low, high] = [0, rows.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (rows[middle]! < value) low = middle + 1;
    else high = middle;
  }
  return low;
}
