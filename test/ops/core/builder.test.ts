import { expect, it } from 'vitest';
import { Graph, type Shape } from '../../../src/graph/ir.js';
import { Names } from '../../../src/graph/names.js';
import { Builder } from '../../../src/ops/core/builder.js';
import { broadcastShapes } from '../../../src/ops/core/infer.js';

it('creates equal constants once, also in subgraphs, and keeps different ones apart', () => {
  const g = new Builder(new Graph('test'), { names: new Names(), opsets: new Map([['', 18]]) });
  const body = g.subgraph('body');
  const made = (b: Builder) => [
    ...[0, -0, 1].map(x => b.scalar(x, 'float32')),
    b.scalar(1, 'float64'),
    b.scalar(1, 'int64'),
    ...[[], [1], [12], [1, 2]].map(values => b.ints(values)),
  ];
  const values = made(g).map(e => e.value);
  expect(new Set(values).size).toBe(values.length);
  expect(made(body).map(e => e.value)).toEqual(values);
  expect(made(body)[8]!.constant).toEqual([1, 2]);
  expect(g.graph.initializers.size).toBe(values.length);
  expect(body.graph.initializers.size).toBe(0);
});

it('emits equal nodes once, and keeps different ones apart', () => {
  const g = new Builder(new Graph('test'), { names: new Names(), opsets: new Map([['', 18]]) });
  const [x, y] = ['x', 'y'].map(name => g.input(name, { kind: 'tensor', dtype: 'float32', shape: [2, 2] }));
  const made = () => [
    ...[x!.sub(y!), y!.sub(x!), x!.add(y!), x!.neg(), y!.neg()],
    ...[x!.op('Flatten'), x!.op('Flatten', [], { axis: 0 }), x!.op('Flatten', [], { axis: 2 })],
    ...[x!.op('Add', [y], {}, { domain: 'other' }), g.emit('Add', [x, y], {}, { outputs: 2 })[0]!],
  ];
  const values = made().map(e => e.value);
  expect(new Set(values).size).toBe(values.length);
  expect(made().map(e => e.value)).toEqual(values);
  expect(g.graph.nodes).toHaveLength(values.length);
  const draw = () => x!.op('RandomNormalLike').value;
  expect(draw()).not.toBe(draw());
});

it.each<[Shape[], Shape]>([
  [
    [['a', 1], [3]],
    ['a', 3],
  ],
  [[['a'], ['a']], ['a']],
  [[['a'], ['b']], [null]],
  [[['a'], ['b'], [4]], [4]],
  [[[4], ['a'], [1]], [4]],
  [[[null], [1]], [null]],
  [[['a'], [null]], [null]],
  [
    [[], [2, 1]],
    [2, 1],
  ],
])('broadcasts %j', (shapes, expected) => {
  expect(broadcastShapes(shapes)).toEqual(expected);
});

it('reads what a Transpose moved where it would be moved back', () => {
  const g = new Builder(new Graph('test'), { names: new Names(), opsets: new Map([['', 18]]) });
  const x = g.input('x', { kind: 'tensor', dtype: 'float32', shape: [2, 3, 4] });
  const moved = x.transpose([1, 2, 0]);
  expect(moved.transpose([2, 0, 1]).value).toBe(x.value);
  expect(moved.transpose([1, 2, 0]).value.producer?.opType).toBe('Transpose');
});

it('names extents that Shape nodes tell, and sums of them', () => {
  const g = new Builder(new Graph('test'), { names: new Names(), opsets: new Map([['', 18]]) });
  const input = (name: string, shape: Shape) => g.input(name, { kind: 'tensor', dtype: 'float32', shape });
  const [past, x] = [input('past', ['b', 2, 'past', 8]), input('x', ['b', 2, 'n', 8])];
  const joined = past.concat([x], 2);
  expect(joined.shape).toEqual(['b', 2, 'n + past', 8]);
  expect(x.concat([past, x], 2).shape).toEqual(['b', 2, 'n + n + past', 8]);
  const all = past.dims(2, 3).add(x.dims(2, 3)).iota();
  expect(all.shape).toEqual(['n + past']);
  expect(x.expand(g.vector([x.dims(0, 2), past.dims(2, 3), x.dims(3)])).shape).toEqual(['b', 2, null, 8]);
  expect(all.reshape(g.vector([1, x.dims(2, 3), -1])).shape).toEqual([1, 'n', null]);
  expect(x.dims(2, 3).iota().reshape([-1, 1, 1]).shape).toEqual(['n', 1, 1]);
  // A sum over repeated axes that is known to be none.
  expect(all.add(joined.sum([0, 1, 3])).sumTo(all).value.producer?.opType).not.toBe('Reshape');
});
