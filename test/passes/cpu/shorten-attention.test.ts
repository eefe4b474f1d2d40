import { describe, expect, it } from 'vitest';
import { Graph, Model, Value } from '../../../src/graph/ir.js';
import { Names } from '../../../src/graph/names.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { Builder } from '../../../src/ops/core/builder.js';
import type { Expr } from '../../../src/ops/core/expr.js';
import { Attributes } from '../../../src/ops/core/rule.js';
import { loadOperators } from '../../../src/ops/index.js';
import { shortenAttention } from '../../../src/passes/cpu/shorten-attention.js';
import { backward } from '../../../src/passes/differentiate/backward.js';
import { type Feeds, Session } from '../../../src/runtime/session.js';
import { spread } from '../../ops/vjp.js';

const [B, H, S, D] = [2, 3, 12, 8];

type Case = {
  /** Replaces NaN among the probabilities, as PyTorch does. */
  guarded?: boolean;
  guard?: number;
  /** Of each head. */
  width?: number;
  length?: number;
};

/** Attention of queries, keys and values [B, S, C] with a mask that is added, and its gradients. */
async function attention({ guarded = false, guard = 0, width = D, length = S }: Case): Promise<Model> {
  const graph = new Graph('attention');
  const shape = [B, length, H * width];
  graph.inputs = ['q', 'k', 'v', 'dy'].map(
    name => new Value(name, { kind: 'tensor', dtype: 'float32', shape }),
  );
  const mask = new Value('mask', { kind: 'tensor', dtype: 'float32', shape: [length, length] });
  graph.inputs.push(mask);
  const model = Object.assign(new Model(graph), { irVersion: 10, opsetImports: new Map([['', 20]]) });
  const g = new Builder(graph, { names: Names.of(model), opsets: model.opsetImports });
  const [q, k, v, dy] = graph.inputs.slice(0, 4).map(value => g.of(value)) as [Expr, Expr, Expr, Expr];
  const heads = (e: Expr) => e.reshape([B, length, H, width]).transpose([0, 2, 1, 3]);
  const scores = heads(q).mul(0.5).matmul(heads(k).mT).add(g.of(mask));
  const p = scores.op('Softmax', [], { axis: -1 });
  const read = guarded ? p.op('IsNaN').where(guard, p) : p;
  const y = read.matmul(heads(v)).transpose([0, 2, 1, 3]).reshape(shape);
  await loadOperators(graph);
  const grads = backward(g, new Map([[y.value, dy]]), [q.value, k.value, v.value]);
  for (const [i, e] of [y, ...grads].entries()) {
    const out = new Value(['y', 'dq', 'dk', 'dv'][i]!);
    g.identity(e!.value, out);
    graph.addOutputs(out);
  }
  return model;
}

const feedsOf = (masked: readonly number[] = []): Feeds => {
  const mask = new Float32Array(S * S);
  for (const row of masked) mask.fill(Number.NEGATIVE_INFINITY, row * S, (row + 1) * S);
  const inputs = ['q', 'k', 'v', 'dy'].map((name, i) => [name, spread([B, S, H * D], [-1, 1], i + 1)]);
  return { ...Object.fromEntries(inputs), mask: Tensor.from('float32', [S, S], mask) };
};

async function run(model: Model, feeds: Feeds): Promise<Record<string, number[]>> {
  const session = await Session.create(model);
  const results = await session.run(feeds);
  await session.release();
  return Object.fromEntries(Object.entries(results).map(([name, tensor]) => [name, tensor.numbers()]));
}

const count = ({ graph }: Model, op: string) => graph.nodes.filter(node => node.opType === op).length;

describe('attention and its gradient', () => {
  it.each<[string, Case]>([
    ['as it is', {}],
    ['with a guard', { guarded: true }],
  ])('%s is the same in fewer passes', async (_, c) => {
    const model = await attention(c);
    const feeds = feedsOf();
    const before = await run(model, feeds);
    const [products, guards] = [count(model, 'Mul'), count(model, 'Where')];
    expect(guards).toBe(c.guarded ? 2 : 0);
    expect(shortenAttention(model)).toBe(true);
    expect(count(model, 'Where') + count(model, 'IsNaN')).toBe(0);
    expect(count(model, 'ThresholdedRelu')).toBe(c.guarded ? 1 : 0);
    expect(count(model, 'Mul')).toBe(products);
    const after = await run(model, feeds);
    expect([after.y, after.dv]).toEqual([before.y, before.dv]);
    for (const name of ['dq', 'dk']) {
      const off = after[name]!.map((value, i) => Math.abs(value - before[name]![i]!));
      expect(Math.max(...off), name).toBeLessThan(1e-6);
    }
  });

  it('of rows that are masked whole is zero by the guard, and has the gradient that it had', async () => {
    const model = await attention({ guarded: true });
    const feeds = feedsOf([3]);
    const before = await run(model, feeds);
    shortenAttention(model);
    const after = await run(model, feeds);
    const row = after.y!.slice(3 * H * D, 4 * H * D);
    expect(row).toEqual(row.map(() => 0));
    expect([after.y, after.dv]).toEqual([before.y, before.dv]);
    for (const name of ['dq', 'dk'])
      expect(after[name]!.map(Number.isNaN)).toEqual(before[name]!.map(Number.isNaN));
  });

  it.each([
    [D, S, true],
    [80, 96, false],
    [16, S, false],
  ])('of heads of %i and %i keys', async (width, length, isTurned) => {
    const model = await attention({ width, length });
    shortenAttention(model);
    const turns = model.graph.nodes.filter(node => node.opType === 'Transpose');
    expect(turns.some(node => `${new Attributes(node).ints('perm')}` === '0,2,3,1')).toBe(isTurned);
  });

  it('keeps a guard with another number', async () => {
    const model = await attention({ guarded: true, guard: 1 });
    shortenAttention(model);
    expect(count(model, 'ThresholdedRelu')).toBe(0);
    expect(count(model, 'Where')).toBe(1);
  });

  it('keeps a gradient that others read', async () => {
    const model = await attention({ guarded: true });
    const [, back] = model.graph.nodes.filter(node => node.opType === 'Where');
    model.graph.addOutputs(back!.outputs[0]!);
    shortenAttention(model);
    expect(count(model, 'Where')).toBe(1);
  });
});
