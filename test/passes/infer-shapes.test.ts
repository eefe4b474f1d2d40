import { expect, it } from 'vitest';
import { Graph, Model, Node, Value } from '../../src/graph/ir.js';
import { toAttrs } from '../../src/ops/core/builder.js';
import { inferShapes } from '../../src/passes/infer-shapes.js';
import { Session, sessionShapes } from '../../src/runtime/session.js';
import { spread } from '../ops/vjp.js';
import { Sketch } from '../sample.js';

it('tells an unknown rank from a scalar, and finds ranks that follow from the inputs', async () => {
  const x = new Value('x', { kind: 'tensor', dtype: 'float32', shape: [2, 'n'] });
  const axes = new Value('axes', { kind: 'tensor', dtype: 'int64', shape: [1] });
  const [total, dropped, kept, root] = ['total', 'dropped', 'kept', 'root'].map(name => new Value(name));
  const graph = new Graph('test');
  graph.inputs = [x, axes];
  graph.nodes = [
    new Node('ReduceSum', [x], [total!], toAttrs({ keepdims: 0 })),
    new Node('ReduceSum', [x, axes], [dropped!], toAttrs({ keepdims: 0 })),
    new Node('ReduceSum', [x, axes], [kept!]),
    new Node('Sqrt', [kept!], [root!]),
  ];
  graph.outputs = [new Value('root')];
  const model = new Model(graph);
  model.opsetImports = new Map([['', 18]]);
  expect(await inferShapes(model, sessionShapes)).toBe(true);
  expect(total!.shape).toEqual([]);
  expect(dropped!.shape).toBeUndefined();
  expect(kept!.shape).toEqual([null, null]);
  expect(root!.shape).toEqual([null, null]);
});

it('gives a pool that rounds up the windows that the kernel computes', async () => {
  const s = new Sketch();
  // Rounded up (2 - 1) / 2 + 1 are two windows, of which the second would begin after the end.
  const attrs = { kernel_shape: [1, 1], strides: [2, 2], ceil_mode: 1 };
  const y = s.add('MaxPool', [s.input('x', [1, 1, 2, 2])], 'y', attrs);
  const model = s.model([y]);
  await inferShapes(model, sessionShapes);
  const session = await Session.create(model);
  const { y: got } = await session.run({ x: spread([1, 1, 2, 2]) });
  await session.release();
  expect(y.shape).toEqual(got!.dims);
});
