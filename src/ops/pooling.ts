/** Pools: sums, means, norms and maxima over sliding windows or all of space. */
import type { Dim } from '../graph/ir.js';
import { Tensor } from '../graph/tensor.js';
import type { Expr } from './core/expr.js';
import { type NodeView, type Rule, range, type Unary } from './core/rule.js';
import { scatterFlat } from './core/scatter.js';
import { convAdjoint, convAttrs, onesKernel, type Window, windowsOf, withPads } from './core/window.js';

/** y = the largest element of each window  =>  dy goes to it, the first one where several are equal. */
export const MaxPool: Rule<readonly [Expr], readonly [Expr, Expr?]> = ([dy], node) => {
  const [x] = node.inputs;
  return [
    () => {
      const indices = node.output(1, { kind: 'tensor', dtype: 'int64', shape: dy.shape });
      if (node.attrs.int('storage_order', 0) === 1) {
        // Column-major indices are row-major ones of x with its spatial axes in reverse.
        const perm = [0, 1, ...range(2, x.rank).reverse()];
        return scatterFlat(dy, indices, x.transpose(perm)).transpose(perm);
      }
      const windows = windowsOf(node, x, dy);
      const overlap = windows.some(w => (w.kernel - 1) * w.dilation >= w.stride);
      const isInside = areWithin(node, windows) && windows.every(isUnpadded);
      // No two windows choose one element: nothing is added up, which on a GPU takes atomic operations.
      if (x.g.provider === 'cuda') return scatterFlat(dy, indices, x, overlap ? 'add' : 'none');
      if (overlap || !isInside || x.dtype !== 'float32') return scatterFlat(dy, indices, x);
      // Up to 9 times faster on the CPU, but it would keep only one of several dy where windows overlap, and would
      // assume a larger x where they exceed it. CUDA has no kernel.
      const { kernel_shape, strides } = Object.fromEntries(node.node.attrs);
      return dy.op('MaxUnpool', [indices, x.dims()], { kernel_shape, strides }, { types: [x.type] });
    },
  ];
};

/** y = mean over each window  =>  each of its elements gets dy / n, n being the number of elements in the mean. */
export const AveragePool: Unary = ([dy], node) => {
  const [x] = node.inputs;
  return [
    () => {
      const windows = windowsOf(node, x, dy);
      return spreadOver(node, dy.div(windowCount(node, dy, windows)), windows);
    },
  ];
};

/**
 * y = (sum of |x|^p over each window)^(1/p)
 * =>  dx = sign(x) |x|^(p-1) * (sum of dy y^(1-p) over the windows of x), and 0 for windows of zeros.
 */
export const LpPool: Unary = ([dy], node) => {
  const [x] = node.inputs;
  const windows = () => windowsOf(node, x, dy);
  return [() => normGradient(dy, node, e => spreadOver(node, e, windows()))];
};

/** y = x at the flat positions `indices`, 0 elsewhere  =>  dx = dy at these positions. */
export const MaxUnpool: Rule<readonly [Expr, Expr, Expr?], readonly [Expr]> = ([dy], node) => {
  const [x, indices] = node.inputs;
  return [() => dy.reshape([-1]).gather(indices).reshapeLike(x), null, null];
};

// ---- all of space ----

/** y = mean over all of space  =>  each element gets dy / n. */
export const GlobalAveragePool: Unary = ([dy], { inputs: [x] }) => [
  () => dy.div(x.count(x.dtype, range(2, x.rank))).expandLike(x),
];

/** y = the largest element of all of space  =>  dy goes to it, the first one where several are equal. */
export const GlobalMaxPool: Unary = ([dy], { inputs: [x] }) => [
  () => {
    const flat = x.reshape([0, 0, -1]);
    const first = flat.op('ArgMax', [], { axis: 2 });
    return flat
      .zeros()
      .scatterElements(first, dy.reshape([0, 0, 1]), 2)
      .reshapeLike(x);
  },
];

/** y = (sum of |x|^p over all of space)^(1/p)  =>  dx = dy * sign(x) |x|^(p-1) y^(1-p), and 0 where y = 0. */
export const GlobalLpPool: Unary = ([dy], node) => [() => normGradient(dy, node, e => e)];

function normGradient(dy: Expr, node: NodeView<readonly [Expr]>, spread: (e: Expr) => Expr): Expr {
  const [x] = node.inputs;
  const y = node.output();
  const p = node.attrs.int('p', 2);
  const power = p === 2 ? x : p === 1 ? x.sign() : x.sign().mul(x.abs().pow(p - 1));
  return spread(y.equal(0).where(0, dy.mul(y.pow(1 - p)))).mul(power);
}

