/** Gradients of operators that read parts of x, of which only the shape is available. */
import type { Expr } from '../core/expr.js';
import { lowering } from '../core/gradient-node.js';
import { Gather, GatherElements, GatherND } from '../indexing.js';
import { Slice } from '../movement.js';

type FromShape = readonly [shape: Expr, indices: Expr, dy: Expr];

export const GatherGrad = lowering<FromShape>(node => {
  const [, indices, dy] = node.inputs;
  return node.byRule(Gather, [dy], { inputs: [node.shapedBy(0, dy), indices] });
});

export const GatherNDGrad = lowering<FromShape>(node => {
  const [, indices, dy] = node.inputs;
  return node.byRule(GatherND, [dy], { opType: 'GatherND', inputs: [node.shapedBy(0, dy), indices] });
});

export const GatherElementsGrad = lowering<readonly [dy: Expr, shape: Expr, indices: Expr]>(node => {
  const [dy, , indices] = node.inputs;
  return node.byRule(GatherElements, [dy], { inputs: [node.shapedBy(1, dy), indices] });
});

type SliceBack = readonly [dy: Expr, shape: Expr, starts: Expr, ends: Expr, axes?: Expr, steps?: Expr];

export const SliceGrad = lowering<SliceBack>(node => {
  const [dy, , ...where] = node.inputs;
  return node.byRule(Slice, [dy], { opType: 'Slice', inputs: [node.shapedBy(1, dy), ...where] });
});

/** A Gather of a subset of rows. */
export const ShrunkenGather = lowering<readonly [Expr, Expr]>(({ inputs: [x, indices], attrs }) => [
  x.gather(indices, attrs.int('axis', 0)),
]);

/** Rows without padding, scattered into rows of zeros, which are then reshaped to two axes. */
export const PadAndUnflatten = lowering<readonly [x: Expr, indices: Expr, dims: Expr]>(node => {
  const { g } = node;
  const [x, indices, dims] = node.inputs;
  const rows = dims.cast('int64').prod([0], { keepdims: true });
  const zeros = g.scalar(0, x.dtype).op('Expand', [g.vector([rows, x.dims(1)])]);
  const all = zeros.op('ScatterND', [indices.cast('int64').unsqueeze([1]), x]);
  return [all.op('Reshape', [g.vector([dims.cast('int64'), x.dims(1)])])];
});

/** The inverse: merges the first two axes and selects rows; also returns the extents of these axes. */
export const FlattenAndUnpad = lowering<readonly [x: Expr, indices: Expr]>(({ g, inputs: [x, indices] }) => [
  x.reshape(g.vector([-1, x.dims(2)])).gather(indices),
  x.dims(0, 2),
]);
