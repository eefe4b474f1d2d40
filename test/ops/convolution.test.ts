import { describe, expect, it } from 'vitest';
import { Tensor } from '../../src/graph/tensor.js';
import type { AttrInit } from '../../src/ops/core/builder.js';
import { checkVjp, floatsOf, spread, vjpOf } from './vjp.js';

type Case = [what: string, x: number[], w: number[], attrs: AttrInit];

describe.each<Case>([
  ['one axis', [2, 2, 5], [3, 2, 3], {}],
  [
    'one axis, everything set',
    [1, 2, 9],
    [2, 1, 2],
    { strides: [3], dilations: [2], pads: [1, 2], group: 2 },
  ],
  ['1x1', [2, 3, 2, 3], [2, 3, 1, 1], {}],
  ['1x1 with stride', [1, 2, 4, 5], [2, 2, 1, 1], { strides: [2, 2] }],
  ['1x1, strides that leave nothing over', [2, 2, 4, 6], [3, 2, 1, 1], { strides: [2, 3] }],
  ['1x1, a stride along one axis of three', [2, 2, 1, 4, 2], [3, 2, 1, 1, 1], { strides: [1, 2, 1] }],
  ['padding', [2, 2, 4, 3], [2, 2, 3, 3], { pads: [1, 1, 1, 1] }],
  ['asymmetric padding', [1, 2, 4, 3], [2, 2, 3, 2], { pads: [0, 1, 2, 0] }],
  ['padding wider than the kernel', [1, 1, 2, 2], [2, 1, 2, 1], { pads: [2, 1, 3, 0] }],
  ['strides that leave elements over', [1, 2, 6, 5], [2, 2, 3, 2], { strides: [2, 2], pads: [1, 0, 0, 1] }],
  ['strides longer than the kernel', [1, 1, 9, 7], [2, 1, 2, 1], { strides: [4, 3] }],
  ['dilations', [1, 2, 6, 5], [2, 2, 2, 3], { dilations: [3, 2], pads: [0, 1, 1, 2] }],
  [
    'strides and dilations',
    [1, 1, 10, 8],
    [1, 1, 2, 2],
    { strides: [3, 2], dilations: [2, 3], pads: [1, 0, 1, 0] },
  ],
  ['groups', [2, 4, 4, 3], [6, 2, 2, 2], { group: 2 }],
  ['groups and padding', [2, 4, 4, 3], [6, 2, 3, 2], { group: 2, pads: [1, 0, 1, 1] }],
  ['groups and strides', [1, 4, 5, 4], [2, 2, 2, 2], { group: 2, strides: [2, 2] }],
  ['depthwise', [2, 3, 4, 4], [3, 1, 3, 3], { group: 3, pads: [1, 1, 1, 1] }],
  ['depthwise with a multiplier', [1, 2, 4, 4], [4, 1, 3, 2], { group: 2, strides: [2, 1] }],
  [
    'depthwise, everything set',
    [2, 2, 8, 7],
    [2, 1, 3, 2],
    { group: 2, strides: [2, 3], dilations: [1, 2], pads: [1, 0, 0, 1] },
  ],
  [
    'depthwise, strides longer than the kernel',
    [1, 2, 9, 7],
    [2, 1, 2, 1],
    { group: 2, strides: [4, 3], pads: [1, 0, 0, 0] },
  ],
  ['SAME_UPPER', [1, 1, 5, 6], [2, 1, 2, 3], { auto_pad: 'SAME_UPPER' }],
  ['SAME_UPPER with strides', [1, 1, 5, 6], [2, 1, 3, 3], { auto_pad: 'SAME_UPPER', strides: [2, 2] }],
  ['SAME_LOWER with strides', [1, 1, 5, 6], [2, 1, 4, 3], { auto_pad: 'SAME_LOWER', strides: [3, 2] }],
  ['VALID', [1, 1, 5, 4], [1, 1, 2, 2], { auto_pad: 'VALID', strides: [2, 1] }],
  ['three axes', [1, 2, 3, 4, 3], [2, 2, 2, 2, 2], { strides: [1, 2, 1], pads: [1, 0, 0, 0, 1, 0] }],
  ['three axes, stride 1', [1, 2, 3, 3, 2], [2, 1, 2, 3, 1], { group: 2, pads: [0, 1, 0, 1, 1, 0] }],
  ['three axes, all moved', [1, 3, 4, 3, 3], [1, 3, 3, 1, 2], { pads: [1, 0, 1, 0, 1, 0] }],
  // From eight channels on x is moved with its channels last.
  ['many channels', [2, 8, 4, 3], [2, 8, 3, 3], { pads: [1, 1, 1, 1] }],
  ['many channels, one axis', [1, 8, 6], [3, 8, 3], { dilations: [2], pads: [1, 0] }],
  [
    'many channels, dilations, asymmetric padding',
    [1, 8, 6, 5],
    [2, 8, 2, 3],
    { dilations: [3, 2], pads: [0, 1, 1, 2] },
  ],
  ['many channels, padding beyond the kernel', [1, 8, 3, 4], [2, 8, 2, 2], { pads: [3, 1, 2, 0] }],
  ['many channels, more of them written', [1, 8, 4, 3], [6, 8, 2, 1], { pads: [1, 0, 0, 0] }],
  [
    'many channels, strides that leave elements over',
    [2, 8, 8, 7],
    [2, 8, 3, 2],
    { strides: [3, 2], dilations: [1, 2], pads: [1, 0, 0, 1] },
  ],
  // More channels than pixels: one product of all samples.
  ['1x1, of one pixel', [3, 32, 1], [16, 32, 1], {}],
  ['few pixels', [2, 8, 2, 2], [8, 8, 3, 3], { pads: [1, 1, 1, 1] }],
  ['few pixels, strides', [2, 8, 3, 3], [8, 8, 3, 3], { pads: [1, 1, 1, 1], strides: [2, 2] }],
  ['few pixels and channels', [2, 2, 2], [32, 2, 9], { pads: [4, 4] }],
  ['many channels, SAME_LOWER, one axis', [1, 8, 6], [2, 8, 3], { strides: [2], auto_pad: 'SAME_LOWER' }],
  ['many channels, strides longer than the kernel', [1, 8, 9, 7], [1, 8, 2, 1], { strides: [4, 3] }],
  ['many channels, three axes', [1, 8, 3, 2, 3], [1, 8, 2, 2, 2], { pads: [1, 0, 0, 0, 1, 0] }],
])('Conv: %s', (_, x, w, attrs) => {
  const check = (symbolic?: number[], more = {}) =>
    checkVjp('Conv', [x, w, [w[0]!]], { attrs: { ...attrs, ...more }, symbolic, step: 0.5 });

  it('extents known', () => check());
  it('extents of x hidden', () => check([0]));
  it('all extents hidden', () => check([0, 1, 2], { kernel_shape: w.slice(2) }));
});

