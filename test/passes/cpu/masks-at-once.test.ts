import { expect, it } from 'vitest';
import { Graph, Model, Node, Value } from '../../../src/graph/ir.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { toAttrs } from '../../../src/ops/core/builder.js';
import { masksAtOnce } from '../../../src/passes/cpu/masks-at-once.js';
import { Session } from '../../../src/runtime/session.js';

type Kind = 'float32' | 'float64';

/** y = Cast(Greater(Relu(x), bound)). */
function mask(bound: number, dtype: Kind = 'float32', to: Kind = dtype, activation = 'Relu'): Model {
  const graph = new Graph('mask');
  const x = new Value('x', { kind: 'tensor', dtype, shape: ['n'] });
  const zero = new Value('bound', { kind: 'tensor', dtype, shape: [] });
  const relu = new Value('relu', { kind: 'tensor', dtype, shape: ['n'] });
  const above = new Value('above', { kind: 'tensor', dtype: 'bool', shape: ['n'] });
  graph.inputs = [x];
  graph.outputs = [new Value('y', { kind: 'tensor', dtype: to, shape: ['n'] })];
  graph.initializers.set(zero, Tensor.filled(dtype, [], bound));
  graph.nodes = [
    new Node(activation, [x], [relu]),
    new Node('Greater', [relu, zero], [above]),
    new Node('Cast', [above], [...graph.outputs], toAttrs({ to: to === 'float32' ? 1 : 11 })),
  ];
  return Object.assign(new Model(graph), { irVersion: 8, opsetImports: new Map([['', 17]]) });
}

const operators = ({ graph }: Model) => graph.nodes.map(node => node.opType);

it('gives the same mask of all normal numbers', async () => {
  const model = mask(0);
  expect(masksAtOnce(model)).toBe(true);
  expect(operators(model)).toEqual(['Relu', 'HardSigmoid', 'Identity']);
  const numbers = [1.1755e-38, 1e-30, 0.5, 1, 3e38, Number.POSITIVE_INFINITY, 0, -0];
  const session = await Session.create(model);
  const x = [...numbers, ...numbers.map(v => -v)];
  const { y } = await session.run({ x: Tensor.from('float32', [x.length], Float32Array.from(x)) });
  await session.release();
  expect(y!.numbers()).toEqual(x.map(v => (v > 0 ? 1 : 0)));
});

it.each([
  ['another bound', mask(1)],
  ['another type', mask(0, 'float64')],
  ['a float32 mask of another type', mask(0, 'float64', 'float32')],
  ['a mask of another type', mask(0, 'float32', 'float64')],
  ['what is not the output of Relu', mask(0, 'float32', 'float32', 'Neg')],
])('leaves %s', (_, model) => {
  const before = operators(model);
  expect(masksAtOnce(model)).toBe(false);
  expect(operators(model)).toEqual(before);
});
