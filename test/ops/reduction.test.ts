import { describe, it } from 'vitest';
import type { DType } from '../../src/graph/dtype.js';
import { Graph, Model, Node, Value } from '../../src/graph/ir.js';
import { toAttrs } from '../../src/ops/core/builder.js';
import { checkModel, checkVjp, floatsOf, ints, spread, type VjpCase } from './vjp.js';

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
      checkVjp(op, [[2, 3, 2], axes && ints(axes)], {
        ...c,
        attrs: { keepdims },
        range: [0.5, 2],
        tolerance: 2e-4,
      }),
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
  checkVjp('ReduceLogSumExp', [floatsOf([300, 301, 302])], { step: 1 / 16, tolerance: 5e-4 }));

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

it('a reduction to a number of axes that is not known before the run', async () => {
  const input = (name: string, dtype: DType, shape: number[]) =>
    new Value(name, { kind: 'tensor', dtype, shape });
  const [x, axes, b] = [
    input('x', 'float32', [2, 3, 2]),
    input('axes', 'int64', [2]),
    input('b', 'float32', [3]),
  ];
  const [mean, y] = [new Value('mean'), new Value('y')];
  const graph = new Graph('test');
  graph.inputs = [x, axes, b];
  graph.nodes = [
    new Node('ReduceMean', [x, axes], [mean], toAttrs({ keepdims: 0 })),
    new Node('Mul', [mean, b], [y]),
  ];
  graph.outputs = [new Value('y')];
  const model = new Model(graph);
  model.opsetImports = new Map([['', 18]]);
  await checkModel(model, [x, axes, b], [y], [spread([2, 3, 2]), ints([2, 0]), spread([3])]);
});
