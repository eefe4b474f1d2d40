import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as v from 'valibot';
import { describe, expect, it } from 'vitest';
import { runLog } from '../../../cli/run-log.js';
import { type InjectOptions, inject } from '../../../src/index.js';
import { bindData } from '../../../src/runtime/data/bind.js';
import { gradients } from '../../../src/runtime/gradients.js';
import { EVENT_SCHEMAS, type LoopEvent, type TrainEvent } from '../../../src/runtime/train/events.js';
import { runTrainJob } from '../../../src/runtime/train/train-job.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { trainingLoop } from '../../../src/runtime/train/training-loop.js';
import { workplace } from '../../cli/run.js';
import { mlp, mlpData } from '../../sample.js';

type Step = Extract<LoopEvent, { type: 'step' }>;

const anyEvent = v.variant('type', EVENT_SCHEMAS);
const SGD = { name: 'sgd', lr: 0.5 } as const;

/** The steps of two epochs of 8 batches of 16 samples. */
async function stepsOf(options: Partial<InjectOptions>, lr?: number): Promise<Step[]> {
  const given = { loss: { kind: 'cross-entropy' }, optimizer: SGD, ...options } as const;
  const { model } = await inject(mlp(), given);
  const trainer = await Trainer.create(model);
  const steps: Step[] = [];
  const data = bindData(mlpData(128), trainer.inputs, { labels: ['target'] });
  for await (const event of trainingLoop(trainer, data, { epochs: 2, batchSize: 16, lr }))
    if (event.type === 'step') steps.push(event);
  await trainer.release();
  return steps;
}

const close = (found: (number | undefined)[], wanted: number[]) => {
  expect(found).toHaveLength(wanted.length);
  for (const [i, x] of wanted.entries()) expect(found[i], `${i}`).toBeCloseTo(x, 6);
};

describe('a step reports the learning rate', () => {
  const ks = Array.from({ length: 16 }, (_, k) => k);
  it('of the model, or as it is given', async () => {
    close(
      (await stepsOf({})).map(s => s.lr),
      ks.map(() => 0.5),
    );
    close(
      (await stepsOf({}, 0.25)).map(s => s.lr),
      ks.map(() => 0.25),
    );
  });
  it.each([
    ['cosine', { kind: 'cosine', total: 16 }, (k: number) => 0.5 * (1 + Math.cos((Math.PI * k) / 16))],
    ['step', { kind: 'step', every: 5, gamma: 0.1 }, (k: number) => 0.1 ** Math.floor(k / 5)],
    [
      'linear',
      { kind: 'linear', total: 10, warmup: 4 },
      (k: number) => (k < 4 ? 0.25 + (0.75 * k) / 4 : Math.max(0, 1 - (k - 4) / 6)),
    ],
    [
      'restarts',
      { kind: 'cosine', period: 2, multiply: 2 },
      (k: number) => {
        const [start, length] = k < 2 ? [0, 2] : k < 6 ? [2, 4] : k < 14 ? [6, 8] : [14, 16];
        return 0.5 * (1 + Math.cos((Math.PI * (k - start!)) / length!));
      },
    ],
  ] as const)('of a schedule: %s', async (_name, schedule, factor) => {
    close(
      (await stepsOf({ schedule })).map(s => s.lr),
      ks.map(k => 0.5 * factor(k)),
    );
  });
  it('of the update that a batch counts in', async () => {
    const steps = await stepsOf({ accumulate: 4, schedule: { kind: 'step', every: 1, gamma: 0.5 } });
    close(
      steps.map(s => s.lr),
      ks.map(k => 0.5 * 0.5 ** Math.floor(k / 4)),
    );
  });
});

