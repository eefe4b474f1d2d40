import { expect, it } from 'vitest';
import { Graph, Model } from '../../../src/graph/ir.js';
import { Names } from '../../../src/graph/names.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { Builder } from '../../../src/ops/core/builder.js';
import { decayFactor } from '../../../src/ops/optimizers/optimizer.js';
import { output } from '../../../src/passes/update/transition.js';
import { Session } from '../../../src/runtime/session.js';

/** The factors of steps 1 to `count`. */
async function factorsOf(beta: number, count: number, dtype: 'float32' | 'float64'): Promise<number[]> {
  const model = new Model(new Graph('factors'));
  model.opsetImports = new Map([['', 18]]);
  const g = new Builder(model.graph, { names: Names.of(model), opsets: model.opsetImports });
  const numbers = Float64Array.from({ length: count }, (_, i) => i + 1);
  const steps = Tensor.from('float64', [count], numbers);
  const factor = decayFactor(g.tensor(steps, 'steps').cast(dtype), beta);
  output(g, factor.expand([count]), 'factors');
  const session = await Session.create(model, { threads: 1 });
  const { factors } = await session.run({});
  await session.release();
  expect(factors!.dtype).toBe('float32');
  return factors!.numbers();
}

/** How far the product of so many factors, one after the other, is from the power of beta, at most and relative to it. */
function farthest(factors: readonly number[], beta: number, length: number): number {
  let [off, most] = [0, 0];
  const offs = [0];
  for (const [i, factor] of factors.entries()) {
    expect(Math.abs(factor - beta)).toBeLessThan(6e-8);
    off += Math.log1p((factor - beta) / beta);
    offs.push(off);
    most = Math.max(most, Math.abs(off - offs[Math.max(0, i + 1 - length)]!));
  }
  return most;
}

it.each([0.9, 0.99, 0.999, 0.9999, 0.99999999])('the product stays beside the power of %f', async beta => {
  const factors = await factorsOf(beta, 50_000, 'float64');
  expect(farthest(factors, beta, factors.length)).toBeLessThan(7e-8);
});

it('with steps in float32, it does for as long as an average remembers', async () => {
  const factors = await factorsOf(0.999, 50_000, 'float32');
  expect(farthest(factors, 0.999, 1000)).toBeLessThan(5e-7);
});

it.each([0, 0.5, 0.875])('is %f itself, which float32 has', async beta => {
  expect(new Set(await factorsOf(beta, 100, 'float64'))).toEqual(new Set([beta]));
});

it.each([
  [0, 0],
  [0.5, 0],
  [0.999, 5],
])('of %f takes %i nodes', (beta, count) => {
  const { graph } = new Model(new Graph('factor'));
  const g = new Builder(graph, { names: new Names(), opsets: new Map([['', 18]]) });
  decayFactor(g.input('step', { kind: 'tensor', dtype: 'float64', shape: [] }), beta);
  expect(graph.nodes).toHaveLength(count);
});
