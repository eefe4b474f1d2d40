/** Chooses how a batch is computed so that a run stays within a memory limit. */
import { existsSync } from 'node:fs';
import { AgdError } from '../../graph/errors.js';
import { loadModel } from '../../graph/files.js';
import type { Graph } from '../../graph/ir.js';
import type { InjectOptions } from '../../passes/options.js';
import { DEFAULT_BATCH_SIZE } from '../data/dataset.js';
import { readRun } from './run-state.js';
import type { TrainJob } from './train-job.js';

/** How a batch is computed: in parts of `batchSize` samples, of which an update takes `accumulate`. */
export type BatchPlan = { batchSize: number; accumulate: number; recompute: boolean };

/** The largest size of a process that trains by this plan, in bytes, as measured in some steps, and whether it updates running statistics. */
export type Trial = (plan: BatchPlan) => Promise<{ peak: number; hasStatistics: boolean }>;

/** What the options of a run allow. */
export type Freedom = { accumulate: boolean; recompute: boolean };

/** The share of the bound that is left free, as estimates are not exact. */
const RESERVE = 0.05;

/**
 * The plan for batches of `batch` samples, which is the effective size of any plan: the whole batch if it fits; else the
 * largest parts of it that do, without recomputing activations if possible. Where batch normalization takes the
 * statistics of a batch, which parts would change, the whole batch with recomputation comes before parts. What fits is extrapolated
 * from two trials with small parts, and verified by one. Throws `bad-option` with the least memory if nothing fits.
 */
export async function planBatch(
  batch: number,
  limit: number,
  trial: Trial,
  may: Freedom,
): Promise<BatchPlan & { peak: number }> {
  const bound = limit * (1 - RESERVE);
  const parts = may.accumulate ? divisors(batch) : [batch];
  const measured = new Map<string, Promise<{ peak: number; hasStatistics: boolean }>>();
  const planOf = (size: number, recompute: boolean) => ({
    ...{ batchSize: size, accumulate: batch / size, recompute },
  });
  const measure = (size: number, recompute: boolean) => {
    const key = `${size} ${recompute}`;
    const found = measured.get(key) ?? trial(planOf(size, recompute));
    measured.set(key, found);
    return found;
  };
  /** The largest of the sizes that fits, by the line through two small ones. */
  const largest = async (sizes: readonly number[], recompute: boolean) => {
    const small = sizes[0]!;
    const first = await measure(small, recompute);
    if (first.peak > bound) return undefined;
    const next = sizes.find(size => size >= 4 * small) ?? sizes.at(-1)!;
    const second = next === small ? first : await measure(next, recompute);
    const slope = next === small ? 0 : Math.max(0, (second.peak - first.peak) / (next - small));
    for (const size of sizes.toReversed()) {
      if (size > next && first.peak + slope * (size - small) > bound) continue;
      const { peak } = await measure(size, recompute);
      if (peak <= bound) return { ...planOf(size, recompute), peak };
    }
    return undefined;
  };
  const { hasStatistics } = await measure(parts.find(size => size > 1) ?? batch, false);
  // Batch normalization needs two samples.
  const sizes = hasStatistics && parts.length > 1 ? parts.filter(size => size > 1) : parts;
  const plain = await largest(sizes, false);
  if (plain?.batchSize === batch || !may.recompute) return plain ?? refuse(sizes[0]!, false);
  if (hasStatistics) {
    const whole = await largest(sizes, true);
    if (whole?.batchSize === batch) return whole;
  }
  return plain ?? (await largest(sizes, true)) ?? refuse(sizes[0]!, true);

  async function refuse(size: number, recompute: boolean): Promise<never> {
    const { peak } = await measure(size, recompute);
    const least = Math.ceil(peak / (1 - RESERVE) / 1e6);
    const isFull = peak === Number.POSITIVE_INFINITY;
    const how = [
      size === batch ? `batches of ${batch}` : `${batch / size} parts of ${size}`,
      recompute ? ' with activations recomputed' : '',
    ].join('');
    throw new AgdError(
      'bad-option',
      isFull
        ? `The run does not fit into the memory of the device, not even in ${how}.`
        : `The run does not fit into --memory ${Math.floor(limit / 1e6)}MB: it needs at least ${least}MB, in ${how}.`,
    );
  }
}

const divisors = (n: number) => Array.from({ length: n }, (_, i) => i + 1).filter(d => n % d === 0);

/** A line on what was chosen, and why. */
export function describeBatchPlan(
  { batchSize, accumulate, recompute, peak }: BatchPlan & { peak: number },
  limit: number,
): string {
  const size = (bytes: number) => `${Math.round(bytes / 1e6)} MB`;
  return `memory: ${partsOf({ batchSize, accumulate, recompute })}: ${size(peak)} expected, of ${size(limit)}`;
}