describe('a step reports the norm of its gradients', () => {
  /** That of the first batch, by the gradients themselves. */
  async function norm(batches = 1): Promise<number> {
    const { model } = await inject(mlp(), { loss: { kind: 'cross-entropy' } });
    const trainer = await Trainer.create(model);
    const data = bindData(mlpData(128), trainer.inputs, { labels: ['target'] });
    const { value: first } = await data.batches({ batchSize: 16 * batches, shuffle: 0 }).next();
    await trainer.release();
    const { gradients: grads } = await gradients(mlp(), { loss: { kind: 'cross-entropy' } }, first!.inputs);
    return Math.hypot(...[...grads.values()].flatMap(t => t.numbers()));
  }
  it('before clipping', async () => {
    const steps = await stepsOf({ clipGradNorm: 1e-3 });
    expect(steps[0]!.gradNorm).toBeCloseTo(await norm(), 5);
    expect(steps.every(s => s.gradNorm! > 1e-2)).toBe(true);
  });
  it('where telemetry shows it', async () => {
    const steps = await stepsOf({ telemetry: 3 });
    expect(steps.map(s => s.gradNorm !== undefined)).toEqual(steps.map((_, k) => (k + 1) % 3 === 0));
    const all = await stepsOf({ telemetry: 1 });
    expect(all[0]!.gradNorm).toBeCloseTo(await norm(), 5);
  });
  it('of the batches of an update together', async () => {
    const steps = await stepsOf({ clipGradNorm: 1, accumulate: 2 });
    expect(steps.map(s => s.gradNorm !== undefined)).toEqual(steps.map((_, k) => k % 2 === 1));
    expect(steps[1]!.gradNorm).toBeCloseTo(await norm(2), 5);
  });
  it('and nothing where the step does not compute it', async () => {
    expect((await stepsOf({})).some(s => 'gradNorm' in s)).toBe(false);
  });
});

it('every event of a run fits the schema, in the library and in a log, and has its time', async () => {
  const folder = await workplace();
  const file = (name: string) => join(folder, name);
  const job = {
    model: file('model.onnx'),
    inject: { loss: { kind: 'cross-entropy' }, clipGradNorm: 1, telemetry: 2 },
    data: file('train.npz'),
    validation: file('test.npz'),
    output: file('out.onnx'),
    state: file('state.onnx'),
    epochs: 2,
  } as const;
  const events: TrainEvent[] = [];
  const log = runLog(file('log.jsonl'), text => expect.fail(text));
  const begin = Date.now();
  const watch = (event: TrainEvent) => {
    events.push(event);
    log(event);
  };
  await runTrainJob(job, watch);
  await runTrainJob({ ...job, epochs: 3 }, watch);
  for (const event of events) v.parse(anyEvent, event);
  const types = new Set(events.map(e => e.type));
  expect([...types].sort()).toEqual([
    'end',
    'epoch',
    'injected',
    'note',
    'saved',
    'start',
    'step',
    'telemetry',
  ]);
  const lines = readFileSync(file('log.jsonl'), 'utf8').trim().split('\n');
  for (const line of lines) v.parse(anyEvent, JSON.parse(line));
  const times = events.map(e => e.time);
  expect(Math.min(...times)).toBeGreaterThanOrEqual(begin);
  expect(Math.max(...times)).toBeLessThanOrEqual(Date.now());
  expect(events.find(e => e.type === 'injected')).not.toHaveProperty('report');
});

it('a validation pass tells where it stands', async () => {
  const { model } = await inject(mlp(), { loss: { kind: 'cross-entropy' } });
  const trainer = await Trainer.create(model);
  const bound = (n: number) => bindData(mlpData(n), trainer.inputs, { labels: ['target'] });
  const seen: LoopEvent[] = [];
  let time = 0;
  // A clock that runs a second at each look.
  const now = performance.now;
  performance.now = () => (time += 1000);
  try {
    for await (const event of trainingLoop(trainer, bound(32), {
      epochs: 1,
      validation: bound(128),
      batchSize: 16,
    }))
      if (event.type === 'validation' || event.type === 'epoch') seen.push(event);
  } finally {
    performance.now = now;
  }
  await trainer.release();
  expect(seen.at(-1)!.type).toBe('epoch');
  const passes = seen.flatMap(e => (e.type === 'validation' ? [[e.epoch, e.batch, e.batches]] : []));
  expect(passes.length).toBeGreaterThan(3);
  expect(passes.every(([epoch, , batches]) => epoch === 1 && batches === 8)).toBe(true);
  expect(passes.map(([, batch]) => batch)).toEqual(
    [...passes.map(([, batch]) => batch!)].sort((a, b) => a - b),
  );
});
