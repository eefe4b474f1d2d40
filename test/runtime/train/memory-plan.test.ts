import { describe, expect, it } from 'vitest';
import { type BatchPlan, describeBatchPlan, planBatch } from '../../../src/runtime/train/memory-plan.js';

const MB = 2 ** 20;

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
    const plan = await planBatch(32, 200 * MB, trial, all);
    expect(plan).toMatchObject({ batchSize: 8, accumulate: 4, recompute: false });
    expect(plan.peak).toBe(150 * MB);
    expect(Math.max(...asked.map(p => p.batchSize))).toBe(8);
    expect(describeBatchPlan(plan, 200 * MB)).toBe(
      'memory: batches of 32 in 4 parts of 8: 150 MB expected, of 200 MB',
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
    const plan = await planBatch(32, 200 * MB, smaller.trial, all);
    expect(plan).toMatchObject({ batchSize: 2, accumulate: 16 });
  });

  it('takes neither where they are excluded', async () => {
    const { trial, asked } = trialOf(100, 5, 1);
    await expect(planBatch(32, 200 * MB, trial, { accumulate: false, recompute: false })).rejects.toThrow(
      'The run does not fit into --memory 200MB: it needs at least 306MB, in batches of 32.',
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
      /does not fit into --memory 100MB: it needs at least 155MB, in 8 parts of 1 with activations recomputed/,
    );
  });
});
