import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { saveModel } from '../../../src/graph/files.js';
import type { TrainEvent } from '../../../src/internal.js';
import { writeNpz } from '../../../src/runtime/data/npz.js';
import {
  type BatchPlan,
  describeBatchPlan,
  planBatch,
  withinMemory,
} from '../../../src/runtime/train/memory-plan.js';
import { runTrainJob, type TrainJob } from '../../../src/runtime/train/train-job.js';
import { mlp, mlpData, Sketch } from '../../sample.js';

const MB = 1e6;

/** A run of `fixed` MB, and so many for each sample of a part, kept or computed again. */
function trialOf(fixed: number, kept: number, again: number, hasStatistics = false) {
  const asked: BatchPlan[] = [];
  const trial = async (plan: BatchPlan) => {
    asked.push(plan);
    const each = plan.recompute ? again : kept;
    const sums = plan.accumulate > 1 ? 10 : 0;
    return { peak: (fixed + sums + each * plan.batchSize) * MB, hasStatistics };
  };
  return { trial, asked };
}
const all = { accumulate: true, recompute: true };

describe('the plan of a batch within memory', () => {
  it('is the whole batch if it fits', async () => {
    const { trial, asked } = trialOf(100, 5, 1);
    expect(await planBatch(32, 400 * MB, trial, all)).toMatchObject({
      batchSize: 32,
      accumulate: 1,
      recompute: false,
    });
    expect(asked.length).toBeLessThanOrEqual(4);
    // Parts are tried before the whole.
    expect(asked.at(-1)).toMatchObject({ batchSize: 32 });
  });

  it('is the largest part that fits, and no larger one is tried', async () => {
    const { trial, asked } = trialOf(100, 5, 1);
    const plan = await planBatch(32, 180 * MB, trial, all);
    expect(plan).toMatchObject({ batchSize: 8, accumulate: 4, recompute: false });
    expect(plan.peak).toBe(150 * MB);
    expect(Math.max(...asked.map(p => p.batchSize))).toBe(8);
    expect(describeBatchPlan(plan, 180 * MB)).toBe(
      'memory: batches of 32 in 4 parts of 8: 150 MB expected, of 180 MB',
    );
  });

  it('computes activations again if not even one sample fits otherwise', async () => {
    const { trial } = trialOf(100, 200, 20);
    const plan = await planBatch(6, 220 * MB, trial, all);
    expect(plan).toMatchObject({ batchSize: 3, accumulate: 2, recompute: true });
    expect(describeBatchPlan(plan, 220 * MB)).toMatch(/parts of 3, recomputing activations/);
  });

  it('keeps the whole batch where parts would change its statistics', async () => {
    const { trial } = trialOf(100, 5, 1, true);
    expect(await planBatch(32, 200 * MB, trial, all)).toMatchObject({ batchSize: 32, recompute: true });
    const smaller = trialOf(100, 20, 8, true);
    const plan = await planBatch(32, 180 * MB, smaller.trial, all);
    expect(plan).toMatchObject({ batchSize: 2, accumulate: 16 });
  });

  it('takes neither where they are excluded', async () => {
    const { trial, asked } = trialOf(100, 5, 1);
    await expect(planBatch(32, 200 * MB, trial, { accumulate: false, recompute: false })).rejects.toThrow(
      'The run does not fit into --memory 200MB: it needs at least 274MB, in batches of 32.',
    );
    expect(asked).toHaveLength(1);
    const whole = await planBatch(32, 200 * MB, trialOf(100, 5, 1).trial, {
      accumulate: false,
      recompute: true,
    });
    expect(whole).toMatchObject({ batchSize: 32, recompute: true });
  });

  it('says how much the least is', async () => {
    await expect(planBatch(8, 100 * MB, trialOf(120, 5, 1).trial, all)).rejects.toThrow(
      /does not fit into --memory 100MB: it needs at least 138MB, in 8 parts of 1 with activations recomputed/,
    );
  });
});

describe('a job within memory', () => {
  let folder: string;
  const at = (name: string) => join(folder, name);
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'agd-onnx-test-'));
    await saveModel(mlp(), at('m.onnx'));
    await writeNpz(at('t.npz'), mlpData(64, 1));
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  const job = (rest: Partial<TrainJob> = {}) => ({
    ...{ model: at('m.onnx'), data: at('t.npz'), epochs: 1, batchSize: 32, seed: 3, memory: 180 * MB },
    inject: { loss: { kind: 'cross-entropy' }, optimizer: { name: 'sgd', lr: 0.5 } } as const,
    ...rest,
  });
  /** Batches of 8 are the largest that fit. */
  const planned = async (asked: TrainJob & { memory: number }) => {
    const notes: string[] = [];
    const measure = async ({ batchSize }: TrainJob) => ({
      peak: (100 + 5 * batchSize!) * MB,
      hasStatistics: false,
    });
    const plan = await withinMemory(asked, measure, text => notes.push(text));
    return { plan, notes };
  };
  const trained = async (asked: TrainJob) => {
    const events: TrainEvent[] = [];
    await runTrainJob(asked, event => events.push(event));
    return events.flatMap(event => (event.type === 'step' ? [event.loss] : []));
  };
  const privately = (batch: number) => ({
    ...job().inject,
    seed: 3,
    dpSgd: { clip: 0.1, noise: 0, batch },
  });

  it('divides the expected size of a private batch as the batch', async () => {
    const { plan } = await planned(job({ inject: privately(32) }));
    expect(plan).toMatchObject({ batchSize: 8, inject: { accumulate: 4, dpSgd: { batch: 8 } } });
    // After the first update, the parameters are the same.
    const mean = (losses: readonly number[]) => losses.reduce((sum, x) => sum + x) / losses.length;
    const [parts, whole] = [await trained(plan), await trained(job({ inject: privately(32) }))];
    expect(mean(parts.slice(4))).toBeCloseTo(whole[1]!, 5);
    await expect(planned(job({ inject: privately(20) }))).rejects.toThrow(
      /--memory divides batches of 32, and --dp-sgd has batch=20: leave out batch=/,
    );
  });

  it('keeps the batch that the model fixes', async () => {
    const s = new Sketch();
    const x = s.input('x', [16, 4]);
    await saveModel(s.model([s.add('MatMul', [x, s.weight('w', [4, 3])], 'y')]), at('f.onnx'));
    const fixed = await planned(job({ model: at('f.onnx'), batchSize: undefined, memory: 300 * MB }));
    expect(fixed.plan.batchSize).toBe(16);
    expect(fixed.plan.inject!.accumulate).toBeUndefined();
    await expect(
      planned(job({ model: at('f.onnx'), batchSize: undefined, memory: 150 * MB })),
    ).rejects.toThrow(/needs at least \d+MB, in batches of 16/);
  });

  it('is resumed as it began, with the size of its updates', async () => {
    const state = at('s.agd.onnx');
    const asked = job({ state, inject: privately(32) });
    await trained((await planned(asked)).plan);
    const again = await planned({ ...asked, epochs: 2, memory: 4000 * MB });
    expect(again.notes).toEqual(['memory: as when the run began, batches of 32 in 4 parts of 8']);
    expect(await trained(again.plan)).toHaveLength(8);
    const other = { ...asked, batchSize: 16, inject: privately(16) };
    await expect(planned(other)).rejects.toThrow(
      /takes 32 samples, and --batch-size and --accumulate ask for 16: a resumed run keeps its size/,
    );
  });
});
