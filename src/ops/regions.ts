/** Pools over regions of images. */
import type { Expr } from './core/expr.js';
import { expansion, type NodeView } from './core/rule.js';
import { clampOutside, neighbours } from './core/sampling.js';
import { vector } from './core/window.js';

type Regions = readonly [x: Expr, rois: Expr, batchIndices: Expr];

/**
 * y = mean over the sample points of each bin of a region, or maximum over them and their four neighbours, of the
 * neighbours' weighted elements: written so, with one index into x for every pair of neighbours of rows and columns.
 */
export const RoiAlign = expansion<Regions>(node => {
  const { g, attrs } = node;
  const [x, , batchIndices] = node.inputs;
  const [rows, columns] = [samplePoints(0, node), samplePoints(1, node)];
  const [down, across] = [(e: Expr) => e.reshape([0, -1, 1]), (e: Expr) => e.reshape([0, 1, -1])];
  const [height, width] = [x.dims(2, 3), x.dims(3, 4)];
  const first = batchIndices.cast('int64').mul(height).reshape([-1, 1, 1]);
  const index = down(rows.at).add(first).mul(width).add(across(columns.at));
  const pixels = x.transpose([1, 0, 2, 3]).reshape([0, -1]).gather(index, 1);
  const isMax = attrs.string('mode', 'avg') === 'max';
  const values = pixels.mul(down(rows.weights).mul(across(columns.weights)));
  const counted = down(rows.counted).and(across(columns.counted));
  const split = counted
    .where(values, isMax ? -Infinity : 0)
    .reshape(vector(g, [0, 0, 2, rows.bins, rows.perBin, 2, columns.bins, columns.perBin]));
  const over = [2, 4, 5, 7];
  const points = rows.points.mul(columns.points).reshape([-1, 1, 1]);
  const result = isMax
    ? points.greater(0).where(split.max(over), 0)
    : split.sum(over).div(points.maximum(1).cast(x.dtype));
  return [result.transpose([1, 0, 2, 3])];
});

/**
 * The neighbours of the sample points of all bins along one axis of space, [R, 2 bins perBin]; which of the
 * points count, and how many of them a bin has, per region.
 */
function samplePoints(axis: 0 | 1, node: NodeView<Regions>) {
  const { g, attrs } = node;
  const [x, rois] = node.inputs;
  const bins = attrs.int(axis ? 'output_width' : 'output_height', 1);
  const ratio = attrs.int('sampling_ratio', 0);
  const isShifted = attrs.string('coordinate_transformation_mode', 'half_pixel') === 'half_pixel';
  const side = (column: number) =>
    rois
      .slice([column], [column + 1], [1])
      .mul(attrs.float('spatial_scale', 1))
      .sub(isShifted ? 0.5 : 0);
  const start = side(1 - axis);
  const length = side(3 - axis).sub(start);
  const bin = (isShifted ? length : length.maximum(1)).div(bins);
  const points = ratio > 0 ? bin.full(ratio, 'int64') : bin.ceil().cast('int64').maximum(0);
  const perBin = ratio > 0 ? g.ints([ratio]) : points.max([0, 1]).maximum(1).reshape([1]);
  const count = (n: Expr) => g.scalar(0, 'int64').op('Range', [n.squeeze([0]), 1]);
  // [R, bins, perBin]
  const point = count(perBin).reshape([1, 1, -1]);
  const fraction = point
    .cast(x.dtype)
    .add(0.5)
    .div(points.maximum(1).cast(x.dtype).unsqueeze([2]));
  const inBins = count(g.ints([bins]))
    .cast(x.dtype)
    .reshape([1, -1, 1])
    .add(fraction);
  const place = start
    .unsqueeze([2])
    .add(inBins.mul(bin.unsqueeze([2])))
    .reshape([0, -1]);
  const extent = x.dims(2 + axis, 3 + axis);
  const inside = place.greaterOrEqual(-1).and(place.lessOrEqual(extent.cast(x.dtype)));
  const onImage = place.op('Clip', [0, extent.sub(1).cast(x.dtype).squeeze([0])]);
  const { at, weights } = clampOutside(neighbours('linear', onImage), extent);
  const counted = point
    .less(points.unsqueeze([2]))
    .expand([1, bins, 1])
    .reshape([0, 1, -1]);
  return {
    at,
    weights: weights.mul(inside.indicator(weights).unsqueeze([1])),
    counted: counted.expand([1, 2, 1]),
    points,
    bins,
    perBin,
  };
}
