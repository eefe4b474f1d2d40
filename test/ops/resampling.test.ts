import { describe, expect, it } from 'vitest';
import { type AttrInit, float } from '../../src/ops/core/builder.js';
import { checkVjp, floatsOf, ints, type VjpCase } from './vjp.js';

describe('Resize', () => {
  const modes: AttrInit[] = [
    { mode: 'nearest' },
    { mode: 'linear' },
    { mode: 'cubic' },
    { mode: 'cubic', exclude_outside: 1 },
    { mode: 'linear', antialias: 1 },
    { mode: 'cubic', antialias: 1 },
  ];
  const places = [
    'half_pixel',
    'asymmetric',
    'align_corners',
    'pytorch_half_pixel',
    'half_pixel_symmetric',
    'tf_crop_and_resize',
  ];
  const cases = modes.flatMap(m => places.map(p => ({ ...m, coordinate_transformation_mode: p })));

  describe.each(cases)('%j', attrs => {
    const region =
      attrs.coordinate_transformation_mode === 'tf_crop_and_resize'
        ? floatsOf([0, 0, 0.1, -0.2, 1, 1, 0.7, 1.1])
        : null;
    const check = (
      scales: number[] | null,
      sizes: number[] | null,
      symbolic?: number[],
      constants = [1, 2, 3],
    ) =>
      checkVjp('Resize', [[1, 2, 4, 3], region, scales && floatsOf(scales), sizes && ints(sizes)], {
        attrs,
        wrt: [0],
        constants,
        symbolic,
        step: 0.5,
      });
    it('scales', () => check([1, 1, 1.7, 0.6], null));
    it('scales, extents hidden', () => check([1, 1, 1.7, 0.6], null, [0]));
    it('sizes', () => check(null, [1, 2, 3, 5]));
    it('sizes known at run time, extents hidden', () => check(null, [1, 2, 3, 5], [0], []));
  });

  it.each([
    ['asymmetric', 'floor'],
    ['half_pixel', 'round_prefer_floor'],
    ['half_pixel', 'round_prefer_ceil'],
    ['half_pixel', 'ceil'],
    ['asymmetric', 'round_prefer_ceil'],
  ])('nearest, whole scales: %s, %s', async (coordinate_transformation_mode, nearest_mode) => {
    const attrs = { coordinate_transformation_mode, nearest_mode };
    const inputs = [[1, 2, 2, 3], null, floatsOf([1, 1, 2, 3])];
    await checkVjp('Resize', inputs, { attrs, wrt: [0], constants: [2], step: 0.5 });
    await checkVjp('Resize', inputs, { attrs, wrt: [0], constants: [2], step: 0.5, symbolic: [0] });
  });

  it.each<[string, number[] | null, number[] | null]>([
    ['a scale of 1', [1, 1, 1, 1.7], null],
    ['an extent as it was', null, [1, 2, 4, 5]],
  ])('a crop, %s along an axis, and a number where it is off the image', async (_, scales, sizes) => {
    const region = floatsOf([0, 0, 0.1, -0.2, 1, 1, 0.7, 1.1]);
    const attrs = {
      mode: 'linear',
      coordinate_transformation_mode: 'tf_crop_and_resize',
      extrapolation_value: float(2),
    };
    const inputs = [[1, 2, 4, 3], region, scales && floatsOf(scales), sizes && ints(sizes)];
    await checkVjp('Resize', inputs, { attrs, wrt: [0], constants: [1, 2, 3], step: 0.5 });
    await checkVjp('Resize', inputs, { attrs, wrt: [0], constants: [1, 2, 3], step: 0.5, symbolic: [0] });
  });

  it('one axis', () =>
    checkVjp('Resize', [[2, 2, 4], null, floatsOf([1, 1, 1.5])], {
      attrs: { mode: 'linear' },
      wrt: [0],
      step: 0.5,
    }));
  it('three axes', () =>
    checkVjp('Resize', [[1, 1, 2, 3, 2], null, floatsOf([1, 1, 1.5, 2, 2.5])], {
      attrs: { mode: 'linear' },
      wrt: [0],
      step: 0.5,
    }));
  it('listed axes', () =>
    checkVjp('Resize', [[2, 2, 3, 2], null, null, ints([3, 5])], {
      attrs: { mode: 'cubic', axes: [-1, 2] },
      wrt: [0],
      step: 0.5,
    }));
  it('batch and channels', () =>
    checkVjp('Resize', [[2, 3, 2, 2], null, floatsOf([2, 0.7, 1, 2])], { wrt: [0], step: 0.5 }));
  it('empty tensors in the place of unused inputs', () =>
    checkVjp('Resize', [[1, 1, 3, 3], floatsOf([]), floatsOf([]), ints([1, 1, 5, 4])], {
      attrs: { mode: 'linear' },
      wrt: [0],
      constants: [1, 2, 3],
      step: 0.5,
    }));

  describe('gradient for scales', () => {
    const inputs = [[1, 2, 4, 5], null, floatsOf([1, 1, 0.6, 1.7])];
    it.each(['half_pixel', 'half_pixel_symmetric', 'asymmetric'])(
      '%s',
      async coordinate_transformation_mode => {
        const attrs = { mode: 'linear', coordinate_transformation_mode };
        const check = (symbolic?: number[]) =>
          checkVjp('Resize', [[1, 4, 5], null, floatsOf([0.7, 1.7])], {
            attrs: { ...attrs, axes: [1, 2] },
            wrt: [2],
            step: 1e-3,
            symbolic,
          });
        await check();
        await check([0]);
      },
    );
    it.each<AttrInit>([
      { mode: 'cubic' },
      { mode: 'linear', antialias: 1 },
      { mode: 'linear', coordinate_transformation_mode: 'align_corners' },
    ])('says that %j is not supported', attrs =>
      expect(checkVjp('Resize', inputs, { attrs, wrt: [2] })).rejects.toThrow("with a gradient for 'scales'"),
    );
  });

  describe('gradient for roi', () => {
    const crop = { coordinate_transformation_mode: 'tf_crop_and_resize', extrapolation_value: float(10) };
    const attrs = { mode: 'linear', axes: [2, 3], ...crop };
    const check = (region: number[], sizes: number[], c: VjpCase = {}) =>
      checkVjp('Resize', [[2, 2, 5, 4], floatsOf(region), null, ints(sizes)], {
        attrs,
        wrt: [0, 1],
        step: 1e-3,
        ...c,
      });
    it.each([false, true])('between elements (extents hidden: %s)', async hidden => {
      const symbolic = hidden ? [0, 1] : undefined;
      await check([0.11, 0.2, 0.63, 0.87], [4, 3], { symbolic });
      await check([0.63, 0.2, 0.11, 0.37], [3, 2], { symbolic });
    });
    it('some of it outside, where y is another number', () => check([-0.3, 0.2, 1.3, 1.4], [6, 5]));
    it('of an axis that keeps its extent, which the runtime does not crop', () =>
      check([0.15, 0.2, 0.83, 0.87], [3, 4]));
    it('of one element', () => check([0.2, 0.1, 0.5, 0.9], [1, 3]));
    it('of all axes, by scales', () =>
      checkVjp('Resize', [[2, 3, 4], floatsOf([0, 0, 0.15, 1, 1, 0.8]), floatsOf([1, 1, 1.5])], {
        attrs: { mode: 'linear', ...crop },
        wrt: [0, 1],
        cotangents: [0],
        constants: [2],
        step: 1e-3,
        // The first axes end where their last elements are: a step beyond is outside.
        only: { 1: [2, 5] },
      }));
    it('has none for nearest-neighbour mode', () =>
      expect(
        check([0.11, 0.2, 0.63, 0.87], [4, 3], { attrs: { ...attrs, mode: 'nearest' } }),
      ).rejects.toThrow('No gradient arrives'));
    it('says that cubic interpolation is not supported', () =>
      expect(check([0.11, 0.2, 0.63, 0.87], [4, 3], { attrs: { ...attrs, mode: 'cubic' } })).rejects.toThrow(
        "with a gradient for 'roi'",
      ));
  });

  describe.each(['not_larger', 'not_smaller'])('keep_aspect_ratio_policy %s', keep_aspect_ratio_policy => {
    it.each(['nearest', 'linear', 'cubic'])('%s', async mode => {
      const attrs = { mode, keep_aspect_ratio_policy, axes: [2, 3] };
      const inputs = [[1, 2, 3, 4], null, null, ints([5, 6])];
      await checkVjp('Resize', inputs, { attrs, wrt: [0], step: 0.5 });
      await checkVjp('Resize', inputs, { attrs, wrt: [0], step: 0.5, symbolic: [0] });
    });
    it('is not supported along the batch', () =>
      expect(
        checkVjp('Resize', [[1, 2, 3, 4], null, null, ints([1, 2, 5, 6])], {
          attrs: { keep_aspect_ratio_policy },
          wrt: [0],
        }),
      ).rejects.toThrow("No gradient for 'Resize' (node 'node') with 'keep_aspect_ratio_policy'"));
  });
});

