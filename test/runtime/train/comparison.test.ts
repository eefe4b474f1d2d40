import { join } from 'node:path';
import { expect, it } from 'vitest';
import { type ComparedRun, compare, metricOf, standings } from '../../../src/runtime/train/comparison.js';
import type { TrainEvent } from '../../../src/runtime/train/events.js';
import { runTrainJob } from '../../../src/runtime/train/train-job.js';
import { workplace } from '../../cli/run.js';

const run = (
  candidate: string,
  lr: number,
  seed: number,
  accuracies: number[],
  diverged?: string,
): ComparedRun => ({
  candidate,
  lr,
  seed,
  diverged,
  secondsPerStep: 0.5,
  losses: accuracies.flatMap(() => [1, 1]),
  epochs: accuracies.map(accuracy => ({
    trainLoss: 1,
    validation: { loss: 1 - accuracy, accuracy, metrics: { accuracy }, samples: 10 },
  })),
});

it('ranks the rates of each candidate by the mean over the seeds', () => {
  const runs = [
    run('a', 0.1, 0, [0.2, 0.5]),
    run('a', 0.1, 1, [0.6, 0.7]),
    run('a', 1, 0, [0.5, 0.9]),
    run('a', 1, 1, [0.8, 0.7]),
    run('b', 0.1, 0, [0.9, 0.95]),
    run('b', 0.1, 1, [], 'not finite'),
    run('b', 1, 0, [0.1, 0.2]),
    run('b', 1, 1, [0.1, 0.2]),
  ];
  expect(metricOf(runs)).toEqual({ name: 'accuracy', better: 'higher' });
  const ranked = standings(runs, 0.7);
  expect(ranked.map(s => [s.candidate, s.lr])).toEqual([
    ['a', 1],
    ['a', 0.1],
    ['b', 1],
    ['b', 0.1],
  ]);
  const [first, second, , last] = ranked;
  expect(first!.final.mean).toBeCloseTo(0.8);
  expect(first!.final.spread).toBeCloseTo(Math.SQRT2 * 0.1);
  expect(first!.best.mean).toBeCloseTo(0.85);
  // One seed is there after 4 steps, the other after 2.
  expect(first!.stepsToTarget).toBe(3);
  expect(second!.stepsToTarget).toBeUndefined();
  expect([last!.diverged, last!.seeds]).toEqual([1, 2]);
  const [none] = standings([run('c', 1, 0, [], 'not finite')], 0.7);
  expect(none!.final).toEqual({ mean: Number.NaN, spread: Number.NaN });
});

it('ranks rates by the seeds that all of them have, and reports all seeds', () => {
  const runs = [
    run('a', 0.1, 0, [0.7]),
    run('a', 1, 0, [0.6]),
    // The second seed of the chosen rate is worse than the other rate's only one.
    { ...run('a', 0.1, 1, [0.3]), test: { loss: 1, metrics: { accuracy: 0.2 }, samples: 10 } },
  ];
  const [first] = standings(runs);
  expect(first).toMatchObject({ lr: 0.1, seeds: 2, final: { mean: 0.5 }, test: { mean: 0.2, spread: 0 } });
});

it('is about the loss where that is asked for', () => {
  const runs = [run('a', 0.1, 0, [0.2, 0.5]), run('a', 1, 0, [0.6, 0.4])];
  const metric = metricOf(runs, { monitor: 'loss' });
  expect(metric).toEqual({ name: 'validation loss', better: 'lower' });
  const [first] = standings(runs, 0.55, metric);
  expect(first).toMatchObject({ lr: 0.1, final: { mean: 0.5 }, stepsToTarget: 4 });
});

it('shows the share of SGD over all coordinates, where telemetry does', async () => {
  const folder = await workplace();
  const [model, data] = ['model.onnx', 'train.npz'].map(name => join(folder, name));
  const shared = { model: model!, data: data!, epochs: 2, batchSize: 64, seeds: 1 };
  const groups = [{ match: ['fc1.weight'], options: { delta: 1e3 } }];
  const inject = { loss: { kind: 'cross-entropy' }, telemetry: 3, groups } as const;
  const candidates = [1e-12, 1e3].map(delta => ({
    ...({ name: `${delta}`, optimizer: { name: 'agd', delta }, rates: [1e-3] } as const),
  }));
  const runs: ComparedRun[] = [];
  for await (const event of compare({ ...shared, inject, candidates }))
    if (event.type === 'run') runs.push(event.result);
  // 8 updates, of which the third and the sixth are shown; 32 of the 67 coordinates are fc1.weight's.
  const shares = (share: number) => [3, 6].map(update => ({ update, share: expect.closeTo(share, 6) }));
  expect(runs.map(r => r.sgdShare)).toEqual([shares(32 / 67), shares(1)]);
  expect(standings(runs).map(s => s.sgdShare)).toEqual([expect.closeTo(32 / 67, 6), 1]);
});

it('is about the lowest loss where there is no accuracy', () => {
  const losing = (lr: number, trainLoss: number): ComparedRun => ({
    candidate: 'a',
    lr,
    seed: 0,
    losses: [trainLoss],
    secondsPerStep: 1,
    epochs: [{ trainLoss }],
  });
  const runs = [losing(0.1, 2), losing(1, 1)];
  expect(metricOf(runs)).toEqual({ name: 'train loss', better: 'lower' });
  expect(standings(runs).map(s => s.lr)).toEqual([1, 0.1]);
});

it('gives each run what training alone gives, and all the same start', async () => {
  const folder = await workplace();
  const [model, data, validation] = ['model.onnx', 'train.npz', 'test.npz'].map(name => join(folder, name));
  const shared = { model: model!, data: data!, validation, epochs: 2, batchSize: 32 };
  const loss = { kind: 'cross-entropy' } as const;
  const candidates = [
    { name: 'agd', optimizer: { name: 'agd' }, rates: [0.01, 0.02] },
    { name: 'wild', optimizer: { name: 'sgd' }, rates: [1e38] },
  ] as const;
  const runs: ComparedRun[] = [];
  for await (const event of compare({ ...shared, inject: { loss }, candidates, seeds: 2 }))
    if (event.type === 'run') runs.push(event.result);
  expect(runs.map(r => [r.candidate, r.lr, r.seed])).toEqual([
    ['agd', 0.01, 0],
    ['agd', 0.01, 1],
    ['agd', 0.02, 0],
    ['agd', 0.02, 1],
    ['wild', 1e38, 0],
    ['wild', 1e38, 1],
  ]);
  const bySeed = (seed: number) => new Set(runs.filter(r => r.seed === seed).map(r => r.losses[0] ?? 'none'));
  expect(bySeed(0).size + bySeed(1).size).toBeLessThanOrEqual(4);
  expect(runs[0]!.losses[0]).not.toBe(runs[1]!.losses[0]);
  expect(runs[0]!.losses[0]).toBe(runs[2]!.losses[0]);
  expect(runs[4]!.diverged).toMatch(/not finite|non-finite|Infinity|NaN/);

  const events: TrainEvent[] = [];
  const inject = { loss, optimizer: { name: 'agd', lr: 0.02 }, seed: 1 } as const;
  await runTrainJob({ ...shared, inject, seed: 1, output: join(folder, 'o.onnx') }, e => events.push(e));
  expect(runs[3]!.losses).toEqual(events.flatMap(e => (e.type === 'step' ? [e.loss] : [])));
});
