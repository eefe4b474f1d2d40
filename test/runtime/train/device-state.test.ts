/** State that stays on a WebGPU device, against the same steps on the CPU. */
import { describe, expect, it, vi } from 'vitest';
import type { AgdError } from '../../../src/graph/errors.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { inject } from '../../../src/passes/inject.js';
import type { Device } from '../../../src/passes/options.js';
import { sessionShapes, tensorsOnDevice } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { spread } from '../../ops/vjp.js';
import { Sketch } from '../../sample.js';
import { hasWebgpu } from '../../webgpu-adapter.js';

// The first run of each kernel compiles it.
vi.setConfig({ testTimeout: 600_000 });

/** y[batch, 3] = tanh(x w + b). */
function layer() {
  const s = new Sketch();
  const sum = s.add('Gemm', [s.input('x', ['batch', 4]), s.weight('w', [4, 3]), s.weight('b', [3])], 'sum');
  return s.model([s.add('Tanh', [sum], 'y')]);
}

const batches = (steps: number, seed = 1) => ({
  x: spread([steps, 8, 4], [-1, 1], seed),
  target: spread([steps, 8, 3], [-1, 1], seed + 1),
});

async function made(device: Device, options: Partial<Parameters<typeof inject>[1]> = {}) {
  const settings = { loss: { kind: 'mse' }, ...options } as const;
  const { model } = await inject(layer(), settings, sessionShapes);
  return Trainer.create(model, { device });
}

const numbers = (state: ReadonlyMap<string, Tensor>) =>
  [...state].map(([name, t]) => [name, t.numbers()] as const);

/** The largest difference of two states, relative to the largest number of each tensor. */
function difference(a: Trainer, b: Trainer): number {
  const [one, other] = [numbers(a.state), new Map(numbers(b.state))];
  const worst = one.map(([name, values]) => {
    const scale = Math.max(1, ...values.map(Math.abs));
    return Math.max(...values.map((v, i) => Math.abs(v - other.get(name)![i]!) / scale));
  });
  return Math.max(...worst);
}

const failure = (work: Promise<unknown>) =>
  work.then(
    () => undefined,
    (error: AgdError) => `${error.code}: ${error.message}`,
  );

describe.skipIf(!hasWebgpu)('state on a WebGPU device', () => {
  it.each([
    ['AGD', {}],
    [
      'clipping, averages, accumulation and telemetry',
      { clipGradNorm: 0.1, ema: 0.9, accumulate: 2, telemetry: 1 },
    ],
  ] as const)('gives the losses and the parameters of the CPU, with %s', async (_, options) => {
    const [here, there] = [await made('cpu', options), await made('webgpu', options)];
    for (const seed of [1, 2, 3]) {
      const losses = await here.steps(batches(4, seed));
      const found = await there.steps(batches(4, seed));
      for (const [i, loss] of losses.entries()) expect(Math.abs(found[i]! - loss)).toBeLessThan(1e-6);
      expect(there.lastSteps.map(s => s.lr)).toEqual(here.lastSteps.map(s => s.lr));
      for (const [i, { gradNorm }] of here.lastSteps.entries())
        if (gradNorm !== undefined) expect(there.lastSteps[i]!.gradNorm).toBeCloseTo(gradNorm, 5);
      expect(there.telemetry.length).toBe(here.telemetry.length);
    }
    expect([there.stepCount, there.batchCount]).toEqual([here.stepCount, here.batchCount]);
    await there.fetchState();
    expect(difference(here, there)).toBeLessThan(1e-5);
    await Promise.all([here.release(), there.release()]);
  });

  it('takes no more tensors there with more runs, and none after the release', async () => {
    const before = tensorsOnDevice();
    const trainer = await made('webgpu', { optimizer: { name: 'sgd', momentum: 0.9 } });
    const counts: number[] = [];
    for (let run = 0; run < 30; run++) {
      await trainer.steps(batches(1 + (run % 3), run));
      if (run % 10 === 0) await trainer.fetchState();
      if (run % 7 === 0) trainer.restore(await restored(trainer));
      counts.push(tensorsOnDevice() - before);
    }
    // Two parameters and their momentum; none where the state was just replaced.
    expect(new Set(counts)).toEqual(new Set([0, 4]));
    await trainer.release();
    expect(tensorsOnDevice()).toBe(before);
  });

  it('is read only where it was asked for', async () => {
    const trainer = await made('webgpu', { optimizer: { name: 'sgd' } });
    await trainer.steps(batches(2));
    expect(() => trainer.snapshot()).toThrow('await fetchState() before snapshot()');
    expect(() => trainer.checkpoint()).toThrow('await fetchState() before checkpoint()');
    expect(() => trainer.state.get('w')!.numbers()).toThrow('on the device');
    await trainer.fetchState();
    const snapshot = trainer.snapshot();
    const w = trainer.state.get('w')!.numbers();
    await trainer.steps(batches(1));
    expect(() => trainer.state.get('w')!.numbers()).toThrow('on the device');
    // What was read stays as it was.
    const stored = [...snapshot.graph.initializers].find(([value]) => value.name === 'w')![1];
    expect(stored.numbers()).toEqual(w);
    const { x, target } = batches(1);
    const inputs = {
      x: new Tensor('float32', [8, 4], x.bytes),
      target: new Tensor('float32', [8, 3], target.bytes),
    };
    const { loss } = await trainer.evaluate([{ inputs, size: 8 }]);
    expect(loss).toBeGreaterThan(0);
    await trainer.release();
  });

  it.each([
    ['a batch that is not finite', 0.1, { x: (values: number[]) => values.with(5 * 8 * 4, Number.NaN) }],
    [
      'an update that makes parameters infinite',
      3e38,
      { target: (values: number[]) => values.map(v => v * 1e3) },
    ],
  ])('goes back to the last good step after %s, as on the CPU', async (_, lr, changes) => {
    const before = tensorsOnDevice();
    const results = [];
    for (const device of ['cpu', 'webgpu'] as const) {
      const trainer = await made(device, { optimizer: { name: 'sgd', lr } });
      const changed = Object.fromEntries(
        Object.entries(batches(8)).map(([name, t]) => {
          const change = (changes as Record<string, (values: number[]) => number[]>)[name];
          return [name, change ? Tensor.ofNumbers('float32', t.dims, change(t.numbers())) : t];
        }),
      );
      const error = await failure(trainer.steps(changed));
      await trainer.fetchState();
      results.push([error, trainer.stepCount, Number.isFinite(trainer.state.get('w')!.numbers()[0])]);
      await trainer.release();
    }
    expect(results[1]).toEqual(results[0]);
    expect(results[0]![0]).toMatch(/^non-finite/);
    expect(tensorsOnDevice()).toBe(before);
  });
});

async function restored(trainer: Trainer) {
  await trainer.fetchState();
  return trainer.checkpoint();
}