describe('GridSample', () => {
  const modes = ['linear', 'cubic'];
  const paddings = ['zeros', 'border', 'reflection'];
  const cases = modes.flatMap(mode =>
    paddings.flatMap(padding_mode => [0, 1].map(align_corners => ({ mode, padding_mode, align_corners }))),
  );
  // Places inside and outside, none of them near an element, where interpolation has a kink.
  const grid = floatsOf([-0.83, 0.31, 0.42, -0.27, 1.63, 0.1, -1.71, 2.44], [1, 2, 2, 2]);

  it.each(cases)('%j', async attrs => {
    await checkVjp('GridSample', [[1, 2, 4, 3], grid], { attrs, opset: 20 });
    await checkVjp('GridSample', [[1, 2, 4, 3], grid], { attrs, opset: 20, symbolic: true });
  });
  it.each(paddings)('nearest, %s', padding_mode =>
    checkVjp('GridSample', [[1, 2, 4, 3], grid], {
      attrs: { mode: 'nearest', padding_mode },
      opset: 20,
      wrt: [0],
    }),
  );
  it.each(['bilinear', 'bicubic'])('%s, as older models name it', mode =>
    checkVjp('GridSample', [[1, 1, 4, 3], grid], { attrs: { mode } }),
  );
  it.each(paddings)('three axes, %s', padding_mode =>
    checkVjp(
      'GridSample',
      [
        [2, 1, 2, 3, 2],
        floatsOf([-0.8, 0.3, 0.4, -0.2, 1.6, 0.1, -1.7, 2.4, 0.7, -0.4, -1.2, 0.3], [2, 1, 1, 2, 3]),
      ],
      { attrs: { padding_mode }, opset: 20 },
    ),
  );
  it('one element along an axis', () =>
    checkVjp('GridSample', [[1, 1, 1, 3], grid], {
      attrs: { padding_mode: 'reflection', align_corners: 1 },
      opset: 20,
    }));
});

