import { expect, it } from 'vitest';
import { Graph, Model, Node, Value } from '../../src/graph/ir.js';
import { toAttrs } from '../../src/ops/core/builder.js';
import { loadOperators, opDef } from '../../src/ops/index.js';
import * as nondifferentiable from '../../src/ops/nondifferentiable.js';
import { checkModel, spread } from './vjp.js';

await loadOperators();

it.each(Object.keys(nondifferentiable))('%s says why it has no gradient', opType => {
  expect(opDef({ domain: '', opType })).toMatchObject({ kind: 'none', why: expect.stringMatching(/./) });
});

it.each([
  ['Greater', 2, {}],
  ['ArgMax', 1, { axis: 1 }],
  ['Shape', 1, { end: 1 }],
])('the gradient goes past %s', async (opType, arity, attrs) => {
  const x = new Value('x', { kind: 'tensor', dtype: 'float32', shape: [2, 3] });
  const [stopped, factor, y] = ['stopped', 'factor', 'y'].map(name => new Value(name)) as [
    Value,
    Value,
    Value,
  ];
  const graph = new Graph('test');
  graph.inputs = [x];
  graph.nodes = [
    new Node(opType, Array(arity).fill(x), [stopped], toAttrs(attrs)),
    new Node('Cast', [stopped], [factor], toAttrs({ to: 1 })),
    new Node('Sub', [x, factor], [y]),
  ];
  graph.outputs = [new Value('y')];
  const model = new Model(graph);
  model.opsetImports = new Map([['', 18]]);
  await checkModel(model, [x], [y], [spread([2, 3])]);
});
