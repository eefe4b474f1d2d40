import { describe, expect, it } from 'vitest';
import { Graph, Model, Value } from '../../../src/graph/ir.js';
import { Names } from '../../../src/graph/names.js';
import { Builder } from '../../../src/ops/core/builder.js';
import type { Expr } from '../../../src/ops/core/expr.js';
import { Attributes } from '../../../src/ops/core/rule.js';
import { swapInProducts } from '../../../src/passes/cpu/swap-in-products.js';
import { Session } from '../../../src/runtime/session.js';
import { spread } from '../../ops/vjp.js';

type Case = {
  a: readonly number[];
  b: readonly number[];
  dtype?: 'float32' | 'float64';
  y(a: Expr, b: Expr): Expr[];
};

function model({ a, b, dtype = 'float32', y }: Case): Model {
  const graph = new Graph('products');
  graph.inputs = [a, b].map((shape, i) => new Value('ab'[i]!, { kind: 'tensor', dtype, shape: [...shape] }));
  const made = Object.assign(new Model(graph), { irVersion: 8, opsetImports: new Map([['', 18]]) });
  const g = new Builder(graph, { names: Names.of(made), opsets: made.opsetImports });
  const [left, right] = graph.inputs.map(value => g.of(value)) as [Expr, Expr];
  for (const [i, e] of y(left, right).entries()) {
    const out = new Value(`y${i}`);
    g.identity(e.value, out);
    graph.addOutputs(out);
  }
  return made;
}

async function run(given: Model, { a, b }: Case) {
  const session = await Session.create(given);
  const results = await session.run({ a: spread(a, [-1, 1], 1), b: spread(b, [-1, 1], 2) });
  await session.release();
  return results;
}

const count = ({ graph }: Model, op: string) => graph.nodes.filter(node => node.opType === op).length;

const SWAP = [0, 1, 3, 2];
const HEADS = [0, 2, 1, 3];
const BOTH = [0, 2, 3, 1];

describe('a product with swapped operands', () => {
  it.each<[string, number, Case]>([
    ['on the right', 0, { a: [2, 3, 5, 7], b: [2, 3, 4, 7], y: (a, b) => [a.matmul(b.transpose(SWAP))] }],
    ['on the left', 0, { a: [2, 3, 7, 5], b: [2, 3, 7, 4], y: (a, b) => [a.transpose(SWAP).matmul(b)] }],
    [
      'on both sides',
      0,
      { a: [2, 3, 7, 5], b: [2, 3, 4, 7], y: (a, b) => [a.transpose(SWAP).matmul(b.transpose(SWAP))] },
    ],
    [
      'that are read elsewhere',
      1,
      {
        a: [2, 3, 5, 7],
        b: [2, 3, 4, 7],
        y: (a, b) => [a.matmul(b.transpose(SWAP)), b.transpose(SWAP).exp()],
      },
    ],
    [
      'of a single sample',
      0,
      { a: [2, 3, 5, 7], b: [1, 3, 4, 7], y: (a, b) => [a.matmul(b.transpose(SWAP))] },
    ],
    [
      'that are moved to their heads both ways',
      // They are equal, and the runtime makes one of them.
      2,
      {
        a: [2, 3, 5, 7],
        b: [2, 4, 3, 7],
        y: (a, b) => [
          a.matmul(b.transpose(BOTH)),
          a.mul(0.5).matmul(b.transpose(BOTH)).matmul(b.transpose(HEADS)),
        ],
      },
    ],
  ])('%s gives the same bits', async (_, transposes, given) => {
    const made = model(given);
    const before = await run(made, given);
    expect(swapInProducts(made)).toBe(true);
    expect(count(made, 'FusedMatMul')).toBeGreaterThan(0);
    expect(count(made, 'Transpose')).toBe(transposes);
    const perms = made.graph.nodes.flatMap(node => `${new Attributes(node).ints('perm') ?? []}` || []);
    expect(new Set(perms).size).toBeLessThan(2);
    expect(await run(made, given)).toEqual(before);
  });

  it.each<[string, Case]>([
    [
      'that are moved to their heads once',
      { a: [2, 3, 5, 7], b: [2, 4, 3, 7], y: (a, b) => [a.matmul(b.transpose(BOTH))] },
    ],
    [
      'in another way',
      { a: [2, 3, 5, 7], b: [2, 4, 7, 3], y: (a, b) => [a.matmul(b.transpose([0, 3, 2, 1]))] },
    ],
    ['in no way', { a: [2, 3, 5, 7], b: [2, 7, 3, 4], y: (a, b) => [a.matmul(b.transpose(HEADS))] }],
    ['of matrices', { a: [5, 7], b: [4, 7], y: (a, b) => [a.matmul(b.transpose([1, 0]))] }],
    ['with a matrix', { a: [2, 3, 7, 5], b: [7, 4], y: (a, b) => [a.transpose(SWAP).matmul(b)] }],
    [
      'of another type',
      { a: [2, 3, 5, 7], b: [2, 3, 4, 7], dtype: 'float64', y: (a, b) => [a.matmul(b.transpose(SWAP))] },
    ],
  ])('%s stays', (_, given) => {
    const made = model(given);
    expect(swapInProducts(made)).toBe(false);
    expect(count(made, 'MatMul')).toBe(1);
  });
});