describe.each([0, 1])('AffineGrid, align_corners %i', align_corners => {
  it.each([
    [
      [2, 2, 3],
      [2, 3, 4, 5],
    ],
    [
      [1, 3, 4],
      [1, 1, 2, 3, 2],
    ],
  ])('%j', async (theta, size) => {
    await checkVjp('AffineGrid', [theta, ints(size)], {
      attrs: { align_corners },
      opset: 20,
      constants: [1],
    });
    await checkVjp('AffineGrid', [theta, ints(size)], {
      attrs: { align_corners },
      opset: 20,
      symbolic: true,
    });
  });
});

describe('Col2Im', () => {
  it.each<[x: number[], image: number[], block: number[], attrs: AttrInit]>([
    [[2, 8, 6], [3, 4], [2, 2], {}],
    [[1, 6, 9], [5, 4], [3, 2], { strides: [2, 1], pads: [1, 0, 1, 0] }],
    [[1, 4, 8], [6, 5], [2, 2], { dilations: [2, 3], pads: [0, 1, 0, 0], strides: [1, 2] }],
  ])('%j %j %j %j', async (x, image, block, attrs) => {
    await checkVjp('Col2Im', [x, ints(image), ints(block)], { attrs, constants: [1, 2], step: 0.5 });
    await checkVjp('Col2Im', [x, ints(image), ints(block)], {
      attrs,
      constants: [2],
      step: 0.5,
      symbolic: true,
    });
    await checkVjp('Col2Im', [x, ints(image), ints(block)], { attrs, step: 0.5 });
  });

  it('with three axes, of extents known only at run time', () =>
    checkVjp('Col2Im', [[1, 16, 12], ints([3, 4, 3]), ints([2, 2, 2])], { step: 0.5, symbolic: true }));
});
