/** One plan for the memory of all ranks of a distributed run. */
import { fromUtf8, toUtf8 } from '../../graph/bytes.js';
import { broadcastBytes, type Collective, onFirstRank } from '../collective/collective.js';
import { withinMemory } from './memory-plan.js';
import { NOTHING_SAVED } from './run-state.js';
import type { TrainJob } from './train-job.js';

/** The memory of a dry run, and whether the step updates running statistics. */
type Measure = (job: TrainJob) => Promise<{ peak: number; hasStatistics: boolean }>;

/**
 * The job of each rank with the plan that keeps every rank within `job.memory`: that of rank 0, whose trials, `measure`, are runs of
 * one rank with its part of a batch. `carrier` is what the library that carries the messages takes, in bytes. All ranks call it.
 * Throws as `withinMemory` does, on rank 0.
 */
export async function planTogether(
  job: TrainJob & { memory: number },
  collective: Collective,
  { measure, carrier, note }: { measure: Measure; carrier: number; note: (text: string) => void },
): Promise<TrainJob> {
  const { size } = collective;
  const trial = async (one: TrainJob) => {
    const batchSize = one.batchSize && Math.ceil(one.batchSize / size);
    const alone = { ...NOTHING_SAVED, folds: undefined, findLr: undefined, distributed: undefined };
    const found = await measure({ ...one, ...alone, batchSize, dryRun: true, isOnlyRank: true });
    return { ...found, peak: found.peak + carrier };
  };
  const own = await onFirstRank(collective, () => withinMemory(job, trial, note, size));
  const chosen = own && {
    batchSize: own.batchSize,
    accumulate: own.inject?.accumulate,
    checkpointActivations: own.inject?.checkpointActivations,
  };
  const bytes = await broadcastBytes(collective, chosen && toUtf8(JSON.stringify(chosen)));
  const { batchSize, ...inject } = JSON.parse(fromUtf8(bytes)) as NonNullable<typeof chosen>;
  const { memory, ...rest } = job;
  return { ...rest, memoryLimit: memory, batchSize, inject: { ...job.inject, ...inject } };
}
