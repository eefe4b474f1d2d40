/** Convolutions, over any number of spatial axes. */
import type { DType } from '../graph/dtype.js';
import type { Shape } from '../graph/ir.js';
import type { Expr } from './core/expr.js';
import { expansion, type NodeView, type Operands, type Rule, range } from './core/rule.js';
import { interpolate, neighbours, zeroOutside } from './core/sampling.js';
import { convAdjoint, convAttrs, type Window, windowColumns, windowsOf, withPads } from './core/window.js';

type Convolution = Rule<readonly [Expr, Expr, Expr?], readonly [Expr]>;

/**
 * y[n,m,o] = b[m] + sum_{c,k} w[m,c,k] x[n,c, o stride + k dilation - begin]
 * =>  dx = the adjoint convolution of dy, dw[m,c,k] = sum_{n,o} dy[n,m,o] x[n,c, o stride + k dilation - begin],
 * db = sum of dy over all axes but the channels'.
 */
export const Conv: Convolution = ([dy], node) => {
  const [x, w, b] = node.inputs;
  const group = node.attrs.int('group', 1);
  const padded = withPads(node, x, dy, windowsOf(node, x, dy, kernelOf(w), isDepthwise(x, dy, w, group)));
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

/**
 * The windows over y of which a ConvTranspose is the adjoint. Elements added by `output_padding` follow the last window
 * and are fewer than a stride, so they add no window.
 */
function transposedWindows(node: NodeView<Operands>, x: Expr, y: Expr, w: Expr): Window[] {
  const { attrs } = node;
  const autoPad = attrs.string('auto_pad', 'NOTSET');
  const outputShape = attrs.ints('output_shape');
  return windowsOf(node, y, x, kernelOf(w)).map((v, i) => {
    if (!outputShape && !autoPad.startsWith('SAME')) return v;
    // Of the full extent of y, elements beyond `output_shape`, or beyond stride times the extent of x, are cut off.
    const n = outputShape ? x.extent(2 + i) : 0;
    if (typeof n !== 'number')
      return node.unsupported("'output_shape' and an input whose extents are not known before the run");
    const added = attrs.ints('output_padding')?.[i] ?? 0;
    const length = (n - 1) * v.stride + added + (v.kernel - 1) * v.dilation + 1;
    const total = Math.max(length - (outputShape?.[i] ?? n * v.stride), 0);
    const begin = autoPad === 'SAME_UPPER' ? Math.floor(total / 2) : Math.ceil(total / 2);
    return { ...v, begin, end: total - begin, surplus: undefined };
  });
}

type Deformed = readonly [x: Expr, w: Expr, offset: Expr, b?: Expr, mask?: Expr];

/** Conv over windows whose elements are displaced by `offset` and weighted by `mask`: interpolated columns, times w. */
export const DeformConv = expansion<Deformed>(node => {
  const { g, attrs } = node;
  const [x, w, offset, b, mask] = node.inputs;
  const group = attrs.int('group', 1);
  const offsetGroup = attrs.int('offset_group', 1);
  const windows = windowsOf(node, x, undefined, kernelOf(w));
  const size = windows.reduce((n, v) => n * v.kernel, 1);
  const outer = offset.dims(2);
  const moved = offset.reshape(g.vector([-1, size, windows.length, outer]));
  const axes = windows.map((_, i) => {
    const place = windowPlaces(windows, i, outer, x.dtype).add(moved.gather(g.scalar(i, 'int64'), 2));
    return zeroOutside(neighbours('linear', place.reshape([0, -1])), x.dims(2 + i, 3 + i));
  });
  const channels =
    typeof x.extent(1) === 'number' ? Number(x.extent(1)) / offsetGroup : x.dims(1, 2).div(offsetGroup);
  const sampled = interpolate(x.reshape(g.vector([-1, channels, x.dims(2)])), axes);
  const columns = mask ? sampled.mul(mask.reshape(g.vector([sampled.dims(0, 1), 1, -1]))) : sampled;
  const kernels = w.reshape(g.vector([group, -1, volume(w, 1)]));
  const y = kernels
    .matmul(columns.reshape(g.vector([x.dims(0, 1), group, volume(w, 1), -1])))
    .reshape(g.vector([0, w.dims(0, 1), outer]));
  return [b ? y.add(b.reshape([-1, ...windows.map(() => 1)])) : y];
});

/**
 * The positions of the elements of all windows along axis `i`, before they are displaced: [kernel size, ...windows].
 */
function windowPlaces(windows: readonly Window[], i: number, outer: Expr, dtype: DType): Expr {
  const { g } = outer;
  const { kernel, stride, dilation, begin } = windows[i]!;
  const [before, after] = [windows.slice(0, i), windows.slice(i + 1)].map(ws => ws.map(w => w.kernel));
  const size = (ks: number[]) => ks.reduce((n, k) => n * k, 1);
  const inWindow = range(0, size(before!) * kernel * size(after!)).map(
    k => (Math.floor(k / size(after!)) % kernel) * dilation - begin!,
  );
  const starts = outer
    .slice([i], [i + 1], [0])
    .iota()
    .mul(stride);
  return g
    .ints(inWindow)
    .reshape([-1, ...windows.map(() => 1)])
    .add(starts.reshape([-1, ...after!.map(() => 1)]))
    .cast(dtype);
}

/**
 * dw[m,c,k] = sum_{n,o} dy[n,m,o] x[n,c, o stride + k dilation - begin], per group, as products of matrices: of dy and
 * the columns of x, or of shifted copies of both if that copies less. Depthwise convolutions are gradients of themselves.
 */
function weightGradient(x: Expr, dy: Expr, w: Expr, windows: readonly Window[], group: number): Expr {
  if (isDepthwise(x, dy, w, group)) return byPlanes(x, dy, windows).reshapeLike(w);
  const isFixed = [w.shape!, dy.shape!.slice(2), windows.map(v => v.surplus ?? null)].every(isKnown);
  if (group > 1 || !isFixed || volume(w, 2) === 1) return byColumns(x, dy, w, windows, group);
  const [m, c, first, ...rest] = w.staticShape as [number, number, number, ...number[]];
  const areAdjacent = windows.every(v => v.stride === 1);
  if (c < FEW) return areAdjacent ? byShiftedImages(x, dy, w, windows) : byColumns(x, dy, w, windows, group);
  // Passes over a channel: one for each shift of dy, and two to slice and concatenate parts of x.
  const saved = 2 * c * (first - 1) * volumeOf(rest) - m * (1 + first);
  const shifts = areAdjacent && saved > 0 && isLarge(dy, w, windows[0]!);
  return shifts ? byShifts(x, dy, w, windows) : byRows(x, dy, w, windows);
}

/**
 * Whether images are large enough for shifts. Products of small ones add up over the samples, for which shifted copies of dy
 * would move once more. Where rows of zeros are multiplied, to copy a number takes the CPU as long as some 20 products.
 */
function isLarge(dy: Expr, w: Expr, first: Window): boolean {
  if (w.g.provider !== 'cpu') return true;
  const [m, c, steps, ...rest] = w.staticShape as [number, number, number, ...number[]];
  const [height, ...width] = dy.shape!.slice(2) as [number, ...number[]];
  const { rows } = rowsOf(first, height);
  const row = volumeOf(width);
  const size = volumeOf(rest) * c;
  if (isWorthMoving(m * steps * size, m * steps * rows * row, dy)) return false;
  const copied = steps * size * height * row - (m * steps + size) * rows * row;
  return 20 * copied > m * steps * size * (rows - height) * row;
}

/** Whether every channel has one kernel, with all extents known, and the processor is the one that `byPlanes` is fast on. */
function isDepthwise(x: Expr, dy: Expr, w: Expr, group: number): boolean {
  const kernels = w.staticShape;
  const isSingle = kernels?.[0] === group && kernels[1] === 1 && group > 1 && volumeOf(kernels) > group;
  return x.g.provider === 'cpu' && isSingle && x.staticShape !== undefined && dy.staticShape !== undefined;
}

/**
 * A depthwise convolution's dw[c] = sum_n of the convolution of the plane x[n,c] with dy[n,c] as its kernel, strides and
 * dilations exchanged: one depthwise convolution of N C channels. With columns, a product would have a single row.
 */
function byPlanes(x: Expr, dy: Expr, windows: readonly Window[]): Expr {
  const [n, c, ...inner] = x.staticShape as [number, number, ...number[]];
  const kernel = dy.staticShape!.slice(2);
  const planes = windows.map(({ kernel: k, stride, dilation, begin }, i) => {
    const reach = (kernel[i]! - 1) * stride + 1;
    const end = Math.max(0, (k - 1) * dilation + reach - inner[i]! - begin!);
    const count = Math.floor((inner[i]! + begin! + end - reach) / dilation) + 1;
    return { kernel: kernel[i]!, stride: dilation, dilation: stride, begin, end, surplus: 0, count };
  });
  const shape = [1, n * c, ...planes.map(v => v.count)];
  const dw = x
    .reshape([1, n * c, ...inner])
    .op('Conv', [dy.reshape([n * c, 1, ...kernel])], convAttrs(planes, n * c), {
      types: [{ kind: 'tensor', dtype: x.dtype, shape }],
    })
    .reshape([n, c, ...planes.map(v => v.count)])
    .sum([0]);
  // Elements after the last window would be those of a larger kernel.
  const isExact = planes.every((v, i) => v.count === windows[i]!.kernel);
  const axes = windows.map((_, i) => 1 + i);
  return isExact
    ? dw
    : dw.slice(
        axes.map(() => 0),
        windows.map(v => v.kernel),
        axes,
      );
}

/** With fewer channels, gathering pixels as rows does not pay. */
const FEW = 8;

const isKnown = (shape: Shape) => shape.every(d => typeof d === 'number');

/**
 * dw = sum over the batch of dy[n] @ columns(x[n])^T. On the CPU this is 2 to 9 times faster on the layers of a ResNet than
 * the convolution of x and dy with batch and channels swapped.
 */
function byColumns(x: Expr, dy: Expr, w: Expr, windows: readonly Window[], group: number): Expr {
  const { g } = x;
  const pixels = volume(dy, 2);
  const columns = windowColumns(x, windows).reshape(g.vector([-1, group, volume(w, 1), pixels]));
  const [m, size] = [w.extent(0), volume(w, 1)];
  const areKnown = typeof m === 'number' && typeof size === 'number' && typeof pixels === 'number';
  if (group === 1 && areKnown && isWorthMoving(m * size, (m + size) * pixels, dy)) {
    const flat = (e: Expr, rows: number) =>
      e.reshape([-1, rows, pixels]).transpose([1, 0, 2]).reshape([rows, -1]);
    return flat(dy, m).matmul(flat(columns, size).mT).reshapeLike(w);
  }
  return dy
    .reshape(g.vector([0, group, -1, pixels]))
    .matmul(columns.mT)
    .sum([0])
    .reshapeLike(w);
}

/** The same with channels-last columns: whole rows are copied, where a strided slice copies single elements. */
function byRows(x: Expr, dy: Expr, w: Expr, windows: readonly Window[]): Expr {
  const [m, c, ...kernel] = w.staticShape as [number, number, ...number[]];
  const outer = dy.shape!.slice(2) as number[];
  const pixels = volumeOf(outer);
  const size = volumeOf(kernel) * c;
  const columns = windowRows(x, outer, windows, c).reshape([-1, pixels, size]);
  return summedProduct(dy.reshape([-1, m, pixels]), columns, [m, pixels, size])
    .reshape([m, ...kernel, c])
    .transpose([0, w.rank - 1, ...range(1, w.rank - 1)]);
}

/**
 * A step in the kernel along the first spatial axis is a step forward in x, or a step back in dy. With dy shifted along
 * that axis and x along the others, one product of the two gives all of dw: for a 3x3 kernel, from 3 copies of each
 * instead of 9 of x. A row of a copy of dy meets the same row of x, or is zeros where that is padding.
 */
function byShifts(x: Expr, dy: Expr, w: Expr, windows: readonly Window[]): Expr {
  const { g } = x;
  const [m, c, first, ...rest] = w.staticShape as [number, number, number, ...number[]];
  const outer = dy.shape!.slice(2) as [number, ...number[]];
  const { begin, reach, rows } = rowsOf(windows[0]!, outer[0]);
  const before = Math.max(reach - begin, 0);
  const after = Math.max(rows + begin - outer[0], 0);
  const pixels = rows * volumeOf(outer.slice(1));
  const moved = dy
    .pad(g.ints([before, after]), g.ints([2]))
    .gather(g.ints(steps(windows[0]!).flatMap(k => range(before + begin - k, before + begin - k + rows))), 2)
    .reshape([-1, m * first, pixels]);
  const still = [{ ...windows[0]!, kernel: 1, begin: 0, end: 0 }, ...windows.slice(1)];
  const size = volumeOf(rest) * c;
  const rowsOfX = windowRows(x, [rows, ...outer.slice(1)], still, c).reshape([-1, pixels, size]);
  return summedProduct(moved, rowsOfX, [m * first, pixels, size])
    .reshape([m, first, ...rest, c])
    .transpose([0, w.rank - 1, 1, ...range(2, w.rank - 1)]);
}

/** The same for few channels, whose columns are copied with fewer nodes: rows are gathered from copies that are shifted along the other axes. */
function byShiftedImages(x: Expr, dy: Expr, w: Expr, windows: readonly Window[]): Expr {
  const [m, c, first, ...rest] = w.staticShape as [number, number, number, ...number[]];
  const outer = dy.shape!.slice(2) as [number, ...number[]];
  const pixels = volumeOf(outer);
  const size = c * first * volumeOf(rest);
  const columns = windowColumns(x, [{ ...windows[0]!, kernel: 1 }, ...windows.slice(1)])
    .gather(x.g.ints(steps(windows[0]!).flatMap(k => range(k, k + outer[0]))), 2)
    .reshape([-1, size, pixels]);
  return summedProduct(dy.reshape([-1, m, pixels]), columns.mT, [m, pixels, size])
    .reshape([m, c, ...rest, first])
    .transpose([0, 1, w.rank - 1, ...range(2, w.rank - 1)]);
}

/** Of windows at stride 1 along an axis, `outer` of them: the padding before it, a window's reach, and the extent of x. */
function rowsOf({ kernel, dilation, begin, end }: Window, outer: number) {
  const reach = (kernel - 1) * dilation;
  return { begin: begin!, reach, rows: outer + reach - begin! - end! };
}

/** sum_n a[n] @ b[n] of [N, m, k] and [N, k, size]: a product for each n and a sum, or one product of all n side by side. */
function summedProduct(a: Expr, b: Expr, [m, k, size]: readonly [number, number, number]): Expr {
  if (!isWorthMoving(m * size, m * k, a)) return a.matmul(b).sum([0]);
  const rows = a.transpose([1, 0, 2]).reshape([m, -1]);
  return rows.matmul(b.reshape([-1, size]));
}

/**
 * Whether a product that adds up over the batch is worth `moved` elements per sample that change places: a product per
 * sample writes `written` elements, which are read again for their sum. Sums of products per sample keep more digits, so
 * small ones stay.
 */
const isWorthMoving = (written: number, moved: number, batched: Expr): boolean =>
  batched.extent(0) !== 1 && written >= LEAST_WRITTEN && written > 2 * moved;
const LEAST_WRITTEN = 512;

/** The elements of each window of x, channels last: [N, ...outer, ...kernel, C], flat. */
function windowRows(x: Expr, outer: readonly number[], windows: readonly Window[], c: number): Expr {
  const { g } = x;
  const padded = windows.map(
    (v, i) => (outer[i]! - 1) * v.stride + (v.kernel - 1) * v.dilation + 1 + v.surplus!,
  );
  const axes = windows.map((_, i) => 1 + i);
  const flat = x
    .transpose([0, ...axes.map(a => a + 1), 1])
    .pad(g.ints([...windows.map(v => v.begin!), ...windows.map(v => v.end!)]), g.ints(axes))
    .reshape([-1, volumeOf(padded), c]);
  const pitch = padded.map((_, i) => volumeOf(padded.slice(i + 1)));
  const along = [...windows.map((v, i) => range(0, outer[i]!).map(o => o * v.stride)), ...windows.map(steps)];
  const pitches = [...pitch, ...pitch];
  const places = along
    .map((is, a) => g.ints(is.map(i => i * pitches[a]!)).reshape([-1, ...along.slice(a + 1).map(() => 1)]))
    .reduce((sum, e) => sum.add(e));
  return flat.gather(places.reshape([-1]), 1);
}

/** The offsets of a window's elements from its start. */
const steps = (v: Window) => range(0, v.kernel).map(k => k * v.dilation);

const volumeOf = (extents: readonly number[]) => extents.reduce((n, d) => n * d, 1);

/** Number of elements over the axes from `axis` on. */
function volume(e: Expr, axis: number): number | Expr {
  const known = e.shape!.slice(axis);
  return known.every(d => typeof d === 'number')
    ? known.reduce((n, d) => n * d, 1)
    : e.dims(axis).prod([0], { keepdims: true });
}

function kernelOf(w: Expr): Shape {
  return range(2, w.rank).map(axis => w.extent(axis));
}
