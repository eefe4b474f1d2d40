import { describe, it } from 'vitest';
import { type AttrInit, float } from '../../src/ops/core/builder.js';
import { checkVjp, floatsOf, ints } from './vjp.js';

describe.each(['avg', 'max'])('RoiAlign, %s', mode => {
  // Inside the image, over its border, far outside, and thin.
  const rois = floatsOf(
    [0.3, 0.4, 3.1, 2.9, -1.7, -0.8, 2.2, 6.1, 7.2, 8.3, 9.1, 9.7, 1.2, 1.3, 1.9, 1.75],
    [4, 4],
  );
  const inputs = [[2, 2, 4, 5], rois, ints([0, 1, 1, 0])];
  it.each<AttrInit>([
    { sampling_ratio: 1 },
    { sampling_ratio: 2, output_height: 2, output_width: 3 },
    { output_height: 2 },
    { output_width: 2, spatial_scale: float(0.7) },
    { output_height: 2, coordinate_transformation_mode: 'output_half_pixel' },
  ])('%j', async attrs => {
    await checkVjp('RoiAlign', inputs, { attrs: { ...attrs, mode }, step: 2e-3, range: [-1, 1.5] });
    await checkVjp('RoiAlign', inputs, {
      attrs: { ...attrs, mode },
      step: 2e-3,
      range: [-1, 1.5],
      symbolic: true,
    });
  });
});

it.each(['avg', 'max'])('RoiAlign, %s: a region of no width', mode =>
  checkVjp('RoiAlign', [[1, 1, 3, 3], floatsOf([1, 0, 1, 2], [1, 4]), ints([0])], {
    attrs: { mode },
    wrt: [0],
  }),
);

it.each([false, true])('MaxRoiPool, hidden extents: %j', symbolic => {
  const rois = floatsOf([0, 0, 0, 4, 3, 1, 1, 1, 2, 3, 1, 3, 2, 8, 9, 0, 7, 8, 9, 9], [4, 5]);
  const attrs = { pooled_shape: [3, 2], spatial_scale: float(0.8) };
  return checkVjp('MaxRoiPool', [[2, 2, 4, 5], rois], { attrs, wrt: [0], symbolic });
});
