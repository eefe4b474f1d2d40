/** Images at other resolutions and places: interpolation on grids. */
import { Tensor } from '../graph/tensor.js';
import { float } from './core/builder.js';
import { type Expr, sameShape } from './core/expr.js';
import { expansion, type NodeView, normalizeAxes, type Rule, range } from './core/rule.js';
import {
  clampOutside,
  interpolate,
  type Neighbours,
  neighbours,
  reflectOutside,
  zeroOutside,
} from './core/sampling.js';
import { windowColumns, windowsOf } from './core/window.js';

type Resized = readonly [x: Expr, roi?: Expr, scales?: Expr, sizes?: Expr];

/**
 * y = x resampled along some axes, each by its own matrix: y = R x  =>  dx = R^T dy, axis by axis. R^T is the operator
 * itself applied to an identity matrix, which the runtime folds into a constant if extents are known. A scale, or the
 * cropped region, moves the positions at which x is sampled: its gradient is the sum of dy * slope of x there *
 * derivative of the position.
 */
export const Resize: Rule<Resized, readonly [Expr]> = ([dy], node) => {
  const { attrs, inputs } = node;
  const [x, roi, scales] = inputs;
  const repeats = wholeRepeats(node);
  const dx = () =>
    resampledAxes(dy, node).reduce((e, axis) => applyAlong(axis, impulses(axis, dy, node), e), dy);
  const isSmooth = attrs.string('mode', 'nearest') !== 'nearest';
  return [
    () => (repeats ? sumOfRepeats(dy, repeats) : dx()).reshapeLike(x),
    isSmooth && isCrop(node) && present(roi) ? () => regionGradient(dy, node) : null,
    isSmooth && !isCrop(node) && present(scales) ? () => scaleGradient(dy, node) : null,
    null,
  ];
};

/** Whether y is a region of x; scales then only determine its extents. */
function isCrop({ attrs }: NodeView<Resized>): boolean {
  return attrs.string('coordinate_transformation_mode', '') === 'tf_crop_and_resize';
}

/** How often each element is repeated in y, per spatial axis, if these are integers known before the run. */
function wholeRepeats(node: NodeView<Resized>): number[] | undefined {
  const { attrs, inputs } = node;
  const [x, , scales] = inputs;
  const places = attrs.string('coordinate_transformation_mode', 'half_pixel');
  const rounding = attrs.string('nearest_mode', 'round_prefer_floor');
  const isExact =
    (places === 'asymmetric' && rounding === 'floor') ||
    (places === 'half_pixel' && rounding.startsWith('round'));
  const known = present(scales)?.constant;
  if (attrs.string('mode', 'nearest') !== 'nearest' || !isExact || !known || x.rank < 3) return undefined;
  const repeats = Array<number>(x.rank).fill(1);
  listedAxes(node).forEach((axis, i) => {
    repeats[axis] = known[i]!;
  });
  const isWhole = repeats.every((r, axis) => (axis < 2 ? r === 1 : Number.isInteger(r)));
  return isWhole ? repeats.slice(2) : undefined;
}

/** Each element of the result is the sum of dy over its tile. */
function sumOfRepeats(dy: Expr, repeats: readonly number[]): Expr {
  const mean = dy.op('AveragePool', [], { kernel_shape: repeats, strides: repeats });
  return mean.mul(repeats.reduce((n, r) => n * r, 1));
}

function listedAxes({ attrs, inputs: [x] }: NodeView<Resized>): number[] {
  return normalizeAxes(attrs.ints('axes') ?? range(0, x.rank), x);
}

/** The axes that are resampled. */
function resampledAxes(y: Expr, node: NodeView<Resized>): number[] {
  const [x, , scales] = node.inputs;
  const axes = listedAxes(node);
  if (isCrop(node)) return axes;
  const known = present(scales)?.constant;
  return axes.filter((axis, i) => (known ? known[i] !== 1 : !sameShape([x.extent(axis)], [y.extent(axis)])));
}

