import { describe, it } from 'vitest';
import { checkVjp, floatsOf, ints, type VjpCase } from './vjp.js';

const reductions = 'Sum Mean Max Min Prod L1 L2 LogSum LogSumExp SumSquare'.split(' ').map(r => `Reduce${r}`);

/** Axes, which are known before the run, come as an input, or are left out. */
const forms: [string, number[] | null, VjpCase][] = [
  ['one axis', [1], { constants: [1] }],
  ['a negative axis', [-1], { constants: [1] }],
  ['two axes', [2, 0], { constants: [1] }],
  ['no axes given', null, {}],
  ['no axes in a list', [], { constants: [1] }],
  ['axes as an input', [0, -1], {}],
  ['one axis as an input, unknown extents', [1], { symbolic: true }],
  ['no axes as an input', [], {}],
];

describe.each(reductions)('%s', op => {
  describe.each([0, 1])('keepdims %i', keepdims => {
    it.each(forms)('%s', (_, axes, c) =>
      checkVjp(op, [[2, 3, 2], axes && ints(axes)], { ...c, attrs: { keepdims }, range: [0.5, 2] }),
    );
    it.each([false, true])('nothing to reduce (as an input: %s)', input =>
      checkVjp(op, [[2, 3], ints([])], {
        attrs: { keepdims, noop_with_empty_axes: 1 },
        constants: input ? [] : [1],
        range: [0.5, 2],
      }),
    );
  });
});

it.each(['ReduceL1', 'ReduceL2', 'ReduceSumSquare', 'ReduceLogSumExp', 'ReduceProd'])(
  '%s of either sign',
  op => checkVjp(op, [[3, 3], ints([0])], { constants: [1] }),
);

it('ReduceLogSumExp of large numbers', () =>
  checkVjp('ReduceLogSumExp', [floatsOf([300, 301, 302])], { step: 0.25, tolerance: 0.01 }));

it('ReduceProd with no, one and two zeros', () =>
  checkVjp('ReduceProd', [floatsOf([2, 3, 4, 0, 3, 4, 0, 0, 4], [3, 3]), ints([1])], {
    attrs: { keepdims: 0 },
    constants: [1],
  }));

describe.each([
  ['CumSum', 18],
  ['CumProd', 26],
])('%s', (op, opset) => {
  it.each([
    [0, 0, 0],
    [1, 0, 1],
    [1, 1, 0],
    [-1, 1, 1],
  ])('along axis %i, exclusive %i, reverse %i', (axis, exclusive, reverse) =>
    checkVjp(op, [[3, 4], ints([axis], [])], { opset, attrs: { exclusive, reverse }, constants: [1] }),
  );
});

it.each([
  [0, 0],
  [1, 0],
  [0, 1],
  [1, 1],
])('CumProd with zeros, exclusive %i, reverse %i', (exclusive, reverse) =>
  checkVjp('CumProd', [floatsOf([2, 0, 3, -1, 1, 0, 2, 0, 0, 3, 2, 1], [3, 4]), ints([1], [])], {
    opset: 26,
    attrs: { exclusive, reverse },
    constants: [1],
  }),
);
