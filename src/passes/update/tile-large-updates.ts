import type { Builder } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import { scan } from '../../ops/core/scan.js';

/**
 * Elements of a tile. The six tensors that an update has in use at once fit in a cache of 6 MiB, the runtime splits a tile among
 * threads, and the fixed cost of nodes is small. Larger tensors are cut into tiles.
 */
const TILE = { least: 2 ** 14, most: 2 ** 18 };

/** The largest tile that divides a tensor of `size` elements without remainder; undefined if it is not large, or there is none. */
export function tileOf(size: number): number | undefined {
  if (size <= TILE.most) return undefined;
  for (let count = Math.ceil(size / TILE.most); count <= size / TILE.least; count++)
    if (size % count === 0) return size / count;
  return undefined;
}

/**
 * Applies the elementwise function `compute` to tensors of one shape, tile by tile: the output of a node is still in
 * the cache when the next one reads it, so that memory is traversed once instead of once per node.
 */
export function tiled(
  g: Builder,
  tensors: readonly Expr[],
  tile: number,
  compute: (b: Builder, tiles: readonly Expr[]) => readonly Expr[],
): Expr[] {
  const [like] = tensors;
  const inputs = tensors.map(e => e.reshape([-1, tile]));
  const { outputs } = scan(g, {
    states: [],
    inputs,
    body: (b, _, tiles) => ({ states: [], outputs: compute(b, tiles) }),
  });
  return outputs.map(e => e.reshape(like!.staticShape!));
}
