import type { Value } from '../../graph/ir.js';
import type { Expr } from '../../ops/core/expr.js';

/**
 * Tensors of up to this many elements are updated together. A node takes at least a microsecond regardless of its
 * work; concatenating and splitting copies each tensor, which for larger ones costs more than the nodes saved.
 */
const SMALL = 2 ** 12;

/** Groups positions of `values`: small tensors with equal `keys` together, in the order of the first of each group. */
export function groupSmall(
  values: readonly Value[],
  keys: readonly string[],
  places: readonly number[],
): number[][] {
  const groups = new Map<string | number, number[]>();
  for (const i of places) {
    const shape = values[i]!.shape as readonly number[];
    const isSmall = shape.reduce((n, d) => n * d, 1) <= SMALL;
    const key = isSmall ? keys[i]! : i;
    const members = groups.get(key);
    if (members) members.push(i);
    else groups.set(key, [i]);
  }
  return [...groups.values()];
}

/** Concatenates tensors of any shape into one vector; a single one is returned unchanged. */
export function join(tensors: readonly Expr[]): Expr {
  if (tensors.length === 1) return tensors[0]!;
  const [first, ...others] = tensors.map(e => (e.rank === 1 ? e : e.reshape([-1])));
  return first!.concat(others, 0);
}

/** The inverse of `join`: the parts, in the shapes of `like`. */
export function part(joined: Expr, like: readonly Value[]): Expr[] {
  if (like.length === 1) return [joined];
  const shapes = like.map(v => v.shape as readonly number[]);
  const sizes = shapes.map(shape => shape.reduce((n, d) => n * d, 1));
  const types = sizes.map(size => ({ kind: 'tensor', dtype: joined.dtype, shape: [size] }) as const);
  const options = { outputs: like.length, types };
  const parts = joined.g.emit('Split', [joined, joined.g.ints(sizes)], { axis: 0 }, options);
  return parts.map((e, i) => (shapes[i]!.length === 1 ? e : e.reshape(shapes[i]!)));
}
