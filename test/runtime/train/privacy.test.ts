import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { saveModel } from '../../../src/graph/files.js';
import { random } from '../../../src/graph/random.js';
import { fit as fitModel, type TrainEvent } from '../../../src/internal.js';
import { inject } from '../../../src/passes/inject.js';
import { bindData } from '../../../src/runtime/data/bind.js';
import type { Dataset } from '../../../src/runtime/data/dataset.js';
import { writeNpz } from '../../../src/runtime/data/npz.js';
import { poissonSample } from '../../../src/runtime/data/order.js';
import { sessionShapes } from '../../../src/runtime/session.js';
import { epsilonOf } from '../../../src/runtime/train/accountant.js';
import { runTrainJob, type TrainJob } from '../../../src/runtime/train/train-job.js';
import { collect, mlp, mlpData } from '../../sample.js';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'agd-onnx-test-'));
  await saveModel(mlp(), at('m.onnx'));
  await writeNpz(at('t.npz'), mlpData(64, 1));
});
afterAll(() => rm(folder, { recursive: true, force: true }));
const at = (name: string) => join(folder, name);

describe('Poisson sampling', () => {
  it('takes each sample with the same probability, by itself', () => {
    const draw = random(3, 0);
    const counts = Array<number>(50).fill(0);
    let both = 0;
    const times = 4000;
    for (let i = 0; i < times; i++) {
      const rows = [...poissonSample(50, 0.2, draw)];
      expect(rows).toEqual([...new Set(rows)].sort((a, b) => a - b));
      for (const row of rows) counts[row]!++;
      if (rows.includes(7) && rows.includes(8)) both++;
    }
    // Five standard deviations.
    for (const count of counts)
      expect(Math.abs(count / times - 0.2)).toBeLessThan(5 * Math.sqrt(0.16 / times));
    expect(Math.abs(both / times - 0.04)).toBeLessThan(5 * Math.sqrt(0.04 / times));
    expect([...poissonSample(3, 1, draw)]).toEqual([0, 1, 2]);
  });

  const inputs = [
    { name: 'x', dtype: 'float32', shape: ['batch', 4] },
    { name: 'target', dtype: 'int64', shape: ['batch'] },
  ] as const;
  const drawn = async (data: Dataset, options: object = {}) =>
    (await collect(data.batches({ batchSize: 6, shuffle: 9, ...options }))).map(({ inputs: { x } }) =>
      x!.numbers(),
    );
  const data = () => bindData(mlpData(64, 1), inputs, { labels: ['target'] });

  it('goes on in the middle of an epoch as if it had not stopped', async () => {
    const poisson = data().poisson(2);
    const all = await drawn(poisson);
    // 64 samples in updates of 12.
    expect(all).toHaveLength(12);
    expect(poisson.batchCount({ batchSize: 6 })).toBe(12);
    expect(new Set(all.map(x => x.length)).size).toBeGreaterThan(1);
    expect(await drawn(poisson, { skip: 3 })).toEqual(all.slice(3));
    expect(await drawn(poisson, { epoch: 1 })).not.toEqual(all);
  });
  it('has no sample twice in an update', async () => {
    const all = await drawn(data().poisson(3), { batchSize: 20 });
    const update = all.slice(0, 3).flat();
    const firsts = update.filter((_, i) => i % 4 === 0);
    expect(new Set(firsts).size).toBe(firsts.length);
  });
  it('evaluates every sample once', async () => {
    const poisson = data().poisson();
    const stored = await collect(poisson.batches({ batchSize: 6, shuffle: 1, pad: true, asStored: true }));
    expect(stored.reduce((n, { size }) => n + size, 0)).toBe(64);
  });
});

