/** Prodigy on quadratic functions, as the authors' implementation writes it, in float64. */
import { expect, it } from 'vitest';
import { resolveOptions } from '../../../src/ops/optimizers/optimizer.js';
import { type ProdigyOptions, prodigy } from '../../../src/ops/optimizers/prodigy.js';
import { wrapped } from '../../../src/ops/optimizers/wrappers/index.js';
import { type Numbers, OptimizerRun } from './run.js';

const SIZES = { a: 5, b: 3 };
const curvature = (i: number) => 0.5 + (i % 3);
const each = (value: (i: number) => number): Numbers =>
  Object.fromEntries(
    Object.entries(SIZES).map(([name, size]) => [name, Array.from({ length: size }, (_, i) => value(i))]),
  );
/** What is fed of the gradient, besides curvature w. */
const fed = (t: number) => each(i => Math.cos(2.3 * i) + 0.2 * Math.sin(1.7 * t * (i + 1)));

/** Weights and d after so many steps. */
function reference(count: number, start: Numbers, o: ProdigyOptions): { w: Numbers; d: number } {
  const [beta1, beta2] = o.betas;
  const beta3 = o.beta3 ?? Math.sqrt(beta2);
  const params = Object.entries(start).map(([name, values]) => ({
    name,
    w: values.map(w => ({ first: w, w, s: 0, m: 0, v: 0, g: 0 })),
  }));
  let [d, largest, numerator] = [o.d0, o.d0, 0];
  for (let t = 1; t <= count; t++) {
    const bias = o.useBiasCorrection ? Math.sqrt(1 - beta2 ** t) / (1 - beta1 ** t) : 1;
    const rate = d * o.lr * bias;
    numerator *= beta3;
    let denominator = 0;
    for (const { name, w } of params)
      for (const [i, own] of w.entries()) {
        const g = fed(t)[name]![i]! + curvature(i) * own.w + (o.decouple ? 0 : o.weightDecay * own.w);
        numerator += (d / o.d0) * rate * g * (own.first - own.w);
        own.m = beta1 * own.m + d * (1 - beta1) * g;
        own.v = beta2 * own.v + d * d * (1 - beta2) * g * g;
        own.s = beta3 * own.s + (d / o.d0) * (o.safeguardWarmup ? d : rate) * g;
        denominator += Math.abs(own.s);
      }
    const estimate = (o.dCoef * numerator) / denominator;
    if (d === o.d0) d = Math.max(d, estimate);
    largest = Math.max(largest, estimate);
    d = Math.min(largest, d * (o.growthRate ?? Number.POSITIVE_INFINITY));
    for (const { w } of params)
      for (const own of w) {
        if (o.decouple) own.w -= rate * o.weightDecay * own.w;
        own.w -= (rate * own.m) / (Math.sqrt(own.v) + d * o.eps);
      }
  }
  return { w: Object.fromEntries(params.map(({ name, w }) => [name, w.map(own => own.w)])), d };
}

it.each([
  {},
  { weightDecay: 0.1, betas: [0.8, 0.99] },
  { weightDecay: 0.1, decouple: false, beta3: 0.9 },
  { useBiasCorrection: true },
  { safeguardWarmup: true, lr: 0.5 },
  { d0: 1e-3, dCoef: 0.5 },
  { growthRate: 1.2 },
] as Partial<ProdigyOptions>[])('takes 100 steps of the authors’ code: %j', async given => {
  const options = resolveOptions(prodigy, given);
  const start = each(() => 0);
  const { w, d } = reference(100, start, options);
  expect(d).toBeGreaterThan(1e-2);
  for (const dtype of ['float64', 'float32'] as const) {
    const run = await OptimizerRun.create(prodigy, options, start, { dtype, curvature });
    for (let t = 1; t <= 100; t++) await run.step(fed(t));
    const bound = dtype === 'float64' ? 1e-10 : 1e-5;
    for (const [key, want] of Object.entries(w)) {
      const off = Math.hypot(...run.get(key).map((x, i) => x - want[i]!));
      expect(off, `${dtype} ${key}`).toBeLessThanOrEqual(bound * Math.hypot(...want));
      expect(Math.abs(run.get(`${key}_d`)[0]! / d - 1), `${dtype} d`).toBeLessThanOrEqual(bound);
    }
    await run.release();
  }
});

it('waits while all gradients are 0', async () => {
  const start = each(() => 0);
  const run = await OptimizerRun.create(prodigy, {}, start, { dtype: 'float64' });
  for (let t = 1; t <= 3; t++) await run.step(start);
  for (const [name, want] of Object.entries({ a: start.a!, b_d: [1e-6], b_d_numerator: [0] }))
    expect(run.get(name), name).toEqual(want);
  await run.release();
});

it('sums over large parameters with a quantized state', async () => {
  const start = { a: Array.from({ length: 4200 }, (_, i) => Math.cos(i)), b: [1, 2, 3] };
  const grads = { a: start.a.map((_, i) => 1 + Math.sin(i)), b: [1, 1, 1] };
  const runs = await Promise.all(
    [prodigy, wrapped(prodigy, { stateBits: 8 })].map(o =>
      OptimizerRun.create(o, {}, start, { dtype: 'float64' }),
    ),
  );
  for (const run of runs) for (let t = 1; t <= 5; t++) await run.step(grads);
  const [d, own] = runs.map(run => run.get('b_d')[0]!);
  expect(own! / d! - 1).toBeCloseTo(0, 1);
  expect(own).not.toBe(d);
  for (const run of runs) await run.release();
});

it.each([
  [{ b: { dCoef: 2 } }, "'b' may have its own weight_decay, but no other options"],
  [{ b: { weightDecay: 0.5 } }, undefined],
] as [Record<string, Partial<ProdigyOptions>>, string?][])(
  'refuses options of one parameter that change d: %j',
  async (own, message) => {
    const run = OptimizerRun.create(
      prodigy,
      {},
      each(() => 0),
      { own },
    );
    if (message) await expect(run).rejects.toThrow(message);
    else await (await run).release();
  },
);
