/** Pools over regions of images. */
import type { Expr } from './core/expr.js';
import { expansion, type NodeView } from './core/rule.js';
import { clampOutside, neighbours } from './core/sampling.js';

type Regions = readonly [x: Expr, rois: Expr, batchIndices: Expr];
/** A spatial axis: rows or columns. */
type Axis = 0 | 1;

/**
 * y = mean over the sample points of each bin of a region, each the weighted sum of its neighbours, or (mode
 * "max") the largest of all weighted neighbours: every neighbour along one axis with every one along the other.
 */
export const RoiAlign = expansion<Regions>(node => {
  const { g, attrs } = node;
  const [x, , batchIndices] = node.inputs;
  const [rows, columns] = [samplePoints(0, node), samplePoints(1, node)];
  const [down, across] = [(e: Expr) => e.reshape([0, -1, 1]), (e: Expr) => e.reshape([0, 1, -1])];
  const image = batchIndices.cast('int64').mul(x.dims(2, 3)).reshape([-1, 1, 1]);
  const index = image.add(down(rows.at)).mul(x.dims(3, 4)).add(across(columns.at));
  const pixels = x.transpose([1, 0, 2, 3]).reshape([0, -1]).gather(index, 1);
  const values = pixels.mul(down(rows.weights).mul(across(columns.weights)));
  const counted = down(rows.counted).and(across(columns.counted));
  const isMax = attrs.string('mode', 'avg') === 'max';
  const split = counted
    .where(values, isMax ? -Infinity : 0)
    .reshape(g.vector([0, 0, ...rows.axes, ...columns.axes]));
  const points = rows.points.mul(columns.points).reshape([-1, 1, 1]);
  const inBin = [2, 4, 5, 7];
  const y = isMax
    ? points.greater(0).where(split.max(inBin), 0)
    : split.sum(inBin).div(points.maximum(1).cast(x.dtype));
  return [y.transpose([1, 0, 2, 3])];
});

/** The sample points of all bins along one axis: R regions, k neighbours. */
type SamplePoints = {
  /** The neighbours' positions and weights, and whether they are valid: [R, k, bins * points]. */
  at: Expr;
  weights: Expr;
  counted: Expr;
  /** Number of points per bin of each region: [R, 1]. */
  points: Expr;
  /** The extents k, bins and points of the last axes. */
  axes: (number | Expr)[];
};

function samplePoints(axis: Axis, node: NodeView<Regions>): SamplePoints {
  const { g, attrs, inputs } = node;
  const [x] = inputs;
  const { start, bin, bins } = binsOf(axis, node);
  const ratio = attrs.int('sampling_ratio', 0);
  const points = ratio > 0 ? bin.full(ratio, 'int64') : bin.cast(x.dtype).ceil().cast('int64').maximum(0);
  const most = ratio > 0 ? g.ints([ratio]) : points.max([0]).maximum(1);
  const inBin = most.iota().reshape([1, 1, -1]);
  const atBin = g.ints([bins]).iota().reshape([1, -1, 1]).cast(bin.dtype);
  const fraction = inBin
    .cast(bin.dtype)
    .add(0.5)
    .div(points.maximum(1).cast(bin.dtype).unsqueeze([2]));
  const place = start.add(bin.mul(atBin.add(fraction).reshape([0, -1])));
  const extent = x.dims(2 + axis, 3 + axis);
  const end = extent.cast(place.dtype);
  const isInside = place.greaterOrEqual(-1).and(place.lessOrEqual(end)).unsqueeze([1]);
  const onImage = place.maximum(0).minimum(end.sub(1));
  const kind = attrs.string('mode', 'avg') === 'max' ? 'corners' : 'linear';
  const near = clampOutside(neighbours(kind, onImage), extent);
  const counted = inBin
    .less(points.unsqueeze([2]))
    .expand([1, bins, 1])
    .reshape([0, 1, -1]);
  return {
    at: near.at,
    weights: near.weights.mul(isInside.indicator(place)).cast(x.dtype),
    counted: counted.expand([1, near.count, 1]),
    points,
    axes: [near.count, bins, most],
  };
}

/**
 * Where the bins of each region start along one axis, and how long they are: [R, 1], in float64, so that points at
 * equal distances from elements get exactly equal weights, which ties of a maximum depend on.
 */
function binsOf(axis: Axis, { attrs, inputs: [, rois] }: NodeView<Regions>) {
  const bins = attrs.int(axis ? 'output_width' : 'output_height', 1);
  const shifted = attrs.string('coordinate_transformation_mode', 'half_pixel') === 'half_pixel';
  const side = (column: number) => {
    const scaled = rois
      .slice([column], [column + 1], [1])
      .cast('float64')
      .mul(attrs.float('spatial_scale', 1));
    return shifted ? scaled.sub(0.5) : scaled;
  };
  const start = side(1 - axis);
  const length = side(3 - axis).sub(start);
  return { start, bin: (shifted ? length : length.maximum(1)).div(bins), bins };
}

/** y = the largest element of each bin of a region: first along the columns of each row, then along the rows. */
export const MaxRoiPool = expansion<readonly [x: Expr, rois: Expr]>(node => {
  const [x, rois] = node.inputs;
  const images = x.gather(rois.slice([0], [1], [1]).squeeze([1]).cast('int64'));
  const inRows = insideBins(0, node).unsqueeze([1, 4]);
  const inColumns = insideBins(1, node).unsqueeze([1, 2]);
  const largest = (mask: Expr, e: Expr, axis: number) => mask.where(e, -Infinity).max([axis]);
  const perRow = largest(inColumns, images.unsqueeze([3]), 4);
  const y = largest(inRows, perRow.unsqueeze([2]), 3);
  return [y.equal(-Infinity).where(0, y)];
});

/** Which elements along one axis each bin of each region holds: booleans [R, bins, extent]. */
function insideBins(
  axis: Axis,
  { g, attrs, inputs: [x, rois] }: NodeView<readonly [x: Expr, rois: Expr]>,
): Expr {
  const bins = attrs.ints('pooled_shape')![axis]!;
  const side = (column: number) => {
    const scaled = rois.slice([column], [column + 1], [1]).mul(attrs.float('spatial_scale', 1));
    return scaled.add(0.5).floor().cast('int64');
  };
  const start = side(2 - axis);
  const length = side(4 - axis)
    .sub(start)
    .add(1)
    .maximum(1)
    .cast(x.dtype)
    .div(bins);
  const bin = g.ints([bins]).iota().cast(x.dtype);
  const [from, to] = [length.mul(bin).floor(), length.mul(bin.add(1)).ceil()];
  const [first, end] = [from, to].map(e => e.cast('int64').add(start).unsqueeze([2]));
  const at = x.dims(2 + axis, 3 + axis).iota();
  return at.greaterOrEqual(first!).and(at.less(end!));
}
