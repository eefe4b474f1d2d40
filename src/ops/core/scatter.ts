/** Gradients of operators that copy elements. */
import type { Expr } from './expr.js';
import { Attributes, type NodeView, normalizeAxis, type Operands } from './rule.js';

/** The flat position of each element of `x`, in its shape: int64, from 0. */
export function positions(x: Expr): Expr {
  const [zero, one] = [x.g.scalar(0, 'int64'), x.g.scalar(1, 'int64')];
  return zero.op('Range', [x.count('int64'), one]).reshapeLike(x);
}

/**
 * For each of `rows` of a table with `count` rows, its last position in the vector (int32), which is the same for
 * equal rows.
 */
export function lastPlaces(rows: Expr, count: Expr): Expr {
  const zeros = rows.g.scalar(0, 'int32').expand(count);
  return zeros.scatterElements(rows, positions(rows).cast('int32')).gather(rows);
}

/**
 * The cotangent of the input `x` of an operator that copies elements: the operator itself, applied to the positions of
 * the elements of `x`, shows where each element of y comes from; dy is summed there.
 */
export function scatterBack(dy: Expr, node: NodeView<Operands>, others = node.inputs.slice(1)): Expr {
  const x = node.inputs[0]!;
  const origin = positions(x).op(node.node.opType, others, Object.fromEntries(node.node.attrs));
  return scatterFlat(dy, origin, x);
}

/**
 * Sums `values` at the flat positions `at` of a tensor of the shape of `x`, which is zero elsewhere. With the reduction
 * 'none', no position may be there twice.
 */
export function scatterFlat(values: Expr, at: Expr, x: Expr, reduction: 'add' | 'none' = 'add'): Expr {
  const flat = x.zeros().reshape([-1]);
  return flat.scatterElements(at.reshape([-1]), values.reshape([-1]), 0, reduction).reshapeLike(x);
}

/** If `e` is zero except for one number per line along `axis`: these numbers and their positions. */
export function scattered(e: Expr, axis: number): { indices: Expr; values: Expr } | undefined {
  const node = e.g.writer(e.value);
  if (node?.opType !== 'ScatterElements') return undefined;
  const [onto, indices, values] = node.inputs.map(v => e.g.of(v!)) as [Expr, Expr, Expr];
  const isOne = indices.shape?.every((d, i) => (i === axis ? d === 1 : d !== null && d === e.shape?.[i]));
  const attrs = new Attributes(node);
  const isSum = attrs.string('reduction', 'none') === 'add';
  const isAlong = normalizeAxis(attrs.int('axis', 0), e) === axis;
  return isOne && isSum && isAlong && isZero(onto) ? { indices, values } : undefined;
}

/** Whether a zero is repeated to this tensor. */
export function isZero({ g, value }: Expr): boolean {
  const node = g.writer(value);
  return node?.opType === 'Expand' && g.of(node.inputs[0]!).constant?.[0] === 0;
}
