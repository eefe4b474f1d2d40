import { describe, it } from 'vitest';
import type { AttrInit } from '../../src/ops/core/builder.js';
import { checkVjp } from './vjp.js';

type Case = [what: string, x: number[], attrs: AttrInit];

const windows: Case[] = [
  ['one axis', [2, 2, 7], { kernel_shape: [3], strides: [2] }],
  ['tiles', [2, 2, 4, 6], { kernel_shape: [2, 3], strides: [2, 3] }],
  ['tiles that leave elements over', [1, 2, 5, 4], { kernel_shape: [2, 2], strides: [2, 2] }],
  ['overlap', [2, 2, 4, 4], { kernel_shape: [3, 2] }],
  ['padding', [1, 2, 5, 4], { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] }],
  ['asymmetric padding', [1, 2, 4, 3], { kernel_shape: [3, 2], strides: [1, 2], pads: [0, 1, 2, 0] }],
  ['ceil_mode', [1, 1, 6, 5], { kernel_shape: [3, 2], strides: [2, 2], ceil_mode: 1 }],
  [
    'ceil_mode, padding',
    [1, 1, 6, 4],
    { kernel_shape: [3, 3], strides: [2, 3], pads: [1, 0, 0, 1], ceil_mode: 1 },
  ],
  ['SAME_UPPER', [1, 2, 5, 6], { kernel_shape: [3, 3], strides: [2, 2], auto_pad: 'SAME_UPPER' }],
  ['SAME_LOWER', [1, 1, 5, 4], { kernel_shape: [2, 3], auto_pad: 'SAME_LOWER' }],
  ['VALID', [1, 1, 5, 4], { kernel_shape: [2, 3], strides: [2, 1], auto_pad: 'VALID' }],
  ['three axes', [1, 2, 4, 3, 4], { kernel_shape: [2, 2, 3], strides: [2, 1, 1], pads: [0, 1, 1, 0, 0, 1] }],
];
const dilated: Case = [
  'dilations',
  [1, 1, 6, 7],
  { kernel_shape: [2, 3], strides: [2, 1], dilations: [3, 2], pads: [1, 0, 0, 1] },
];

describe.each<Case>([
  ...windows,
  dilated,
  ['column-major indices', [2, 2, 4, 5], { kernel_shape: [2, 2], storage_order: 1 }],
  ['column-major indices, three axes', [1, 2, 3, 2, 4], { kernel_shape: [2, 1, 2], storage_order: 1 }],
])('MaxPool: %s', (_, x, attrs) => {
  it.each([false, true])('hidden extents: %j', symbolic => checkVjp('MaxPool', [x], { attrs, symbolic }));
});

describe.each<Case>(windows)('AveragePool: %s', (_, x, attrs) => {
  it.each([
    [0, false],
    [1, false],
    [0, true],
    [1, true],
  ])('count_include_pad %i, hidden extents: %j', async (count_include_pad, symbolic) =>
    checkVjp('AveragePool', [x], { attrs: { ...attrs, count_include_pad }, symbolic, step: 0.5 }),
  );
});

it.each([false, true])('AveragePool: dilations, hidden extents: %j', symbolic =>
  checkVjp('AveragePool', [dilated[1]], { attrs: dilated[2], symbolic, step: 0.5, opset: 19 }),
);

describe.each(['GlobalAveragePool'])('%s', op => {
  it.each([
    [2, 3, 4],
    [2, 2, 3, 2],
    [1, 2, 2, 3, 2],
  ])('of %j', async (...x) => {
    await checkVjp(op, [x]);
    await checkVjp(op, [x], { symbolic: true });
  });
});