/** The operator applied to each element of one axis, with the extent of y: R^T, a row per element of x. */
function impulses(axis: number, y: Expr, node: NodeView<Resized>): Expr {
  const { g, inputs, attrs } = node;
  const [x, roi, scales, sizes] = inputs.map(present);
  const { axes, keep_aspect_ratio_policy, ...kept } = Object.fromEntries(node.node.attrs);
  const n = x!.dims(axis, axis + 1);
  const identity = g
    .scalar(1, x!.dtype)
    .expand(n.concat([n], 0))
    .op('EyeLike');
  if (sizes && attrs.string('keep_aspect_ratio_policy', 'stretch') !== 'stretch')
    return impulsesInPlace(axis, identity, node);
  const listed = listedAxes(node);
  const at = listed.indexOf(axis);
  const pick = (e: Expr, i = at) => e.slice([i], [i + 1], [0]);
  const number = (value: number, like: Expr) => g.scalar(value, like.dtype).reshape([1]);
  const region = roi && number(0, roi).concat([pick(roi), number(1, roi), pick(roi, listed.length + at)], 0);
  const factors = scales && number(1, scales).concat([pick(scales)], 0);
  // If the rank of y is unknown, the runtime's inference treats a vector of unknown length as empty.
  const extents = sizes && n.concat([y.dims(axis, axis + 1)], 0).op('Reshape', [g.ints([2])]);
  return identity.op('Resize', [region, factors, extents], { ...kept, extrapolation_value: float(0) });
}

/**
 * The same if the scale of an axis depends on the other axes: the impulses are in images with all resampled axes of x,
 * constant along the others.
 */
function impulsesInPlace(axis: number, identity: Expr, node: NodeView<Resized>): Expr {
  const { g, inputs } = node;
  const [x, , , sizes] = inputs;
  const others = range(1, x.rank).filter(a => a !== axis);
  if (listedAxes(node).some(a => a < 2) || isCrop(node))
    node.unsupported(
      "'keep_aspect_ratio_policy' together with 'tf_crop_and_resize' or axes other than space",
    );
  const images = identity.unsqueeze(others).expand(g.vector([1, 1, x.dims(2)]));
  const resized = images.op('Resize', [undefined, undefined, sizes], Object.fromEntries(node.node.attrs));
  return resized
    .slice(
      others.map(() => 0),
      others.map(() => 1),
      others,
    )
    .squeeze(others);
}

/** Multiplies the vectors along one axis by a matrix. */
function applyAlong(axis: number, matrix: Expr, x: Expr): Expr {
  if (axis === x.rank - 2) return matrix.matmul(x);
  const perm = range(0, x.rank).map(a => (a === axis ? x.rank - 1 : a === x.rank - 1 ? axis : a));
  return x.transpose(perm).matmul(matrix.mT).transpose(perm);
}

/** One number per scale, for linear interpolation: 0 for axes that are not resampled. */
function scaleGradient(dy: Expr, node: NodeView<Resized>): Expr {
  const { g, inputs } = node;
  const [, , scales] = inputs;
  const resampled = resampledAxes(dy, node);
  const derivatives = listedAxes(node).map((axis, i) => {
    if (!resampled.includes(axis)) return g.scalar(0, 'float32').reshape([1]);
    const { place, moved } = placesAlong(axis, scales!.slice([i], [i + 1], [0]), dy, node);
    const last = node.inputs[0]
      .dims(axis, axis + 1)
      .sub(1)
      .cast('float32');
    const onImage = place.greater(0).and(place.less(last));
    return placeGradient(axis, place, onImage, dy, node).mul(moved).sum([0], { keepdims: true });
  });
  return derivatives[0]!.concat(derivatives.slice(1), 0).cast(scales!.dtype);
}

/**
 * Two numbers per axis, for linear interpolation: the gradients of the start of the region, then of its end. With n
 * elements of x and m of y, element j lies at (n - 1) (start (1 - t) + end t) with t = j / (m - 1), or 1/2 where m is
 * 1. The runtime crops no axis whose scale is 1.
 */
