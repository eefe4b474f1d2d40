import { expect, it } from 'vitest';
import { Graph, Model, Node, Value } from '../../src/graph/ir.js';
import { toAttrs } from '../../src/ops/core/builder.js';
import { inferShapes } from '../../src/passes/infer-shapes.js';
import { sessionShapes } from '../../src/runtime/session.js';

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
