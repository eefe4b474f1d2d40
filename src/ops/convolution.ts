/** Convolutions, over any number of spatial axes. */
import type { Expr } from './core/expr.js';
import { type NodeView, type Operands, type Rule, range } from './core/rule.js';
import { convAdjoint, convAttrs, cropLike, vector, type Window, windowsOf, withPads } from './core/window.js';

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
 * y is the adjoint convolution of x, with w[c,m,k]
 * =>  dx = Conv(dy, w), dw as Conv's with the parts of x and dy exchanged, db = sum of dy as for Conv.
 */
export const ConvTranspose: Convolution = ([dy], node) => {
  const [x, w, b] = node.inputs;
  const group = node.attrs.int('group', 1);
  const windows = transposedWindows(node, x, dy, w);
  return [
    () => dy.op('Conv', [w], convAttrs(windows, group), { types: [x.type] }),
    () => weightGradient(dy, x, w, windows, group),
    b ? () => dy.sum([0, ...range(2, dy.rank)]) : null,
  ];
};

/** The windows over y of which a ConvTranspose is the adjoint; what `output_padding` adds lies after the last. */
function transposedWindows(node: NodeView<Operands>, x: Expr, y: Expr, w: Expr): Window[] {
  const { attrs } = node;
  const autoPad = attrs.string('auto_pad', 'NOTSET');
  const outputShape = attrs.ints('output_shape');
  return windowsOf(node, y, x, w).map((v, i) => {
    const extra = attrs.ints('output_padding')?.[i] ?? 0;
    let [begin, end] = [v.begin!, v.end!];
    if (outputShape || autoPad.startsWith('SAME')) {
      // All elements of y, but for those of `output_shape` or stride times those of x, are cut off as padding.
      const n = outputShape ? x.extent(2 + i) : 0;
      if (typeof n !== 'number')
        return node.unsupported("'output_shape' and an input whose extents are not known before the run");
      const length = (n - 1) * v.stride + extra + (v.kernel - 1) * v.dilation + 1;
      const total = Math.max(length - (outputShape?.[i] ?? n * v.stride), 0);
      begin = autoPad === 'SAME_UPPER' ? Math.floor(total / 2) : Math.ceil(total / 2);
      end = total - begin;
    }
    return { ...v, begin, end: Math.max(end - extra, 0), surplus: Math.max(extra - end, 0) };
  });
}

/**
 * The gradient of the kernel as a convolution: x and dy with batch and channels swapped, strides and
 * dilations too. Windows that the stride skipped at the end would give more kernel elements than there are.
 */
function weightGradient(x: Expr, dy: Expr, w: Expr, windows: readonly Window[], group: number): Expr {
  const swapped = windows.map(v => ({ ...v, stride: v.dilation, dilation: v.stride }));
  const dw = swapBatch(x, group).op('Conv', [swapBatch(dy, 1)], convAttrs(swapped, group));
  const exact = windows.every(v => v.surplus !== undefined && v.surplus < v.dilation);
  return (exact ? dw : cropLike(dw, w)).op(
    'Transpose',
    [],
    { perm: [1, 0, ...range(2, w.rank)] },
    { types: [w.type] },
  );
}

/** [N, C, ...] to [C, N, ...], or with groups to [C/g, g N, ...]. */
function swapBatch(x: Expr, group: number): Expr {
  const { g } = x;
  const spatial = range(2, x.rank);
  if (group === 1) return x.transpose([1, 0, ...spatial]);
  const perGroup = x.extent(1);
  const size = typeof perGroup === 'number' ? perGroup / group : x.dims(1, 2).div(group);
  return x
    .reshape(vector(g, [-1, group, size, x.dims(2)]))
    .transpose([2, 1, 0, ...spatial.map(a => a + 1)])
    .reshape(vector(g, [size, -1, x.dims(2)]));
}
