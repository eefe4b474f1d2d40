/** Convolutions, over any number of spatial axes. */
import type { Expr } from './core/expr.js';
import { type Rule, range } from './core/rule.js';
import { convAdjoint, convAttrs, vector, type Window, windowsOf, withPads } from './core/window.js';

type Convolution = Rule<readonly [Expr, Expr, Expr?], readonly [Expr]>;

/**
 * y[n,m,o] = b[m] + sum_{c,k} w[m,c,k] x[n,c, o stride + k dilation - begin]
 * =>  dx = the adjoint convolution of dy, dw[m,c,k] = sum_{n,o} dy[n,m,o] x[n,c, o stride + k dilation - begin],
 * db = sum of dy over all axes but the channels'.
 */
export const Conv: Convolution = ([dy], node) => {
  const [x, w, b] = node.inputs;
  const group = node.attrs.int('group', 1);
  const padded = withPads(node, x, dy, windowsOf(node, x, dy, w));
  return [
    () => padded.unpad(convAdjoint(dy, w, padded.windows, padded.x, group)),
    () => weightGradient(padded.x, dy, w, padded.windows, group),
    b ? () => dy.sum([0, ...range(2, dy.rank)]) : null,
  ];
};

/**
 * The gradient of the kernel as a convolution: x and dy with batch and channels swapped, strides and
 * dilations too. Windows that the stride skipped at the end would give more kernel elements than there are.
 */
function weightGradient(x: Expr, dy: Expr, w: Expr, windows: readonly Window[], group: number): Expr {
  const swapped = windows.map(v => ({ ...v, stride: v.dilation, dilation: v.stride }));
  const dw = swapBatch(x, group).op('Conv', [swapBatch(dy, 1)], convAttrs(swapped, group));
  const exact = windows.every(v => v.surplus !== undefined && v.surplus < v.dilation);
  const spatial = range(2, w.rank);
  const cut = exact ? dw : dw.op('Slice', [x.g.ints(spatial.map(() => 0)), w.dims(2), x.g.ints(spatial)]);
  return cut.op('Transpose', [], { perm: [1, 0, ...spatial] }, { types: [w.type] });
}

/** [N, C, ...] to [C, N, ...], or with groups to [C/g, g N, ...]. */
function swapBatch(x: Expr, group: number): Expr {
  const { g } = x;
  const spatial = range(2, x.rank);
  if (group === 1) return x.transpose([1, 0, ...spatial]);
  const perGroup = x.extent(1);
  const size = typeof perGroup === 'number' ? perGroup / group : x.dims(1, 2).div(group);
  return x
    .reshape(vector(g, [x.dims(0, 1), group, size, x.dims(2)]))
    .transpose([2, 1, 0, ...spatial.map(a => a + 1)])
    .reshape(vector(g, [size, -1, x.dims(2)]));
}
