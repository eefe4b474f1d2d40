/** Gradients of Schedule-Free are those at y; the weights are x. As the authors' implementation writes it, in float64. */
import { expect, it } from 'vitest';
import { type OptimizerName, optimizerNamed } from '../../../src/ops/optimizers/index.js';
import { type OptimizerOptions, resolveOptions } from '../../../src/ops/optimizers/optimizer.js';
import { wrapped } from '../../../src/ops/optimizers/wrappers/index.js';
import { OptimizerRun } from './run.js';

const curvature = (i: number) => 0.5 + (i % 3);
const fed = (t: number) =>
  Array.from({ length: 6 }, (_, i) => Math.cos(2.3 * i) + Math.sin(1.7 * t * (i + 1)));
const start = { w: Array.from({ length: 6 }, (_, i) => 0.5 + Math.cos(2.3 * i)) };

/** x after so many steps: the implementation keeps y, and has x in its evaluation mode. */
function reference(count: number, momentum: number, lr: number, decay: number, beta2?: number): number[] {
  return start.w.map((first, i) => {
    let [y, z, v, sum, largest] = [first, first, 0, 0, -1];
    for (let t = 1; t <= count; t++) {
      const g = fed(t)[i]! + curvature(i) * y;
      v = beta2 === undefined ? 0 : beta2 * v + (1 - beta2) * g * g;
      const rate = beta2 === undefined ? lr : lr * Math.sqrt(1 - beta2 ** t);
      largest = Math.max(largest, rate);
      sum += largest ** 2;
      const c = largest ** 2 / sum;
      const d = (beta2 === undefined ? g : g / (Math.sqrt(v) + 1e-8)) + decay * y;
      y += c * (z - y) + rate * (momentum * (1 - c) - 1) * d;
      z -= rate * d;
    }
    return y + (1 - 1 / momentum) * (z - y);
  });
}

it.each([
  ['schedule-free-sgd', { momentum: 0.9, lr: 0.125 }, [0.9, 0.125, 0]],
  ['schedule-free-sgd', { momentum: 0.5, lr: 0.125, weightDecay: 0.25 }, [0.5, 0.125, 0.25]],
  ['schedule-free-adamw', { lr: 1 / 64 }, [0.9, 1 / 64, 0, 0.999]],
  ['schedule-free-adamw', { lr: 1 / 64, betas: [0.6, 0.9], weightDecay: 0.5 }, [0.6, 1 / 64, 0.5, 0.9]],
] as [OptimizerName, Partial<OptimizerOptions>, [number, number, number, number?]][])(
  '%s takes gradients at y, and has x: %j',
  async (name, given, values) => {
    const optimizer = optimizerNamed(name);
    const want = reference(100, ...values);
    for (const dtype of ['float64', 'float32'] as const) {
      const run = await OptimizerRun.create(optimizer, resolveOptions(optimizer, given), start, {
        dtype,
        curvature,
      });
      expect(run.get('w_z')).toEqual(run.get('w'));
      for (let t = 1; t <= 100; t++) await run.step({ w: fed(t) });
      const off = Math.hypot(...run.get('w').map((x, i) => x - want[i]!));
      expect(off, dtype).toBeLessThanOrEqual((dtype === 'float64' ? 1e-10 : 1e-5) * Math.hypot(...want));
      await run.release();
    }
  },
);

it('a rate of 0 changes nothing', async () => {
  const run = await OptimizerRun.create(optimizerNamed('schedule-free-sgd'), { lr: 0 }, start, {
    dtype: 'float64',
  });
  await run.step({ w: fed(1) });
  expect(run.get('w')).toEqual(start.w);
  await run.release();
});

it.each(['cautious', 'scheduleFree', 'wsam'] as const)(
  '%s wraps no average that an extension defines',
  kind => {
    const { inner: _, ...theirs } = optimizerNamed('schedule-free-sgd');
    const optimizer = wrapped(theirs, { [kind]: kind === 'cautious' ? true : {} });
    expect(() => resolveOptions(optimizer, {})).toThrow(
      /The weights of schedule-free-sgd are (already )?an average/,
    );
  },
);

it.each([
  ['schedule-free-adamw', {}, 'The weights of schedule-free-adamw are already an average'],
  ['agd', { win: true }, 'win averages weights, as Schedule-Free does: leave out one of the two.'],
] as [OptimizerName, object, string][])('%s %j is refused by the wrapper', (name, given, why) => {
  const optimizer = wrapped(optimizerNamed(name), { scheduleFree: {} });
  expect(() => resolveOptions(optimizer, given)).toThrow(why);
});
