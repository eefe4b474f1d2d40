import { describe, expect, it, vi } from 'vitest';
import { localCollectives } from '../../../src/runtime/collective/local.js';
import { planTogether } from '../../../src/runtime/train/plan-together.js';
import type { TrainJob } from '../../../src/runtime/train/train-job.js';
import { workplace } from '../../cli/run.js';

describe('ranks with a limit on their memory', () => {
  /** The job of each rank, whose process takes 10 bytes for each of its samples, and 7 for the library. */
  async function plan(
    ranks: number,
    memory: number,
    collectives = localCollectives(ranks),
    before = async () => {},
  ) {
    const folder = await workplace();
    const trials: TrainJob[] = [];
    const notes: string[] = [];
    const job: TrainJob & { memory: number } = {
      ...{ model: `${folder}/model.onnx`, data: `${folder}/train.npz`, epochs: 1, batchSize: 36, memory },
      ...{ inject: { loss: { kind: 'cross-entropy' } }, state: `${folder}/run.agd.onnx`, distributed: true },
    };
    const measure = async (one: TrainJob) => {
      trials.push(one);
      await before();
      return { peak: 10 * one.batchSize!, hasStatistics: false };
    };
    const how = { measure, carrier: 7, note: (text: string) => notes.push(text) };
    const jobs = await Promise.all(collectives.map(c => planTogether(job, c, how)));
    return { jobs, trials, notes };
  }

  it('all follow the plan of the first, which counts its part of a batch and the library', async () => {
    const { jobs, trials, notes } = await plan(3, 82);
    for (const job of jobs)
      expect(job).toMatchObject({ batchSize: 18, inject: { accumulate: 2 }, memoryLimit: 82 });
    expect(new Set(jobs.map(job => JSON.stringify(job))).size).toBe(1);
    expect(jobs[0]!.memory).toBeUndefined();
    // The parts of 18 samples are six on each rank.
    expect(trials.map(job => job.batchSize)).toContain(6);
    for (const job of trials) expect(job).toMatchObject({ isOnlyRank: true, dryRun: true, state: undefined });
    expect(notes.at(-1)).toMatch(/batches of 36 in 2 parts of 18/);
  });

  it('hear from the first one during its trials, which may take longer than a rank waits for another', async () => {
    const collectives = localCollectives(2);
    const heard = vi.spyOn(collectives[1]!, 'broadcast');
    const trial = () => vi.waitUntil(() => heard.mock.calls.length > 2, { timeout: 10_000 }).then(() => {});
    const { jobs } = await plan(2, 200, collectives, trial);
    expect(jobs[1]).toMatchObject({ batchSize: 36 });
  });

  it('keep a batch that fits whole', async () => {
    const { jobs } = await plan(3, 200);
    expect(jobs[2]).toMatchObject({ batchSize: 36 });
    expect(jobs[2]!.inject).not.toHaveProperty('accumulate');
  });
});