function regionGradient(dy: Expr, node: NodeView<Resized>): Expr {
  const [x, roi, scales] = node.inputs as readonly [Expr, Expr, Expr?];
  const axes = listedAxes(node);
  const bound = (i: number) => roi.slice([i], [i + 1], [0]).cast('float32');
  const derivatives = axes.map((axis, i) => {
    const last = x
      .dims(axis, axis + 1)
      .sub(1)
      .cast('float32');
    const m = dy.dims(axis, axis + 1);
    const t = m.greater(1).where(m.iota().cast('float32').div(m.sub(1).maximum(1).cast('float32')), 0.5);
    const [atStart, atEnd] = [t.rsub(1).mul(last), t.mul(last)];
    const place = bound(i)
      .mul(atStart)
      .add(bound(i + axes.length).mul(atEnd));
    const isKept =
      present(scales)
        ?.slice([i], [i + 1], [0])
        .equal(1) ?? m.equal(x.dims(axis, axis + 1));
    const onImage = place.greaterOrEqual(0).and(place.lessOrEqual(last)).and(isKept.not());
    const moved = placeGradient(axis, place, onImage, dy, node);
    return [atStart, atEnd].map(d => moved.mul(d).sum([0], { keepdims: true }));
  });
  const [first, ...rest] = [0, 1].flatMap(end => derivatives.map(d => d[end]!));
  return first!.concat(rest, 0).cast(roi.dtype);
}

/**
 * The gradient of the sampling positions along one axis, in float32: the slope of x between the two neighbouring
 * elements times dy, summed over all other axes; 0 where the position is not `onImage`.
 */
function placeGradient(axis: number, place: Expr, onImage: Expr, dy: Expr, node: NodeView<Resized>): Expr {
  const { inputs, attrs } = node;
  const [x] = inputs;
  if (attrs.string('mode', '') !== 'linear' || attrs.int('antialias', 0) === 1)
    node.unsupported(
      `a gradient for '${isCrop(node) ? 'roi' : 'scales'}' and an interpolation other than linear`,
    );
  const others = resampledAxes(dy, node)
    .filter(a => a !== axis)
    .reduce((e, a) => applyAlong(a, impulses(a, dy, node).mT, e), x);
  const last = x.dims(axis, axis + 1).sub(1);
  const before = place.floor().cast('int64').minimum(last.sub(1)).maximum(0);
  const after = before.add(1).minimum(last);
  const slope = others.gather(after, axis).sub(others.gather(before, axis));
  const rest = range(0, x.rank).filter(a => a !== axis);
  return onImage.where(dy.mul(slope).sum(rest).cast('float32'), 0);
}

/** The positions in x of the elements of y along one axis, and their derivative with respect to the scale. */
function placesAlong(axis: number, scale: Expr, y: Expr, node: NodeView<Resized>) {
  const { inputs, attrs } = node;
  const [n, m] = [inputs[0], y].map(e => e.dims(axis, axis + 1).cast('float32'));
  const index = y
    .dims(axis, axis + 1)
    .iota()
    .cast('float32');
  const mode = attrs.string('coordinate_transformation_mode', 'half_pixel');
  const shift = mode === 'asymmetric' ? 0 : 0.5;
  if (!['half_pixel', 'half_pixel_symmetric', 'asymmetric'].includes(mode))
    node.unsupported(`a gradient for 'scales' and coordinate_transformation_mode '${mode}'`);
  const place = index.add(shift).div(scale).sub(shift);
  const moved = index.add(shift).div(scale.square()).neg();
  if (mode !== 'half_pixel_symmetric') return { place, moved };
  const missing = n!.sub(m!.div(scale)).mul(0.5);
  return { place: place.add(missing), moved: moved.add(m!.mul(0.5).div(scale.square())) };
}

/** Older models pass empty tensors for inputs they do not use. */
function present(e: Expr | undefined): Expr | undefined {
  return e?.extent(0) === 0 ? undefined : e;
}

// ---- sampling ----

/**
 * y = x at the positions in the grid, from -1 to 1: expressed as sums of neighbours whose weights depend on the grid.
 * Padding can be applied to each neighbour separately, as a position outside gets the same value.
 */
