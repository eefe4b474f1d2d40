import { expect, it } from 'vitest';
import { Graph, Model, Node, Value } from '../../../src/graph/ir.js';
import { Names } from '../../../src/graph/names.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { type AttrInit, Builder, toAttrs } from '../../../src/ops/core/builder.js';
import { NodeView } from '../../../src/ops/core/rule.js';
import { MaxPool } from '../../../src/ops/pooling.js';
import { poolsAsMaxima } from '../../../src/passes/cpu/pools-as-maxima.js';
import { Session } from '../../../src/runtime/session.js';

const SQUARE = { kernel_shape: [2, 2], strides: [2, 2] };

/** A pool and its gradient, as the rule of the operator writes it. */
function pool(
  [height, width]: readonly [number, number],
  attrs: AttrInit = SQUARE,
  dtype: 'float32' | 'float64' = 'float32',
  outer: readonly number[] = [height / 2, width / 2],
  opset = 18,
): Model {
  const graph = new Graph('pool');
  const [x, dy, y] = [
    ['x', [height, width]],
    ['dy', outer],
    ['y', outer],
  ].map(([name, extents]) => {
    const shape = ['n', 3, ...(extents as number[])];
    return new Value(name as string, { kind: 'tensor', dtype, shape });
  }) as [Value, Value, Value];
  const node = new Node('MaxPool', [x], [y], toAttrs(attrs));
  graph.inputs = [x, dy];
  graph.nodes = [node];
  const model = Object.assign(new Model(graph), { irVersion: 8, opsetImports: new Map([['', opset]]) });
  const g = new Builder(graph, { names: Names.of(model), opsets: model.opsetImports });
  const dx = MaxPool([g.of(dy)], new NodeView(node, g, opset) as never)[0] as () => { value: Value };
  graph.outputs = [y, Object.assign(dx().value, { name: 'dx' })];
  return model;
}

async function run(model: Model, feeds: Record<string, Tensor>) {
  const session = await Session.create(model);
  const { y, dx } = await session.run(feeds);
  await session.release();
  // Zeros have either sign.
  return [y!.dims, y!.numbers(), dx!.dims, dx!.numbers().map(v => v + 0)];
}

const operators = ({ graph }: Model) => graph.nodes.map(node => node.opType);

const float = (dims: readonly number[], number: (i: number) => number) =>
  Tensor.from(
    'float32',
    dims,
    Float32Array.from({ length: dims.reduce((n, d) => n * d, 1) }, (_, i) => number(i)),
  );

it.each([13, 18])('gives the same maxima and gradients, ties among them, at opset %i', async opset => {
  const model = pool([6, 8], SQUARE, 'float32', [3, 4], opset);
  const numbers = [0, 1, 1, -2, Number.NEGATIVE_INFINITY, 3, 0.5, 3, Number.NEGATIVE_INFINITY];
  const feeds = {
    // Of few numbers in changing order, so that windows have one to four of the largest ones.
    x: float([5, 3, 6, 8], i => numbers[(i * i + (i >> 3) * 5) % numbers.length]!),
    dy: float([5, 3, 3, 4], i => Math.sin(i + 1)),
  };
  const before = await run(model, feeds);
  expect(poolsAsMaxima(model)).toBe(true);
  expect(operators(model)).not.toContain('MaxPool');
  expect(operators(model)).not.toContain('MaxUnpool');
  expect(await run(model, feeds)).toEqual(before);
});

it('gives windows of equal numbers’ gradient to their first', async () => {
  const model = pool([2, 4]);
  poolsAsMaxima(model);
  const feeds = {
    x: float([1, 3, 2, 4], () => Number.NEGATIVE_INFINITY),
    dy: float([1, 3, 1, 2], i => i + 1),
  };
  expect((await run(model, feeds)).at(-1)).toEqual(
    [1, 2, 3, 4, 5, 6].flatMap((_, i, all) => {
      return i % 2 ? [] : [all[i]!, 0, all[i + 1]!, 0, 0, 0, 0, 0];
    }),
  );
});

/** The same with MaxUnpool, as a model may have it for any pool. */
function unpool(
  inner: readonly [number, number],
  outer: readonly number[],
  attrs: AttrInit = SQUARE,
  dtype: 'float32' | 'float64' = 'float32',
  extents: readonly number[] = inner,
): Model {
  const model = pool([4, 4]);
  const shaped = (name: string, shape: readonly number[]) =>
    new Value(name, { kind: 'tensor', dtype, shape: ['n', 3, ...shape] });
  const [x, dy, y, dx] = [shaped('x', inner), shaped('dy', outer), shaped('y', outer), shaped('dx', extents)];
  const indices = new Value('indices', { kind: 'tensor', dtype: 'int64', shape: ['n', 3, ...outer] });
  const shape = new Value('shape', { kind: 'tensor', dtype: 'int64', shape: [4] });
  model.graph = new Graph('unpool');
  model.graph.inputs = [x, dy, shape];
  model.graph.outputs = [y, dx];
  model.graph.nodes = [
    new Node('MaxPool', [x], [y, indices], toAttrs(attrs)),
    new Node('MaxUnpool', [dy, indices, shape], [dx], toAttrs(SQUARE)),
  ];
  return model;
}

it('takes a MaxUnpool for the gradient of its pool only if it has the extents of the input', () => {
  expect(poolsAsMaxima(unpool([4, 4], [2, 2]))).toBe(true);
  expect(poolsAsMaxima(unpool([4, 4], [2, 2], SQUARE, 'float32', [5, 4]))).toBe(false);
});

const read = unpool([4, 4], [2, 2]);
read.graph.outputs = [...read.graph.outputs, read.graph.nodes[0]!.outputs[1]!];
const alone = unpool([4, 4], [2, 2]);
alone.graph.outputs = alone.graph.outputs.slice(0, 1);
alone.graph.nodes = alone.graph.nodes.slice(0, 1);

it.each([
  ['windows of other extents', unpool([4, 4], [2, 2], { ...SQUARE, kernel_shape: [1, 2] })],
  ['windows that overlap', unpool([4, 4], [3, 3], { kernel_shape: [2, 2] })],
  ['dilated windows', unpool([6, 6], [2, 2], { ...SQUARE, dilations: [2, 2] })],
  ['padding', unpool([4, 4], [3, 3], { ...SQUARE, pads: [1, 1, 1, 1] })],
  ['indices by columns', unpool([4, 4], [2, 2], { ...SQUARE, storage_order: 1 })],
  ['odd extents', unpool([5, 5], [2, 2])],
  ['float64', unpool([4, 4], [2, 2], SQUARE, 'float64')],
  ['indices that are read', read],
  ['a pool without a gradient', alone],
])('leaves %s', (_, model) => {
  const before = operators(model);
  expect(poolsAsMaxima(model)).toBe(false);
  expect(operators(model)).toEqual(before);
});
