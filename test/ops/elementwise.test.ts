import { describe, expect, it } from 'vitest';
import { Graph, Model, Node, Value } from '../../src/graph/ir.js';
import { Tensor } from '../../src/graph/tensor.js';
import { toAttrs } from '../../src/ops/core/builder.js';
import { bools, checkVjp, floatsOf, gradients, ints } from './vjp.js';

const broadcasts: [number[], number[]][] = [
  [
    [2, 3],
    [2, 3],
  ],
  [[2, 3], [3]],
  [
    [2, 1],
    [1, 3],
  ],
  [[], [2, 2]],
  [
    [4, 1, 3],
    [2, 1],
  ],
];

describe.each(['Add', 'Sub', 'Mul', 'Div', 'Pow', 'Max', 'Min'])('%s', op => {
  it.each(broadcasts)('of %j and %j', async (a, b) => {
    await checkVjp(op, [a, b], { range: [0.5, 2], step: 1e-3 });
    await checkVjp(op, [a, b], { range: [0.5, 2], step: 1e-3, symbolic: true });
  });
});

describe.each(['Sum', 'Mean', 'Max', 'Min'])('%s', op => {
  it('of one input', () => checkVjp(op, [[2, 3]]));
  it.each([false, true])('of three inputs (symbolic: %s)', symbolic =>
    checkVjp(op, [[2, 3], [3], [2, 1]], { symbolic }),
  );
});

it.each(['Max', 'Min'])('%s shares the gradient among equal inputs', async op => {
  const [a, b] = await vjp(op, [floatsOf([1, 2, 3]), floatsOf([1, 5, 0])]);
  const first = op === 'Max' ? [0.5, 0, 1] : [0.5, 1, 0];
  expect(a).toEqual(first);
  expect(b).toEqual(first.map(x => 1 - x));
});

describe('Pow', () => {
  it.each([0, 1, 2, 3, -1, 0.5])('with the constant exponent %d', n =>
    checkVjp('Pow', [[2, 3], floatsOf([n], [])], { constants: [1], wrt: [0], range: [0.5, 2] }),
  );
  it('of negative bases with whole exponents', async () => {
    await checkVjp('Pow', [[2, 3], ints([2, 3, -1])], { range: [-2, -0.8] });
    await checkVjp('Pow', [[2, 3], floatsOf([2, 3, -1])], { range: [-2, -0.8], wrt: [0] });
  });
  it('is finite where base or exponent is 0, or the base negative', async () => {
    const [a, b] = await vjp('Pow', [floatsOf([0, 0, 0, -2, 2]), floatsOf([0, 1, 2, 2, 0])]);
    expect(a).toEqual([0, 1, 0, -4, 0]);
    expect(b!.map(x => Math.round(x * 1e4))).toEqual([0, 0, 0, 0, 6931]);
  });
});

describe('Mod', () => {
  it('takes the sign of the dividend', () =>
    checkVjp('Mod', [[4, 3], floatsOf([1.1, -0.7, 0.9])], { attrs: { fmod: 1 }, step: 1e-3 }));
  it('broadcasts', () =>
    checkVjp('Mod', [[3], floatsOf([0.7, 1.3], [2, 1])], { attrs: { fmod: 1 }, step: 1e-3, symbolic: true }));
});

describe('Clip', () => {
  const low = floatsOf([-0.5], []);
  const high = floatsOf([0.8], []);
  it.each([
    ['both bounds', [[3, 4], low, high]],
    ['a lower bound', [[3, 4], low]],
    ['an upper bound', [[3, 4], null, high]],
    ['no bounds', [[3, 4]]],
    ['bounds that cross', [[3, 4], high, low]],
  ])('with %s', (_, inputs) => checkVjp('Clip', inputs));
  it('passes the gradient at the bounds', async () => {
    const [x] = await vjp('Clip', [floatsOf([-1, -0.5, 0, 0.8, 1]), low, high]);
    expect(x).toEqual([0, 1, 1, 1, 0]);
  });
});

describe('Where', () => {
  const condition = bools([1, 0, 1, 1, 0, 0], [2, 3]);
  it.each([false, true])('broadcasts (symbolic: %s)', symbolic =>
    checkVjp('Where', [condition, [3], [2, 1]], { symbolic }),
  );
  it('with the smallest condition', () => checkVjp('Where', [bools([1, 0], [2, 1]), [2, 3], []]));
});

it('Cast between floating-point types', async () => {
  const [x] = await vjp('Cast', [floatsOf([1, 2])], { to: 11 });
  expect(x).toEqual([1, 1]);
});

describe.each(['Sign', 'Floor', 'Ceil', 'Round'])('%s', op => {
  it('stops the gradient', () => expect(vjp(op, [floatsOf([0.2])])).rejects.toThrow('No gradient arrives'));
  it('passes straight through on request', async () =>
    expect(await vjp(op, [floatsOf([0.2, 1.7])], {}, { straightThrough: true })).toEqual([[1, 1]]));
});

/** Gradients of the sum of the outputs, for the inputs that are floating-point. */
async function vjp(op: string, inputs: Tensor[], attrs = {}, options = {}): Promise<number[][]> {
  const graph = new Graph('test');
  graph.inputs = inputs.map((t, i) => new Value(`x${i}`, { kind: 'tensor', dtype: t.dtype, shape: t.dims }));
  graph.nodes = [new Node(op, [...graph.inputs], [new Value('y')], toAttrs(attrs))];
  graph.outputs = [new Value('y')];
  const model = new Model(graph);
  model.opsetImports = new Map([['', 18]]);
  const shape = inputs[0]!.dims;
  const dtype = 'to' in attrs ? 'float64' : 'float32';
  const feeds = Object.fromEntries(inputs.map((t, i) => [`x${i}`, t]));
  const dy = { y: Tensor.filled(dtype, shape, 1) };
  const results = await gradients(model, [...graph.inputs], dy, feeds, { options });
  return results.map(t => t.numbers());
}