export const GridSample = expansion<readonly [x: Expr, grid: Expr]>(node => {
  const { g, attrs } = node;
  const [x, grid] = node.inputs;
  const n = x.rank - 2;
  const places = grid.reshape([0, -1, n]);
  const aligned = attrs.int('align_corners', 0) === 1;
  const mode = attrs.string('mode', 'linear').replace(/^bi/, '');
  const kind = (['nearest', 'cubic'] as const).find(k => k === mode) ?? 'linear';
  const outside = {
    zeros: zeroOutside,
    border: clampOutside,
    reflection: (a: Neighbours, extent: Expr) => reflectOutside(a, extent, aligned),
  }[attrs.string('padding_mode', 'zeros')]!;
  const axes = range(0, n).map(i => {
    const extent = x.dims(2 + i, 3 + i);
    const place = places.gather(g.scalar(n - 1 - i, 'int64'), 2);
    return outside(neighbours(kind, toElements(place, extent.cast(x.dtype), aligned)), extent);
  });
  return [interpolate(x, axes).reshape(g.vector([0, 0, grid.dims(1, -1)]))];
});

/** From -1 and 1 at the centres (or outer edges) of the first and last element to positions counted in elements. */
function toElements(place: Expr, extent: Expr, aligned: boolean): Expr {
  const scaled = place.add(1).mul(0.5);
  return aligned ? scaled.mul(extent.sub(1)) : scaled.mul(extent).sub(0.5);
}

/**
 * y = (x, y, ..., 1) @ theta^T at each position  =>  dtheta = dy^T @ (x, y, ..., 1); these are y for theta =
 * identity.
 */
export const AffineGrid: Rule<readonly [theta: Expr, size: Expr], readonly [Expr]> = ([dy], node) => {
  const { g, inputs, attrs } = node;
  const [theta, size] = inputs;
  const n = dy.rank - 2;
  return [
    () => {
      const identity = Float32Array.from({ length: n * (n + 1) }, (_, i) => (i % (n + 2) === 0 ? 1 : 0));
      const unmoved = g.tensor(Tensor.from('float32', [1, n, n + 1], identity)).cast(theta.dtype);
      const oneImage = g.ints([1]).concat([size.slice([1], [n + 2], [0])], 0);
      const places = unmoved
        .op('AffineGrid', [oneImage], { align_corners: attrs.int('align_corners', 0) })
        .reshape([-1, n]);
      const flat = dy.reshape([0, -1, n]).mT;
      return flat.matmul(places).concat([flat.sum([2], { keepdims: true })], 2);
    },
    null,
  ];
};

/** y = the sum of the blocks in the columns of x, each at its position  =>  dx = the blocks of dy, as columns. */
export const Col2Im: Rule<readonly [x: Expr, image: Expr, block: Expr], readonly [Expr]> = ([dy], node) => {
  const [x, , block] = node.inputs;
  const kernel = block.constant;
  const columns = () =>
    kernel ? windowColumns(dy, windowsOf(node, dy, undefined, kernel)) : gatheredColumns(dy, node);
  return [() => columns().reshapeLike(x), null, null];
};

/**
 * The same for a block whose extents are only known at run time: along each axis, element k of window l is gathered
 * from its position.
 */
function gatheredColumns(
  dy: Expr,
  { g, inputs: [, , block], attrs }: NodeView<readonly [Expr, Expr, Expr]>,
): Expr {
  const n = dy.rank - 2;
  const attr = (name: string, otherwise: number, count = n) =>
    attrs.ints(name) ?? Array<number>(count).fill(otherwise);
  const [strides, dilations, pads] = [attr('strides', 1), attr('dilations', 1), attr('pads', 0, 2 * n)];
  const padded = pads.some(p => p) ? dy.pad(g.ints(pads), g.ints(range(2, n + 2))) : dy;
  const blocks = range(0, n).reduce((e, i) => {
    const size = block.slice([i], [i + 1], [0]);
    const span = padded.dims(2 + i, 3 + i).sub(size.sub(1).mul(dilations[i]!).add(1));
    const elements = size.iota().mul(dilations[i]!).unsqueeze([1]);
    const windows = span.div(strides[i]!).add(1).iota().mul(strides[i]!);
    // The preceding axes are pairs of an element and a window already.
    return e.gather(elements.add(windows), 2 + 2 * i);
  }, padded);
  return blocks.transpose([0, 1, ...range(0, n).map(i => 2 + 2 * i), ...range(0, n).map(i => 3 + 2 * i)]);
}