describe('a private run', () => {
  const PRIVATE = { loss: { kind: 'cross-entropy' }, dpSgd: { clip: 1, noise: 1.2 } } as const;
  const job = (rest: Partial<TrainJob> = {}): TrainJob => ({
    model: at('m.onnx'),
    data: at('t.npz'),
    output: at('o.onnx'),
    epochs: 2,
    batchSize: 8,
    sampler: 'poisson',
    inject: PRIVATE,
    ...rest,
  });
  const run = async (asked: TrainJob, stopAfter = Number.POSITIVE_INFINITY) => {
    const events: TrainEvent[] = [];
    let steps = 0;
    const signal = {
      get aborted() {
        return steps >= stopAfter;
      },
    };
    await runTrainJob(
      asked,
      event => {
        events.push(event);
        if (event.type === 'step') steps++;
      },
      signal,
    );
    return events;
  };
  const losses = (events: readonly TrainEvent[]) => events.flatMap(e => (e.type === 'step' ? [e.loss] : []));
  const end = (events: readonly TrainEvent[]) => events.find(e => e.type === 'end')!;

  it('tells what it has spent after each epoch and at the end', async () => {
    const events = await run(job());
    const spent = (updates: number) => ({
      epsilon: epsilonOf({ noise: 1.2, rate: 8 / 64, updates }, 64 ** -1.1),
      delta: 64 ** -1.1,
    });
    expect(events.flatMap(e => (e.type === 'epoch' ? [e.privacy] : []))).toEqual([spent(8), spent(16)]);
    expect(end(events).privacy).toEqual(spent(16));
    expect(events.filter(e => e.type === 'note').map(e => e.text)).toEqual([
      expect.stringMatching(
        /^private: gradients of samples clipped to 1 \(by ghost clipping\), noise 1\.2; epsilon/,
      ),
    ]);
  });

  it('says that epsilon assumes Poisson sampling if it shuffles', async () => {
    const events = await run(job({ sampler: undefined }));
    expect(events).toContainEqual(
      expect.objectContaining({ text: expect.stringMatching(/this run shuffles: use --sampler poisson/) }),
    );
  });

  it('has a secret seed, with which it is resumed', async () => {
    const inject = PRIVATE;
    const accumulating = { inject: { ...inject, accumulate: 2 } };
    const state = at('s.agd.onnx');
    const first = await run(job({ ...accumulating, state }), 5);
    expect(losses(first)).toHaveLength(5);
    const rest = await run(job({ ...accumulating, state }));
    expect(losses(rest)).toHaveLength(11);
    const other = await run(job(accumulating));
    expect(losses(other).slice(0, 5)).not.toEqual(losses(first));
    await expect(run(job({ ...accumulating, state, batchSize: 16, epochs: 3 }))).rejects.toThrow(
      /cannot be resumed with --batch-size 16 \(was 8\)/,
    );
    const seeded = { ...accumulating, seed: 4 };
    const whole = await run(job({ ...seeded, inject: { ...accumulating.inject, seed: 4 } }));
    const state2 = at('s2.agd.onnx');
    const stopped = { ...seeded, inject: { ...accumulating.inject, seed: 4 }, state: state2 };
    const parts = [await run(job(stopped), 5), await run(job(stopped))];
    expect(parts.flatMap(losses)).toEqual(losses(whole));
  });

  it('chooses the noise for a budget', async () => {
    const budget = { dpEpsilon: 2, dpDelta: 1e-3 };
    const events = await run(job({ ...budget, inject: { ...PRIVATE, dpSgd: { clip: 1 }, accumulate: 4 } }));
    const { epsilon } = end(events).privacy!;
    expect(epsilon).toBeLessThanOrEqual(2);
    expect(epsilon).toBeGreaterThan(1.99);
    const injected = events.find(e => e.type === 'injected')!;
    expect(injected.description.dpSgd).toMatchObject({ clip: 1, batch: 8, method: 'ghost' });
  });

  const RESUMED: [string, Partial<TrainJob>, RegExp][] = [
    ['another sampler', { sampler: undefined }, /resumed with --sampler shuffle \(was poisson\)/],
    ['another split', { valSplit: 0.75 }, /resumed with 15 training samples \(was 64;/],
    [
      'more epochs than the budget has',
      { epochs: 90 },
      /90 epochs spend .* --epochs \d+ is the most that fits/,
    ],
    ['a smaller budget', { dpEpsilon: 0.01 }, /above --dp-epsilon 0\.01: not even one epoch fits/],
  ];
  it('is not resumed in a way that makes its epsilon wrong', async () => {
    const state = at('resumed.agd.onnx');
    const asked = { state, dpEpsilon: 2, inject: { ...PRIVATE, dpSgd: { clip: 1 } } };
    await run(job(asked));
    for (const [what, rest, message] of RESUMED)
      await expect(run(job({ ...asked, epochs: 3, dpEpsilon: 5, ...rest })), what).rejects.toThrow(message);
    const { epsilon } = end(await run(job({ ...asked, epochs: 3, dpEpsilon: 5 }))).privacy!;
    expect(epsilon).toBeGreaterThan(2);
  });

  it('keeps to a budget with the noise of an injected file', async () => {
    const { model } = await inject(mlp(), { ...PRIVATE, seed: 1 }, sessionShapes);
    await saveModel(model, at('p.agd.onnx'));
    const asked = { model: at('p.agd.onnx'), inject: undefined };
    const events = await run(job(asked));
    expect(events).toContainEqual(
      expect.objectContaining({ text: expect.stringMatching(/inject with batch= in --dp-sgd/) }),
    );
    const { epsilon } = end(events).privacy!;
    await run(job({ ...asked, dpEpsilon: epsilon }));
    await expect(run(job({ ...asked, dpEpsilon: epsilon * 0.99 }))).rejects.toThrow(
      /--epochs 1 is the most that fits/,
    );
  });

  const refused: [string, Partial<TrainJob>, RegExp][] = [
    ['a budget beside noise', { dpEpsilon: 3 }, /give one of the two/],
    [
      'a budget without clipping',
      { dpEpsilon: 3, inject: { loss: { kind: 'cross-entropy' } } },
      /add --dp-sgd/,
    ],
    [
      'a delta without privacy',
      { dpDelta: 0.1, inject: { loss: { kind: 'cross-entropy' } } },
      /add --dp-sgd/,
    ],
    ['a weighted sampler', { sampler: 'weighted' }, /use --sampler poisson/],
    [
      'updates that span two epochs',
      { sampler: 'shuffle', inject: { ...PRIVATE, accumulate: 3 } },
      /8 batches and an update takes 3/,
    ],
    [
      'weights from the data',
      { inject: { ...PRIVATE, loss: { kind: 'bce-with-logits', posWeight: 'balanced' } } },
      /is computed from the data/,
    ],
  ];
  it.each(refused)('refuses %s', async (_, rest, message) => {
    await expect(run(job(rest))).rejects.toThrow(message);
  });

  it('is there for programs', async () => {
    const events: TrainEvent[] = [];
    const options = {
      loss: 'cross-entropy',
      batchSize: 8,
      dpSgd: { clip: 1 },
      dpEpsilon: 4,
      sampler: 'poisson',
    } as const;
    const { state } = await fitModel(mlp(), mlpData(64, 1), { ...options, onEvent: e => events.push(e) });
    expect(end(events).privacy!.epsilon).toBeLessThanOrEqual(4);
    const resumed = await fitModel(state, mlpData(64, 1), { batchSize: 8, sampler: 'poisson', epochs: 2 });
    expect(resumed.history.losses).toHaveLength(16);
  });
});
