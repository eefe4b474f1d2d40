import type { Value } from '../../graph/ir.js';
import type { Builder } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import { scan } from '../../ops/core/scan.js';

/**
 * Elements of a tile. About ten tensors of an update fit in the cache of each core, the runtime still splits a tile
 * between two threads, and the fixed cost of nodes is small. Larger tensors are cut into tiles.
 */
const TILE = { least: 2 ** 14, most: 2 ** 17 };

/**
 * The largest tile size that divides a large tensor without remainder; undefined if the tensor is not large, or there
 * is none.
 */
export function tileOf({ shape }: Value): number | undefined {
  const size = (shape as readonly number[]).reduce((n, d) => n * d, 1);
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
