/** Windows that slide along the spatial axes of [N, C, ...spatial], as convolutions and pools define them. */
import type { Dim, Shape } from '../../graph/ir.js';
import { Tensor } from '../../graph/tensor.js';
import type { Expr } from './expr.js';
import { type NodeView, type Operands, range } from './rule.js';

/** The windows along one axis. Fields that depend on extents known only at run time are undefined. */
export type Window = {
  kernel: number;
  stride: number;
  dilation: number;
  /** Padding before and after the axis. */
  begin: number | undefined;
  end: number | undefined;
  /** Elements after the end of the last window, padding included; negative if `ceil_mode` goes past the end. */
  surplus: number | undefined;
};

/**
 * Limit on the elements of a kernel: some gradients add a node for each element, others a filter of all elements for
 * each.
 */
const MOST_ELEMENTS = 8192;

/**
 * The windows of `node`, one per spatial axis, over `x`, the padded side; `y` has one element per window. The kernel's
 * extents are those of the attribute, if present, or those given. `anySize`: nothing that grows with the kernel is built.
 */
export function windowsOf(
  node: NodeView<Operands>,
  x: Expr,
  y?: Expr,
  kernelShape: Shape = [],
  anySize = false,
): Window[] {
  const { attrs } = node;
  const kernel = attrs.ints('kernel_shape') ?? kernelShape;
  const n = kernel.length;
  const size = kernel.reduce<number>((product, k) => product * (typeof k === 'number' ? k : 1), 1);
  if (!anySize && size > MOST_ELEMENTS) throw node.unsupported(`a kernel of ${size} elements`);
  const pads = attrs.ints('pads') ?? Array(2 * n).fill(0);
  const autoPad = attrs.string('auto_pad', 'NOTSET');
  return kernel.map((k, i) => {
    if (typeof k !== 'number')
      node.unsupported("a kernel whose extents are not known before the run and no 'kernel_shape'");
    const stride = attrs.ints('strides')?.[i] ?? 1;
    const dilation = attrs.ints('dilations')?.[i] ?? 1;
    const reach = (k - 1) * dilation + 1;
    const [inner, outer] = [x.extent(2 + i), y?.extent(2 + i)];
    const [begin, end] =
      autoPad === 'NOTSET'
        ? [pads[i], pads[n + i]]
        : autoPad === 'VALID'
          ? [0, 0]
          : samePads(inner, reach, stride, autoPad);
    const known = typeof inner === 'number' && typeof outer === 'number';
    const left = known ? inner + begin! + end! - reach - (outer - 1) * stride : undefined;
    return { kernel: k, stride, dilation, begin, end, surplus: stride === 1 ? 0 : left };
  });
}

/** SAME_UPPER and SAME_LOWER: as many windows as strides fit into the axis; odd padding goes after or before. */
function samePads(extent: Dim, reach: number, stride: number, autoPad: string) {
  if (stride > 1 && typeof extent !== 'number') return [undefined, undefined];
  const short =
    stride === 1 ? reach - 1 : (Math.ceil(Number(extent) / stride) - 1) * stride + reach - Number(extent);
  const total = Math.max(short, 0);
  const half = Math.floor(total / 2);
  return autoPad === 'SAME_UPPER' ? [half, total - half] : [total - half, half];
}

/** x with explicit padding if that depends on extents known only at run time, and the inverse. */
export function withPads(
  node: NodeView<Operands>,
  x: Expr,
  y: Expr,
  windows: readonly Window[],
): { x: Expr; windows: readonly Window[]; unpad: (dx: Expr) => Expr } {
  if (windows.every(w => w.begin !== undefined)) return { x, windows, unpad: dx => dx };
  const { g } = x;
  const reach = g.ints(windows.map(w => (w.kernel - 1) * w.dilation + 1));
  const span = y
    .dims(2)
    .sub(1)
    .mul(g.ints(windows.map(w => w.stride)))
    .add(reach);
  const total = span.sub(x.dims(2)).maximum(0);
  const half = total.div(2);
  const rest = total.sub(half);
  const [begin, end] = node.attrs.string('auto_pad', '') === 'SAME_UPPER' ? [half, rest] : [rest, half];
  const axes = range(2, x.rank);
  const padded = x.pad(begin.concat([end], 0), g.ints(axes));
  return {
    x: padded,
    windows: windows.map(w => ({ ...w, begin: 0, end: 0, surplus: w.stride === 1 ? 0 : undefined })),
    unpad: dx => dx.slice(begin, begin.add(x.dims(2)), axes),
  };
}

export function convAttrs(windows: readonly Window[], group = 1) {
  return {
    kernel_shape: windows.map(w => w.kernel),
    strides: windows.map(w => w.stride),
    dilations: windows.map(w => w.dilation),
    pads: [...windows.map(w => w.begin!), ...windows.map(w => w.end!)],
    group,
  };
}

