import type { Value } from '../../graph/ir.js';
import type { Builder } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import { scan } from '../../ops/core/scan.js';

/**
 * Elements of a tile: the ten or so tensors of an update fit in the cache of each core, the runtime still gives both halves
 * of a tile to a thread, and the nodes' fixed cost is small against their work. What is larger than a tile is cut.
 */
const TILE = { least: 2 ** 14, most: 2 ** 17 };

/** The size of the tiles that a large tensor is cut into without a rest; undefined where it is not large, or has none. */
export function tileOf({ shape }: Value): number | undefined {
  const size = (shape as readonly number[]).reduce((n, d) => n * d, 1);
  if (size <= TILE.most) return undefined;
  for (let count = Math.ceil(size / TILE.most); count <= size / TILE.least; count++)
    if (size % count === 0) return size / count;
  return undefined;
}

/**
 * What `compute` makes, element by element, of tensors of one shape, tile by tile: what one node writes is still in the
 * cache when the next one reads it, so that memory is passed over once instead of once for each node.
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