describe.each<Case>([
  ['one axis', [2, 2, 4], [2, 3, 3], {}],
  [
    'one axis, everything set',
    [1, 4, 4],
    [4, 1, 2],
    { strides: [3], dilations: [2], pads: [1, 2], group: 2, output_padding: [2] },
  ],
  ['asymmetric padding', [1, 2, 3, 4], [2, 2, 3, 2], { pads: [0, 1, 2, 0] }],
  ['strides', [2, 2, 3, 2], [2, 2, 2, 3], { strides: [2, 2], pads: [1, 0, 0, 1] }],
  ['strides longer than the kernel', [1, 1, 3, 2], [1, 2, 2, 1], { strides: [3, 2] }],
  [
    'output_padding',
    [1, 2, 3, 2],
    [2, 2, 2, 2],
    { strides: [3, 2], pads: [0, 1, 1, 0], output_padding: [2, 1] },
  ],
  [
    'many channels, output_padding',
    [1, 2, 3, 2],
    [2, 8, 2, 3],
    { strides: [3, 2], pads: [0, 1, 1, 0], output_padding: [2, 1] },
  ],
  ['groups', [2, 4, 3, 3], [4, 2, 2, 2], { group: 2, strides: [2, 1] }],
  ['SAME_UPPER', [1, 2, 3, 2], [2, 1, 3, 4], { strides: [2, 1], auto_pad: 'SAME_UPPER' }],
  ['SAME_LOWER', [1, 2, 3, 2], [2, 1, 3, 4], { strides: [2, 1], auto_pad: 'SAME_LOWER' }],
  ['VALID', [1, 1, 3, 2], [1, 1, 3, 2], { strides: [2, 1], auto_pad: 'VALID' }],
  ['three axes', [1, 2, 2, 3, 2], [2, 2, 2, 1, 2], { strides: [2, 1, 2] }],
])('ConvTranspose: %s', (_, x, w, attrs) => {
  const check = (symbolic?: number[], more = {}) =>
    checkVjp('ConvTranspose', [x, w, [w[1]! * Number(attrs.group ?? 1)]], {
      attrs: { ...attrs, ...more },
      symbolic,
      step: 0.5,
    });

  it('extents known', () => check());
  it('extents of x hidden', () => check([0]));
  it('all extents hidden', () => check([0, 1, 2], { kernel_shape: w.slice(2) }));
});