/**
 * The adjoint of y = Conv(x, w) with respect to x. At stride 1, and if y has at least as many elements as x, it is a
 * convolution with the flipped kernel, which is then up to twice as fast on the CPU; otherwise a ConvTranspose, whose
 * `output_padding` covers the elements after the last window.
 */
export function convAdjoint(dy: Expr, w: Expr, windows: readonly Window[], x: Expr, group = 1): Expr {
  const types = [x.type];
  const flipped = windows.map(v => {
    const margin = (v.kernel - 1) * v.dilation;
    return { ...v, begin: margin - v.begin!, end: margin - v.end! };
  });
  if (windows.every(isPadded) && flipped.every(v => v.stride === 1 && v.begin >= 0 && v.end >= 0))
    return dy.op('Conv', [flip(w, group)], convAttrs(flipped, group), { types });
  if (x.g.provider === 'cuda') return symmetricAdjoint(dy, w, windows, x, group);
  if (group === 1 && w.staticShape && isSpread(dy, x, windows)) return spreadPoints(dy, w, windows);
  const known = windows.every(v => v.surplus !== undefined);
  const ends = windows.map(v => (known ? v.end! - v.surplus! : 1 - v.stride));
  const dx = dy.op(
    'ConvTranspose',
    [w],
    {
      ...convAttrs(
        windows.map((v, i) => ({ ...v, end: Math.max(ends[i]!, 0) })),
        group,
      ),
      output_padding: ends.map(e => Math.max(-e, 0)),
    },
    { types: known ? types : undefined },
  );
  if (known) return dx;
  const [starts, axes] = [windows.map(() => 0), range(2, x.rank)].map(v => x.g.ints(v));
  return dx.op('Slice', [starts, x.dims(2), axes], {}, { types });
}

/** A ConvTranspose of fewer pixels than these is slow: it has a product for each sample. */
const FEW = 64;

/** Whether y has few pixels, and windows of one element split x into equal parts. */
function isSpread(y: Expr, x: Expr, windows: readonly Window[]): boolean {
  const outer = y.shape!.slice(2).map(Number);
  const isEven = ({ kernel, stride, begin }: Window, i: number) =>
    kernel === 1 && begin === 0 && x.extent(2 + i) === outer[i]! * stride;
  return outer.reduce((n, d) => n * d, 1) < FEW && windows.every(isEven);
}

/** The same where all windows are such: one product for all samples, channels last, and zeros after each pixel and row. */
function spreadPoints(dy: Expr, w: Expr, windows: readonly Window[]): Expr {
  const { g } = dy;
  const [m, c] = w.staticShape as [number, number, ...number[]];
  const outer = dy.shape!.slice(2) as number[];
  const channels = windows.length + 1;
  return dy
    .reshape([-1, m, outer.reduce((n, d) => n * d, 1)])
    .transpose([0, 2, 1])
    .reshape([-1, m])
    .matmul(w.reshape([m, c]))
    .reshape([-1, ...outer.flatMap(d => [d, 1]), c])
    .pad(
      g.ints([...windows.map(() => 0), ...windows.map(v => v.stride - 1)]),
      g.ints(windows.map((_, i) => 2 + 2 * i)),
    )
    .reshape([-1, ...outer.map((d, i) => d * windows[i]!.stride), c])
    .transpose([0, channels, ...range(1, channels)]);
}

/**
 * The same as a ConvTranspose with as much padding before an axis as after it and no `output_padding`, as cuDNN has it.
 * What is too much is sliced off; where elements follow the last window, dy is extended by a window of zeros.
 */
function symmetricAdjoint(dy: Expr, w: Expr, windows: readonly Window[], x: Expr, group: number): Expr {
  const { g } = x;
  const axes = windows.map((_, i) => 2 + i);
  // Elements of the full extent to leave out at the end; with an added window, it covers all of x, and more.
  const ends = windows.map(v => (v.surplus === undefined ? Number.NEGATIVE_INFINITY : v.end! - v.surplus));
  const added = ends.map(e => (e < 0 ? 1 : 0));
  const padded = added.some(n => n) ? dy.pad(g.ints([...added.map(() => 0), ...added]), g.ints(axes)) : dy;
  const even = windows.map((v, i) => {
    const pad = Math.max(0, Math.min(v.begin!, ends[i]! + added[i]! * v.stride)) || 0;
    return { ...v, begin: pad, end: pad };
  });
  const full = padded.op('ConvTranspose', [w], convAttrs(even, group));
  const starts = windows.map((v, i) => v.begin! - even[i]!.begin);
  const isExact = windows.every(
    (v, i) => starts[i] === 0 && ends[i]! + added[i]! * v.stride === even[i]!.end,
  );
  if (isExact) return full.typed(x.type);
  const extents = x.dims(2);
  const known = extents.constant;
  const to = known
    ? g.ints(known.map((d, i) => d + starts[i]!))
    : starts.some(n => n)
      ? extents.add(g.ints(starts))
      : extents;
  return full.op('Slice', [g.ints(starts), to, g.ints(axes)], {}, { types: [x.type] });
}

