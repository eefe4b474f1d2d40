import { describe, expect, it } from 'vitest';
import { Tensor } from '../../src/graph/tensor.js';
import type { AttrInit } from '../../src/ops/core/builder.js';
import { checkVjp, floatsOf, ints, vjpOf } from './vjp.js';

type Case = [what: string, x: number[], attrs: AttrInit];

const windows: Case[] = [
  ['one axis', [2, 2, 7], { kernel_shape: [3], strides: [2] }],
  ['tiles', [2, 2, 4, 6], { kernel_shape: [2, 3], strides: [2, 3] }],
  ['tiles that leave elements over', [1, 2, 5, 4], { kernel_shape: [2, 2], strides: [2, 2] }],
  [
    'tiles, the last of which reach beyond the end',
    [1, 2, 5, 4],
    { kernel_shape: [2, 3], strides: [2, 3], ceil_mode: 1 },
  ],
  [
    'tiles that begin before the first element',
    [1, 1, 5, 4],
    { kernel_shape: [2, 3], strides: [2, 3], pads: [1, 1, 0, 1] },
  ],
  ['tiles, SAME_LOWER', [1, 1, 5, 4], { kernel_shape: [2, 3], strides: [2, 3], auto_pad: 'SAME_LOWER' }],
  [
    'tiles, SAME_LOWER, ceil_mode',
    [1, 1, 5, 4],
    { kernel_shape: [2, 3], strides: [2, 3], auto_pad: 'SAME_LOWER', ceil_mode: 1 },
  ],
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

describe.each<Case>([...windows, dilated])('LpPool: %s', (_, x, attrs) => {
  it.each([
    [1, false],
    [2, false],
    [3, false],
    [2, true],
  ])('p = %i, hidden extents: %j', (p, symbolic) =>
    checkVjp('LpPool', [x], { attrs: { ...attrs, p }, symbolic, range: [-2, 2.5] }),
  );
});

describe.each(['GlobalAveragePool', 'GlobalMaxPool', 'GlobalLpPool'])('%s', op => {
  it.each([[[2, 3, 4]], [[2, 2, 3, 2]], [[1, 2, 2, 3, 2]]])('of %j', async x => {
    await checkVjp(op, [x]);
    await checkVjp(op, [x], { symbolic: true });
  });
});

it('GlobalLpPool: p = 3', () => checkVjp('GlobalLpPool', [[2, 2, 5]], { attrs: { p: 3 } }));

describe('MaxUnpool', () => {
  const indices = ints([5, 7, 13, 15, 16, 18, 27, 30], [1, 2, 2, 2]);
  const attrs = { kernel_shape: [2, 2], strides: [2, 2] };
  it.each([false, true])('hidden extents: %j', symbolic =>
    checkVjp('MaxUnpool', [[1, 2, 2, 2], indices], { attrs, symbolic }),
  );
  it('output_shape', () =>
    checkVjp('MaxUnpool', [[1, 2, 2, 2], indices, ints([1, 2, 5, 5])], { attrs, constants: [2] }));
});

describe('where elements are equal', () => {
  it.each<[op: string, attrs: AttrInit, dx: number[]]>([
    ['MaxPool', { kernel_shape: [2], strides: [2] }, [1, 0, 1, 0]],
    ['MaxPool', { kernel_shape: [3], strides: [1] }, [1, 1, 0, 0]],
    ['GlobalMaxPool', {}, [1, 0, 0, 0]],
    ['LpPool', { kernel_shape: [2], strides: [2] }, [0, 0, 0, 0]],
    ['GlobalLpPool', {}, [0, 0, 0, 0]],
  ])('%s %j', async (op, attrs, expected) => {
    const size = op.startsWith('Global') ? 1 : 2;
    const [dx] = await vjpOf(
      op,
      [Tensor.zeros('float32', [1, 1, 4])],
      floatsOf(Array(size).fill(1), [1, 1, size]),
      { attrs },
    );
    expect(dx!.numbers()).toEqual(expected);
  });
});
