/** Operators that read or write elements at places given by indices. */
import type { Expr } from './core/expr.js';
import { type Binary, normalizeAxis, range } from './core/rule.js';
import { scatterBack } from './core/scatter.js';

// ---- reading ----

/** y = x[indices] along `axis`  =>  dx[indices] += dy. */
export const Gather: Binary = ([dy], { inputs: [x, indices], attrs }) => [
  () => addAlong(dy, x, indices, normalizeAxis(attrs.int('axis', 0), x)),
  null,
];

/**
 * Sums the slices of dy up at `indices` along one axis of a zero tensor shaped as `x`. ScatterND would take less
 * memory for indices, but ONNX Runtime's adds in parallel, and loses terms where indices repeat.
 */
function addAlong(dy: Expr, x: Expr, indices: Expr, axis: number): Expr {
  const { g, rank } = x;
  const slices = () => dy.reshape(g.ints([...Array(axis).fill(0), -1]).concat([x.dims(axis + 1)], 0));
  const rows = indices.rank === 1 ? dy : slices();
  const column = indices.reshape(range(0, rank).map(i => (i === axis ? -1 : 1)));
  return x.zeros().scatterElements(column.expandLike(rows), rows, axis, 'add');
}

/** y = x[... indices[i, j, k] ...] with the index in the place of `axis`  =>  dx += dy at these places. */
export const GatherElements: Binary = ([dy], { inputs: [x, indices], attrs }) => [
  () => x.zeros().scatterElements(indices, dy, attrs.int('axis', 0), 'add'),
  null,
];

/** y = x[indices[...]], the last axis of the indices a place in x  =>  dx += dy at these places. */
export const GatherND: Binary = ([dy], node) => [() => scatterBack(dy, node), null];
