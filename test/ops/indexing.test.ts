import { describe, expect, it } from 'vitest';
import { Graph, Model, Node, Value } from '../../src/graph/ir.js';
import { numberToHalf, Tensor } from '../../src/graph/tensor.js';
import { gradients as gradientsOf } from '../../src/runtime/gradients.js';
import { Sketch } from '../sample.js';
import { checkModel, checkVjp, floatsOf, type Input, ints, spread, type VjpCase } from './vjp.js';

/** Checks with known extents and with hidden ones. */
async function check(opType: string, inputs: readonly Input[], c: VjpCase = {}): Promise<void> {
  await checkVjp(opType, inputs, c);
  await checkVjp(opType, inputs, { ...c, symbolic: true });
}

describe('reading', () => {
  it.each([
    ['a scalar', ints([1], [])],
    ['some, one twice', ints([2, 0, 2])],
    ['a matrix, from the end', ints([-1, 0, 1, -1], [2, 2])],
  ])('Gather: %s', async (_, indices) => {
    for (const axis of [0, 1, -1]) await check('Gather', [[3, 4, 3], indices], { attrs: { axis } });
  });
  it('Gather of a vector', () => check('Gather', [[4], ints([3, 1, 3, 3])]));
  it.each([0, 1])('GatherElements along %i', axis =>
    check('GatherElements', [[3, 3], ints([0, -1, 1, 1, 2, 1], [2, 3])], { attrs: { axis } }),
  );
  it('GatherND', async () => {
    await check('GatherND', [[3, 2, 2], ints([0, 1, 2, -1, 0, 1], [3, 2])]);
    await check('GatherND', [[3, 2], ints([2, 0, 2], [3, 1])]);
    await check('GatherND', [[2, 3, 2], ints([1, 0], [2, 1])], { attrs: { batch_dims: 1 } });
  });

  it.each([
    [1, 1],
    [-1, 0],
  ])('TopK along %i, largest = %i', async (axis, largest) => {
    const c = { attrs: { axis, largest }, outputs: 2, wrt: [0] };
    await check('TopK', [[3, 4], ints([2])], c);
    await check('TopK', [[3, 4], ints([2])], { ...c, opset: 24 });
  });
  it('Unique', async () => {
    await check('Unique', [[2, 3]]);
    await check('Unique', [[2, 3]], { attrs: { sorted: 0 }, outputs: 2 });
    await check('Unique', [[2, 3, 2]], { attrs: { axis: -2 } });
  });
});

const reductions = ['none', 'add', 'mul', 'max', 'min'];

describe.each(reductions)('writing with reduction %s', reduction => {
  it.each([0, 1])('ScatterElements along %i', axis =>
    check('ScatterElements', [[3, 3], ints([0, -1, 1, 2, 1, 0], [2, 3]), [2, 3]], {
      attrs: { axis, reduction },
    }),
  );
  it('ScatterND', async () => {
    await check('ScatterND', [[3, 2, 2], ints([0, 1, 2, -1], [2, 2]), [2, 2]], { attrs: { reduction } });
    await check('ScatterND', [[3, 2], ints([2, 0], [2, 1]), [2, 2]], { attrs: { reduction } });
  });
  if (reduction === 'none') return;
  it('with places that repeat', async () => {
    await check('ScatterElements', [[4], ints([1, 3, 1, 1]), [4]], { attrs: { reduction } });
    await check('ScatterND', [[4], ints([1, 3, 1, 1], [4, 1]), [4]], { attrs: { reduction } });
  });
});

it.each([
  ['one zero', [0, 2, 3, 4]],
  ['two zeros at one place', [0, 2, 0, 4]],
])('writing with reduction mul: %s', (_, u) =>
  check('ScatterElements', [[4], ints([1, 3, 1, 1]), floatsOf(u)], { attrs: { reduction: 'mul' } }),
);

it.each([
  ['data and an update', [1, 5], [1, 0], [5, 3]],
  ['two updates', [9, 1], [1, 1], [5, 5]],
])('writing with reduction max: %s that are equal share dy', (_, data, indices, u) =>
  check('ScatterElements', [floatsOf(data), ints(indices), floatsOf(u)], { attrs: { reduction: 'max' } }),
);

describe('writing along an axis', () => {
  it.each(['linear', 'circular'])('TensorScatter, %s', async mode => {
    const starts = ints(mode === 'linear' ? [1, 2] : [3, 1]);
    await check('TensorScatter', [[2, 4, 2], [2, 2, 2], starts], { attrs: { mode }, opset: 24 });
    await check('TensorScatter', [[2, 2, 4, 2], [2, 2, 3, 2], null], { attrs: { mode }, opset: 24 });
    await check('TensorScatter', [[2, 4, 1, 2], [2, 2, 1, 2], starts], {
      attrs: { mode, axis: 1 },
      opset: 24,
    });
  });
});

describe('making', () => {
  it.each([0, 1, -1])('OneHot along %i', axis =>
    check('OneHot', [ints([1, -1, 5], [3]), ints([3], []), floatsOf([0.5, 2])], { attrs: { axis } }),
  );
  it('Range', () =>
    check('Range', [floatsOf([0.5], []), floatsOf([3.1], []), floatsOf([0.5], [])], { wrt: [0, 2] }));
});

it('Optional and OptionalGetElement', async () => {
  const graph = new Graph('optional');
  const [x, held, y] = [
    new Value('x', { kind: 'tensor', dtype: 'float32', shape: [2, 3] }),
    new Value('held'),
    new Value('y'),
  ];
  graph.inputs = [x];
  graph.nodes = [new Node('Optional', [x], [held]), new Node('OptionalGetElement', [held], [y])];
  graph.outputs = [new Value('y')];
  const model = new Model(graph);
  model.opsetImports.set('', 18);
  await checkModel(model, [x], [y], [spread([2, 3])]);
});

it('adds up float16 in float32, for which there are kernels', async () => {
  const table = spread([4, 3], [-1, 1]);
  const half = Uint16Array.from(table.numbers(), numberToHalf);
  const feeds = { x: ints([2, 0, 2, 1]), target: ints([0, 1, 2, 0]) };
  const [want, got] = await Promise.all(
    [table, Tensor.from('float16', [4, 3], half)].map(async weight => {
      const s = new Sketch();
      const y = s.add('Gather', [s.weight('w', weight), s.input('x', ['n'], 'int64')], 'y');
      const found = await gradientsOf(s.model([y]), { loss: { kind: 'cross-entropy' } }, feeds);
      return found.gradients.get('w')!;
    }),
  );
  expect(got!.dtype).toBe('float16');
  for (const [i, v] of got!.numbers().entries()) expect(v).toBeCloseTo(want!.numbers()[i]!, 3);
});