it.each<Case>([
  ['output_shape', [1, 1, 3, 3], [1, 1, 4, 3], { strides: [2, 2], output_shape: [7, 6] }],
  [
    'output_shape, SAME_UPPER',
    [1, 1, 3],
    [1, 1, 4],
    { strides: [2], output_shape: [7], auto_pad: 'SAME_UPPER' },
  ],
  [
    'output_shape, SAME_LOWER',
    [1, 1, 3],
    [1, 1, 4],
    { strides: [2], output_shape: [7], auto_pad: 'SAME_LOWER' },
  ],
  [
    'output_shape, output_padding',
    [1, 1, 3],
    [1, 1, 4],
    { strides: [2], output_shape: [7], output_padding: [1], auto_pad: 'SAME_UPPER' },
  ],
])('ConvTranspose: %s', (_, x, w, attrs) => checkVjp('ConvTranspose', [x, w], { attrs, step: 0.5 }));

describe('DeformConv', () => {
  // No offset is near a whole number, where interpolation has a kink.
  const check = (
    x: number[],
    w: number[],
    offset: number[],
    mask: number[] | null,
    attrs: AttrInit,
    symbolic?: number[],
  ) =>
    checkVjp('DeformConv', [x, w, spread(offset, [-0.9, -0.1], 7), [w[0]!], mask], {
      attrs,
      symbolic,
      opset: 22,
    });
  it('without mask', () => check([1, 2, 3, 4], [2, 2, 2, 2], [1, 8, 2, 3], null, {}));
  it('with everything', () =>
    check([2, 4, 4, 5], [2, 2, 2, 1], [2, 8, 2, 3], [2, 4, 2, 3], {
      group: 2,
      offset_group: 2,
      strides: [2, 2],
      dilations: [3, 1],
      pads: [1, 0, 1, 0],
    }));
  it('extents hidden', () =>
    check([1, 2, 3, 4], [2, 2, 2, 2], [1, 8, 4, 3], [1, 4, 4, 3], { pads: [1, 0, 1, 0] }, [0, 2, 3, 4]));
  it('takes the mean of both slopes where an element is hit', async () => {
    const x = floatsOf([1, 2, 5], [1, 1, 1, 3]);
    const inputs = [x, floatsOf([1], [1, 1, 1, 1]), Tensor.zeros('float32', [1, 2, 1, 3])];
    const [dOffset] = await vjpOf('DeformConv', inputs, floatsOf([1, 1, 1], [1, 1, 1, 3]), {
      wrt: [2],
      opset: 22,
    });
    expect(dOffset!.numbers()).toEqual([0, 0, 0, 1, 2, -1]);
  });
});

it('says that output_shape with unknown extents is not supported', () =>
  expect(
    checkVjp(
      'ConvTranspose',
      [
        [1, 1, 3],
        [1, 1, 2],
      ],
      { attrs: { output_shape: [3] }, symbolic: [0] },
    ),
  ).rejects.toThrow("No gradient for 'ConvTranspose' (node 'node') with 'output_shape' and an input"));

it('Conv without a bias', () =>
  checkVjp(
    'Conv',
    [
      [2, 1, 3, 3],
      [2, 1, 2, 2],
    ],
    { step: 0.5 },
  ));

it('says that a kernel of unknown extents is not supported', () =>
  expect(
    checkVjp(
      'Conv',
      [
        [1, 1, 3],
        [1, 1, 2],
      ],
      { symbolic: true },
    ),
  ).rejects.toThrow(
    "No gradient for 'Conv' (node 'node') with a kernel whose extents are not known before the run",
  ));

// Shifted copies of dy need zeros around it, which is one more Pad.
it.each([
  [5, 'cpu', 1],
  [6, 'cpu', 2],
  [5, 'cuda', 2],
] as const)(
  'the gradient of a kernel over images of %i rows on %s pads %i times',
  async (rows, provider, count) => {
    const [x, w] = [spread([2, 8, rows, 2]), spread([8, 8, 3, 3])];
    let pads = 0;
    await vjpOf('Conv', [x, w], spread([2, 8, rows, 2], [-1, 1], 5), {
      attrs: { pads: [1, 1, 1, 1] },
      wrt: [1],
      provider,
      written: ({ nodes }) => {
        pads = nodes.filter(node => node.opType === 'Pad').length;
      },
    });
    expect(pads).toBe(count);
  },
);