/** The adjoint of summing each window of the node's input: every element gets the sum of its windows' dy. */
function spreadOver(node: NodeView<readonly [Expr]>, dy: Expr, windows: readonly Window[]): Expr {
  const [x] = node.inputs;
  const { g } = x;
  if (windows.every(isTile)) return repeat(dy, windows).reshapeLike(x);
  const padded = withPads(node, x, dy, windows);
  const single = (e: Expr) => e.reshape(g.vector([-1, 1, e.dims(2)]));
  const dx = convAdjoint(single(dy), onesKernel(dy, windows), padded.windows, single(padded.x));
  return padded.unpad(dx.reshapeLike(padded.x));
}

/**
 * Whether all windows are within x and its padding: with `ceil_mode` the last may not be, unless padding is computed to
 * fit.
 */
function areWithin(node: NodeView<readonly [Expr]>, windows: readonly Window[]): boolean {
  const { attrs } = node;
  const isMade = attrs.int('ceil_mode', 0) === 0 || attrs.string('auto_pad', 'NOTSET').startsWith('SAME');
  return isMade || windows.every(w => w.surplus !== undefined && w.surplus >= 0);
}

const isUnpadded = ({ begin, end }: Window) => begin === 0 && end === 0;

/** Whether the windows split the axis into equal parts. */
function isTile({ kernel, stride, dilation, begin, end, surplus }: Window): boolean {
  return kernel === stride && dilation === 1 && begin === 0 && end === 0 && surplus === 0;
}

/** Each element, `kernel` times along each axis: [N, C, H, W] as [N, C, H, kernel, W, kernel]. */
function repeat(e: Expr, windows: readonly Window[]): Expr {
  const axes = windows.map((_, i) => 3 + 2 * i);
  const times = windows.flatMap(w => [1, w.kernel]);
  return e.unsqueeze(axes).expand([1, 1, ...times]);
}

/** The divisor of each window of an AveragePool, as a tensor that broadcasts to dy. */
function windowCount(node: NodeView<readonly [Expr]>, dy: Expr, windows: readonly Window[]): Expr {
  const { g, inputs } = node;
  const [x] = inputs;
  const withPadding = node.attrs.int('count_include_pad', 0) === 1;
  if (areWithin(node, windows) && (withPadding || windows.every(isUnpadded)))
    return g.scalar(
      windows.reduce((n, w) => n * w.kernel, 1),
      x.dtype,
    );
  const counts = windows.map((w, i) => countAlong(w, x.extent(2 + i), dy.extent(2 + i), withPadding));
  if (!counts.every(c => c !== undefined)) return countAtRunTime(node, dy, windows, withPadding);
  return counts
    .map((c, i) => g.tensor(Tensor.from('float32', [c.length, ...windows.slice(i + 1).map(() => 1)], c)))
    .reduce((a, b) => a.mul(b))
    .cast(x.dtype);
}

/** Number of elements of each window along one axis, if all extents are known. */
function countAlong(w: Window, inner: Dim, outer: Dim, withPadding: boolean): Float32Array | undefined {
  if (typeof inner !== 'number' || typeof outer !== 'number') return undefined;
  const [low, high] = withPadding ? [-w.begin!, inner + w.end!] : [0, inner];
  return Float32Array.from({ length: outer }, (_, o) => {
    const places = range(0, w.kernel).map(k => o * w.stride + k * w.dilation - w.begin!);
    return places.filter(p => p >= low && p < high).length;
  });
}

/** The same by summing windows of ones. */
function countAtRunTime(
  node: NodeView<readonly [Expr]>,
  dy: Expr,
  windows: readonly Window[],
  withPadding: boolean,
): Expr {
  const { g, inputs } = node;
  const [x] = inputs;
  const padded = withPads(node, g.scalar(1, x.dtype).expand(g.vector([1, 1, x.dims(2)])), dy, windows);
  const [before, after] = [padded.windows.map(w => w.begin!), padded.windows.map(w => w.end!)];
  const ones = withPadding ? padded.x.op('Pad', [g.ints([0, 0, ...before, 0, 0, ...after]), 1]) : padded.x;
  const pastEnd = padded.windows.map(w => ({
    ...w,
    begin: withPadding ? 0 : w.begin,
    end: (withPadding ? 0 : w.end!) + w.stride - 1,
  }));
  const spatial = range(2, x.rank);
  return ones.op('Conv', [onesKernel(x, windows)], convAttrs(pastEnd)).slice(
    spatial.map(() => 0),
    dy.dims(2),
    spatial,
  );
}
