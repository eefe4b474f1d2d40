import type { Value } from '../../graph/ir.js';
import type { Expr } from '../../ops/core/expr.js';

/**
 * Tensors of up to this many elements are updated together. A node takes at least a microsecond regardless of its
 * work; concatenating and splitting copies each tensor, which for larger ones costs more than the nodes saved.
 */
const SMALL = 2 ** 12;

const product = (dims: readonly number[]) => dims.reduce((n, d) => n * d, 1);
const sum = (terms: readonly number[]) => terms.reduce((n, d) => n + d, 0);
const shapesOf = (values: readonly Value[]) => values.map(v => v.shape as readonly number[]);

/** Groups positions of `values`: small tensors with equal `keys` together, in the order of the first of each group. */
export function groupSmall(
  values: readonly Value[],
  keys: readonly string[],
  places: readonly number[],
): number[][] {
  const sizes = shapesOf(values).map(product);
  // The extents of what is empty are no shape to reshape to: a 0 there stands for an extent of what is reshaped.
  return grouped(places, i => (sizes[i] && sizes[i] <= SMALL ? keys[i]! : i));
}

function grouped(places: readonly number[], keyOf: (i: number) => string | number): number[][] {
  const groups = new Map<string | number, number[]>();
  for (const i of places) {
    const key = keyOf(i);
    const members = groups.get(key);
    if (members) members.push(i);
    else groups.set(key, [i]);
  }
  return [...groups.values()];
}

/** So many tensors that differ at most in their first extent are joined along it and reshaped at once. Two would save no node. */
const ROWS = 3;

const concat = ([first, ...others]: readonly Expr[]) => first!.concat(others, 0);

/** The pieces of the vector, in their order: each is one tensor, or several that are joined first. */
const piecesOf = (shapes: readonly (readonly number[])[]): number[][] =>
  grouped([...shapes.keys()], i => (shapes[i]!.length > 1 ? `${shapes[i]!.slice(1)}` : i))
    .flatMap(members => (members.length < ROWS ? members.map(i => [i]) : [members]))
    .sort(([a], [b]) => a! - b!);

/** Concatenates tensors of the shapes of `like` into one vector; a single one is returned unchanged. */
export function join(tensors: readonly Expr[], like: readonly Value[]): Expr {
  if (tensors.length === 1) return tensors[0]!;
  const pieces = piecesOf(shapesOf(like)).map(members => concat(members.map(i => tensors[i]!)));
  return concat(pieces.map(e => (e.rank === 1 ? e : e.reshape([-1]))));
}

/** The inverse of `join`: the parts, in the shapes of `like`. */
export function part(joined: Expr, like: readonly Value[]): Expr[] {
  if (like.length === 1) return [joined];
  const shapes = shapesOf(like);
  const pieces = piecesOf(shapes).map(members => ({ members, own: members.map(i => shapes[i]!) }));
  const sizes = pieces.map(({ own }) => [sum(own.map(product))]);
  const parts: Expr[] = [];
  for (const [k, piece] of split(joined, sizes).entries()) {
    const { members, own } = pieces[k]!;
    const [first] = own;
    const shape = own.length === 1 ? first! : [sum(own.map(([rows]) => rows!)), ...first!.slice(1)];
    for (const [j, e] of split(piece.reshape(shape), own).entries()) parts[members[j]!] = e;
  }
  return parts;
}

/** Parts of these shapes along the first axis. */
function split(e: Expr, shapes: readonly (readonly number[])[]): Expr[] {
  if (shapes.length === 1) return [e];
  const types = shapes.map(shape => ({ kind: 'tensor', dtype: e.dtype, shape }) as const);
  const sizes = e.g.ints(shapes.map(([extent]) => extent!));
  return e.g.emit('Split', [e, sizes], { axis: 0 }, { outputs: shapes.length, types });
}
