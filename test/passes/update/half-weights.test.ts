/** Weights of 16 bits: gradients, optimizer states and averages are float32, and so are the weights that optimizers update. */
import { describe, expect, it } from 'vitest';
import type { DType } from '../../../src/graph/dtype.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { OPTIMIZER_NAMES } from '../../../src/ops/optimizers/index.js';
import { inject } from '../../../src/passes/inject.js';
import type { InjectOptions } from '../../../src/passes/options.js';
import { averagedModel } from '../../../src/passes/update/average-weights.js';
import { convert } from '../../../src/runtime/data/convert.js';
import { sessionShapes } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { ints, spread } from '../../ops/vjp.js';
import { Sketch } from '../../sample.js';

type Float = 'float32' | 'float16';

/** Weights that both types hold. */
const weights = (dims: number[], seed: number, dtype: Float) =>
  convert(convert(spread(dims, [-0.5, 0.5], seed), 'float16'), dtype);

function model(dtype: Float) {
  const s = new Sketch();
  const x = s.input('x', ['n', 4], dtype);
  const h = s.add('Tanh', [s.add('MatMul', [x, s.weight('a', weights([4, 8], 1, dtype))], 'xa')], 'h');
  return s.model([s.add('Gemm', [h, s.weight('b', weights([8, 3], 2, dtype))], 'y')]);
}

const batch = (dtype: Float) => ({
  x: convert(convert(spread([6, 4], [-1, 1]), 'float16'), dtype),
  target: ints([0, 1, 2, 0, 1, 2]),
});

async function train(dtype: Float, options: Partial<InjectOptions>, steps: number) {
  const loss = { kind: 'cross-entropy' } as const;
  const { model: injected } = await inject(model(dtype), { loss, ...options }, sessionShapes);
  const t = await Trainer.create(injected);
  const losses: number[] = [];
  for (let i = 0; i < steps; i++) losses.push((await t.step(batch(dtype))).loss);
  const [state, snapshot, telemetry] = [t.state, t.snapshot(), t.telemetry];
  await t.release();
  return { losses, state, snapshot, telemetry, description: t.description };
}

const worst = (a: readonly number[], b: readonly number[]) =>
  Math.max(...a.map((x, i) => Math.abs(x - b[i]!)));

describe.each(OPTIMIZER_NAMES)('%s', name => {
  it('with its defaults trains float16 weights as it trains float32 weights', async () => {
    // The steps that it chooses with d_coef=1 oscillate here, where float32 is 9e-3 away from float64.
    const options = { optimizer: name === 'prodigy' ? { name, dCoef: 0.3 } : { name } };
    const [want, got] = [await train('float32', options, 30), await train('float16', options, 30)];
    expect(got.losses.every(Number.isFinite)).toBe(true);
    // It divides by curvatures, at a learning rate of 0.15.
    expect(worst(got.losses, want.losses)).toBeLessThan(name === 'adahessian' ? 2e-2 : 2e-3);
    const types = (p: { name: string; state: Record<string, string> }) =>
      [p.name, ...Object.values(p.state)].map(state => got.state.get(state)!.dtype);
    for (const p of got.description.parameters) {
      const [own, ...states]: DType[] = types(p);
      expect([own, new Set(states)]).toEqual(['float16', new Set(states.length ? ['float32'] : [])]);
    }
  });
});

it('AGD keeps squared gradient differences that float16 would round to zero', async () => {
  const least = 2 ** -24;
  const options = { loss: { kind: 'cross-entropy', weight: 1e-3 } } as const;
  const [want, got] = [await train('float32', options, 3), await train('float16', options, 3)];
  for (const { name, state } of got.description.parameters) {
    const of = (run: typeof got) => run.state.get(state.diff_sq_sum!)!.numbers();
    const [squares, references] = [of(got), of(want)];
    expect(Math.max(...squares), name).toBeLessThan(least / 2);
    expect(Math.min(...squares), name).toBeGreaterThan(0);
    squares.forEach((square, i) => {
      expect(square / references[i]!, name).toBeCloseTo(1, 1);
    });
  }
});

it.each<[string, Partial<InjectOptions>]>([
  ['clipped', { clipGradNorm: 0.1 }],
  ['accumulated', { accumulate: 2 }],
  ['skipped where not finite', { onNonfinite: 'skip' }],
  ['batched with weights of one type only', { groups: [{ match: 'b', options: { lr: 2e-3 } }] }],
])('gradients of float16 weights are %s as those of float32 weights', async (_, options) => {
  const [want, got] = [await train('float32', options, 20), await train('float16', options, 20)];
  expect(worst(got.losses, want.losses)).toBeLessThan(2e-3);
});

it('averages of float16 weights move by less than float16 can tell, and are exported as float16', async () => {
  const options = { ema: 0.9999 };
  const [want, got] = [await train('float32', options, 20), await train('float16', options, 20)];
  const [average, other] = [got, want].map(run => run.state.get('a_ema')!);
  expect(average!.dtype).toBe('float32');
  const start = weights([4, 8], 1, 'float32').floats();
  const moved = (t: Tensor) => t.numbers().map((x, i) => x - start[i]!);
  expect(Math.max(...moved(other!).map(Math.abs))).toBeLessThan(2 ** -12);
  expect(worst(moved(average!), moved(other!))).toBeLessThan(0.02 * Math.max(...moved(other!).map(Math.abs)));
  const exported = [...averagedModel(got.snapshot).graph.initializers].find(([v]) => v.name === 'a')![1];
  expect(exported.dtype).toBe('float16');
  expect(exported.bytes).toEqual(Tensor.ofNumbers('float16', [4, 8], average!.floats()).bytes);
});

it('telemetry measures steps smaller than the rounding of the weights', async () => {
  const options = { telemetry: 1, optimizer: { name: 'sgd', lr: 1e-5 } } as const;
  const [want, got] = [await train('float32', options, 2), await train('float16', options, 2)];
  const norms = (run: typeof want) => run.telemetry[0]!.map(row => row.values.update_norm!);
  expect(norms(want)[0]).toBeGreaterThan(0);
  norms(got).forEach((norm, i) => {
    expect(norm / norms(want)[i]!).toBeCloseTo(1, 1);
  });
});
