import { expect, it } from 'vitest';
import { Tensor } from '../../../src/graph/tensor.js';
import type { SCHEDULES } from '../../../src/ops/schedules.js';
import { extendSchedule } from '../../../src/passes/file/extend-schedule.js';
import { readDescription } from '../../../src/passes/file/step-metadata.js';
import { inject } from '../../../src/passes/inject.js';
import { sessionShapes } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { mlp, mlpData } from '../../sample.js';

const BATCH = Object.fromEntries(
  [...mlpData(8)].map(([name, t]) => [name, new Tensor(t.dtype, [1, ...t.dims], t.bytes)]),
);

async function injected(kind: (typeof SCHEDULES)[number], total: number, scalars: 'float64' | 'float32') {
  const schedule = kind === 'one-cycle' ? { kind } : ({ kind, warmup: 2 } as const);
  const options = { loss: { kind: 'cross-entropy' }, schedule, scalars, updates: () => total } as const;
  return (await inject(mlp(), options, sessionShapes)).model;
}

async function bitsAfter(model: Parameters<typeof Trainer.create>[0], steps: number) {
  const trainer = await Trainer.create(model);
  for (let i = 0; i < steps; i++) await trainer.steps(BATCH);
  const state = [...trainer.state].map(([name, t]) => [name, Buffer.from(t.bytes).toString('hex')]);
  await trainer.release();
  return Object.fromEntries(state);
}

it.each([
  ['linear', 'float64'],
  ['cosine', 'float32'],
  ['one-cycle', 'float64'],
] as const)('lets %s end later, to the bits of one that was to end then', async (kind, scalars) => {
  const [short, long] = [await injected(kind, 12, scalars), await injected(kind, 20, scalars)];
  const extended = extendSchedule(short, 20);
  expect(readDescription(extended)).toEqual(readDescription(long));
  expect(await bitsAfter(extended, 15)).toEqual(await bitsAfter(long, 15));
  expect(readDescription(short).schedule!.total).toBe(12);
  expect(await bitsAfter(short, 15)).not.toEqual(await bitsAfter(long, 15));
});

it('does not change a schedule with its own total', async () => {
  const options = { loss: { kind: 'mse' }, schedule: { kind: 'linear', total: 9 } } as const;
  const { model } = await inject(mlp(), options, sessionShapes);
  expect(extendSchedule(model, 20)).toBe(model);
});

it('refuses an end within the warm-up', async () => {
  const short = await injected('linear', 12, 'float64');
  expect(() => extendSchedule(short, 2)).toThrow(/must end before total/);
});
