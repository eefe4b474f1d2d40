import { expect, it } from 'vitest';
import { Graph, Model, Node, Value } from '../../src/graph/ir.js';
import { Names } from '../../src/graph/names.js';

const namesOf = (...taken: string[]) => {
  const graph = new Graph('g');
  for (const name of taken) graph.append(new Node('Op', [], [new Value(name)]));
  return Names.of(new Model(graph));
};

it('numbers a hint that is taken, and skips numbers that are', () => {
  const names = namesOf('mul', 'mul_2', 'mul_03');
  expect(['mul', 'mul', 'mul', 'mul_1'].map(hint => names.fresh(hint))).toEqual([
    'mul_1',
    'mul_3',
    'mul_4',
    'mul_1_1',
  ]);
});

it('gives a hint that ends in a number as it is, and does not give that number again', () => {
  const names = namesOf();
  expect(['ints_2', 'ints', 'ints', 'ints', 'ints_2'].map(hint => names.fresh(hint))).toEqual([
    'ints_2',
    'ints',
    'ints_1',
    'ints_3',
    'ints_2_1',
  ]);
});

it('takes for a number only what it would write', () => {
  const names = namesOf();
  const hints = ['a', 'a', 'a_0', 'a_01', 'a_1', 'a_9007199254740993'];
  expect(hints.map(hint => names.fresh(hint))).toEqual(['a', 'a_1', 'a_0', 'a_01', 'a_1_1', hints[5]]);
});