function partsOf({ batchSize, accumulate, recompute }: BatchPlan): string {
  const batch = batchSize * accumulate;
  const how =
    accumulate === 1
      ? `batches of ${batch} as a whole`
      : `batches of ${batch} in ${accumulate} parts of ${batchSize}`;
  return `${how}${recompute ? ', recomputing activations in the backward pass' : ''}`;
}

/** The batch size that all inputs of the model fix, if they do and it stays so: a run without --batch-size takes it. */
async function fixedBatchOf(job: TrainJob, inject: InjectOptions): Promise<number | undefined> {
  if (inject.freeBatch) return undefined;
  const { openForInjection } = await import('../formats/open-for-injection.js');
  const { model } = await openForInjection(job.model, inject, job);
  const sizes = dataInputs(model.graph).map(v => v.shape?.[0]);
  const [size] = sizes;
  // Models with batches of one sample are freed for training.
  return typeof size === 'number' && size > 1 && sizes.every(other => other === size) ? size : undefined;
}

const dataInputs = (graph: Graph) =>
  graph.inputs.filter(v => !graph.initializers.has(v) && v.shape?.length !== 0);

/**
 * The job with the plan that keeps it, or each of its ranks, within `job.memory`; a run that is resumed keeps the plan that
 * it began with. Throws `bad-option` for a model that was injected already, and where a resumed run is asked for updates of another size.
 */
export async function withinMemory(
  job: TrainJob & { memory: number },
  measure: (job: TrainJob) => Promise<{ peak: number; hasStatistics: boolean }>,
  note: (text: string) => void,
  ranks = 1,
): Promise<TrainJob> {
  const { memory, inject, ...rest } = job;
  if (!inject)
    throw new AgdError(
      'bad-option',
      `--memory chooses accumulation and recomputation, which are part of ${job.model} already: inject it with --accumulate or --checkpoint-activations.`,
    );
  const { accumulate = 1, checkpointActivations, lazyRows, dpSgd } = inject;
  const fixed = await fixedBatchOf(job, inject);
  const batch = job.batchSize ?? (fixed && fixed * ranks) ?? DEFAULT_BATCH_SIZE;
  if (dpSgd?.batch !== undefined && dpSgd.batch !== batch)
    throw new AgdError(
      'bad-option',
      `--memory divides batches of ${batch}, and --dp-sgd has batch=${dpSgd.batch}: leave out batch=, which train sets to the batch size.`,
    );
  const jobOf = ({ batchSize, accumulate: parts, recompute }: BatchPlan): TrainJob => ({
    ...rest,
    memoryLimit: memory,
    batchSize,
    inject: {
      ...inject,
      ...(parts * accumulate > 1 ? { accumulate: parts * accumulate } : {}),
      ...(recompute ? { checkpointActivations: true } : {}),
      ...(dpSgd?.batch === undefined ? {} : { dpSgd: { ...dpSgd, batch: batchSize } }),
    },
  });
  const resumed = await planOfState(job);
  if (resumed) {
    const { batchSize, accumulate: parts = 1, checkpointActivations: again } = resumed;
    const recompute = again !== undefined && checkpointActivations === undefined;
    const isAsked = job.batchSize !== undefined || inject.accumulate !== undefined;
    if (isAsked && batch * accumulate !== batchSize * parts)
      throw new AgdError(
        'bad-option',
        `An update of the run in ${job.state} takes ${batchSize * parts} samples, and --batch-size and --accumulate ask for ${batch * accumulate}: a resumed run keeps its size.`,
      );
    note(`memory: as when the run began, ${partsOf({ batchSize, accumulate: parts, recompute: !!again })}`);
    const planned = jobOf({ batchSize, accumulate: 1, recompute });
    return { ...planned, inject: { ...planned.inject, accumulate: resumed.accumulate } };
  }
  note('memory: measured in a few steps with small parts of a batch');
  const plan = await planBatch(batch, memory, p => measure(jobOf(p)), {
    accumulate: !lazyRows?.length && (fixed === undefined || job.batchSize !== undefined),
    recompute: checkpointActivations === undefined && !dpSgd,
  });
  note(describeBatchPlan(plan, memory));
  return jobOf(plan);
}

/** The plan of the state that the job would resume. */
async function planOfState({ state }: TrainJob) {
  if (state === undefined || !existsSync(state)) return undefined;
  const { settings } = (await readRun(await loadModel(state))) ?? {};
  if (settings?.inject === undefined) return undefined;
  const { accumulate, checkpointActivations }: InjectOptions = JSON.parse(settings.inject);
  return { batchSize: settings.batchSize, accumulate, checkpointActivations };
}