/**
 * The elements of each window as a column (im2col): [N, C, ...spatial] to [N C, kernel size, ...windows]. No operator
 * does this. One Slice per element of the kernel makes the gradient of a kernel take 0.6 to 0.97 of the time on the
 * CPU, compared with a convolution of single channels with an identity, which needs no extents.
 */
export function windowColumns(x: Expr, windows: readonly Window[]): Expr {
  const { g } = x;
  const kernel = windows.map(w => w.kernel);
  const size = kernel.reduce((n, k) => n * k, 1);
  const single = x.reshape(g.vector([-1, 1, x.dims(2)]));
  const isPixel = size === 1 && windows.every(w => w.begin === 0 && w.end === 0);
  if (isPixel && windows.every(w => w.stride === 1)) return single;
  // The CPU takes one in so many pixels with all threads in a pool, with a single one in a Slice.
  if (isPixel && windows.length === 2 && x.dtype === 'float32' && g.provider === 'cpu')
    return single.op('AveragePool', [], { kernel_shape: kernel, strides: windows.map(w => w.stride) });
  if (windows.every(w => w.surplus !== undefined && w.surplus >= 0)) return slicedColumns(single, windows);
  const identity = Float32Array.from({ length: size ** 2 }, (_, i) => (i % (size + 1) === 0 ? 1 : 0));
  const filters = g.tensor(Tensor.from('float32', [size, 1, ...kernel], identity)).cast(x.dtype);
  return single.op('Conv', [filters], convAttrs(windows));
}

/** For each element of the kernel, its range of positions: from that in the first window to that in the last. */
function slicedColumns(single: Expr, windows: readonly Window[]): Expr {
  const { g } = single;
  const axes = windows.map((_, i) => 2 + i);
  const pads = [...windows.map(w => w.begin!), ...windows.map(w => w.end!)];
  const padded = pads.some(p => p) ? single.pad(g.ints(pads), g.ints(axes)) : single;
  const places = windows.reduce<number[][]>(
    (rows, { kernel }) => rows.flatMap(row => range(0, kernel).map(k => [...row, k])),
    [[]],
  );
  const [first, ...rest] = places.map(place => {
    const ends = windows.map((w, i) => (place[i]! - w.kernel + 1) * w.dilation - w.surplus! || 2 ** 31 - 1);
    return padded.slice(
      windows.map((w, i) => place[i]! * w.dilation),
      ends,
      axes,
      windows.map(w => w.stride),
    );
  });
  return first!.concat(rest, 1);
}

function isPadded({ kernel, dilation, begin, end }: Window): boolean {
  return begin! + end! >= (kernel - 1) * dilation;
}

/** The kernel [M, C/g, ...] of the adjoint convolution: [C, M/g, ...], backwards along each spatial axis. */
export function flip(w: Expr, group: number): Expr {
  const { g } = w;
  const known = w.staticShape;
  if (known && group === 1 && g.provider === 'cpu') return flippedRows(w, known);
  const axes = range(2, w.rank).filter(a => w.extent(a) !== 1);
  const back = axes.length
    ? w.slice(
        axes.map(() => -1),
        axes.map(() => -(2 ** 31)),
        axes,
        axes.map(() => -1),
      )
    : w;
  const spatial = range(2, w.rank);
  // One channel to one channel: nothing to exchange.
  if (w.extent(0) === group && w.extent(1) === 1) return back;
  if (group === 1) return back.transpose([1, 0, ...spatial]);
  const rest = w.dims(1);
  return back
    .reshape(g.vector([group, -1, rest]))
    .transpose([0, 2, 1, ...spatial.map(a => a + 1)])
    .reshape(g.vector([w.dims(1, 2).mul(group), -1, w.dims(2)]));
}

/** The same for a single group: rows of M numbers change places, where a Slice backwards copies a number at a time. */
function flippedRows(w: Expr, [m, c, ...kernel]: readonly number[]): Expr {
  const size = kernel.reduce((n, k) => n * k, 1);
  if (size === 1) return w.transpose([1, 0, ...kernel.map((_, i) => 2 + i)]);
  return w
    .reshape([m!, c! * size])
    .transpose([1, 0])
    .reshape([c!, size, m!])
    .gather(w.g.ints(range(0, size).reverse()), 1)
    .transpose([0, 2, 1])
    .reshape([c!, m!, ...kernel]);
}

/** A kernel of ones over one channel: the convolution with it sums each window. */
export function onesKernel(like: Expr, windows: readonly Window[]): Expr {
  return like.g.tensor(Tensor.filled(like.dtype, [1, 1, ...windows.map(w => w.kernel)], 1));
}
