/** From what a user gives to what a trainer runs: a model with a training step, and data bound to its inputs. */
import { readFile } from 'node:fs/promises';
import { AgdError } from '../../graph/errors.js';
import type { Model } from '../../graph/ir.js';
import { Tensor } from '../../graph/tensor.js';
import { providerOf } from '../../ops/core/provider.js';
import { takesClasses } from '../../ops/losses/index.js';
import { asksForAdapters } from '../../passes/adapters/adapter-names.js';
import { leastOnRank, skipsLosses } from '../../passes/file/description.js';
import { extendSchedule } from '../../passes/file/extend-schedule.js';
import { isInjected } from '../../passes/file/step-metadata.js';
import { hasOwnStep } from '../../passes/import/own-step.js';
import { inject } from '../../passes/inject.js';
import { attachModels } from '../../passes/normalize/attach-models.js';
import type { ShapeOracle } from '../../passes/normalize/infer-shapes.js';
import { flagValue } from '../../passes/options/text.js';
import type { Fed, InjectOptions, LossSpec } from '../../passes/options.js';
import { type Augmentation, mixes } from '../../passes/recipe/augmentation.js';
import { readRecipe } from '../../passes/recipe/read-recipe.js';
import type { InputSpec } from '../data/bind.js';
import type { Data, DataBinding, DataOptions } from '../data/data.js';
import type { Dataset } from '../data/dataset.js';
import { type Progress, throttled } from '../data/progress.js';
import { checkExport } from '../export.js';
import type { Opened } from '../formats/artifacts.js';
import { inputSpecs } from '../input-specs.js';
import { sessionShapes } from '../session.js';
import type { JudgedSample, NewEvent } from './events.js';
import { nonFiniteRows } from './finite.js';
import { injectedEvent } from './injected-event.js';
import type { TrainerOptions } from './load-step.js';
import { batchToFree, inputsToDerive, type Source, shapesOf } from './model-data.js';
import { checkBudget, type PrivacyOptions } from './privacy.js';
import type { TrainJob } from './train-job.js';
import { Trainer } from './trainer.js';
import type { WorstOptions } from './worst-samples.js';

/** Reports an event, as of now. */
export type Emit = (event: NewEvent) => void;

/** Reports where the passes over data before the first step stand. */
export const dataProgress = (emit: Emit): Progress =>
  throttled((stage, share) => emit({ type: 'data', stage, share }));

/** What is to be known of a run to give its model a training step. */
export type Preparation = Pick<
  TrainJob,
  'bind' | 'batchSize' | 'epochs' | 'device' | 'sampler' | 'collective'
> &
  PrivacyOptions & {
    inject?: InjectOptions;
  };

/** The model in a file with its training step, injected where it has none yet. Throws `bad-option` where it needs a loss, or has a step and options are given. */
export async function trainableFile(job: TrainJob, data: Data, emit: Emit): Promise<Model> {
  // Read where it is used: a job may come from another process. With adapters, the file is written anew.
  const isKept = job.inject && !asksForAdapters(job.inject);
  const original =
    job.inject?.original ?? (isKept ? await readFile(job.model).catch(() => undefined) : undefined);
  const { openForInjection } = await import('../formats/open-for-injection.js');
  const opened = await openForInjection(job.model, { ...job.inject, original }, job);
  return trainable(opened, job, job.model, data, emit);
}

/** The same for a model that was read already; `name` is for messages. */
export async function trainable(
  { model: given, options: wanted, optimizer }: Opened,
  job: Preparation,
  name: string,
  data: Data,
  emit: Emit,
): Promise<Model> {
  data.use(await readRecipe(given));
  const { model, options } = isInjected(given)
    ? { model: given, options: wanted }
    : await attachModels(given, wanted, sessionShapes);
  if (isInjected(model)) {
    if (job.inject)
      throw new AgdError(
        'bad-option',
        `${name} already contains a training step: its loss and options were decided when it was injected.`,
      );
    await checkExport(model);
    return model;
  }
  if (!options.loss && !options.gradients && !hasOwnStep(model))
    throw new AgdError('bad-option', `${name} contains no training step yet: choose a loss with --loss.`);
  const updates = async (fed: Fed, epochs = job.epochs) =>
    updatesOf({ ...job, epochs }, await bind(job, data, inputSpecs(fed), fed.target));
  const adopted = hasOwnStep(model) && !options.replaceOptimizer;
  const tile = adopted ? options.tile : (options.tile ?? (job.device ?? 'cpu') === 'cpu');
  const derived = await inputsToDerive({ job, data, model, options });
  const provider = options.provider ?? providerOf(job.device);
  const source = { job, data, model, options: { ...options, ...derived.options, provider } };
  const { freeBatch = options.freeBatch, note } = await batchToFree(source);
  if (options.pack) {
    const { verifyPacking } = await import('./on-demand.js');
    await verifyPacking({ ...source, options: { ...source.options, freeBatch } });
  }
  for (const text of [derived.note, note]) if (text) emit({ type: 'note', text });
  const shapes = await shapesOf(source);
  const unrounded = { ...source.options, updates, tile, freeBatch };
  const opened = (loss: LossSpec | undefined, tried: InjectOptions) =>
    trialData({ ...source, options: { ...tried, loss, dpSgd: undefined } }, shapes);
  const training = async () => (await opened(unrounded.loss, { ...unrounded, qat: undefined })).data;
  let asked: InjectOptions = unrounded;
  if (options.qat) {
    const { calibrate } = await import('./on-demand.js');
    asked = { ...asked, ranges: await calibrate({ ...source, options: unrounded }, shapes, training) };
  }
  const trials = asked;
  if (options.dpSgd) {
    checkBudget(options, job);
    const { withNoise } = await import('./on-demand.js');
    asked = await withNoise(asked, job, async () => (await opened(trials.loss, trials)).data);
  }
  if (isBalanced(options.loss)) {
    const { withBalance } = await import('./on-demand.js');
    asked = await withBalance(asked, loss => opened(loss, trials));
  }
  const { model: injected, report } = await inject(model, asked, shapes);
  emit(injectedEvent(report));
  if (!optimizer) return injected;
  const { resumeOptimizer } = await import('./on-demand.js');
  const begun = resumeOptimizer(injected, optimizer);
  if (begun.note) emit({ type: 'note', text: begun.note, level: 'warning' });
  return begun.model;
}

/** Whether weights of a loss are computed from the data. */
const isBalanced = (loss?: LossSpec) =>
  loss !== undefined &&
  loss.kind !== 'output' &&
  (loss.classWeights === 'balanced' || loss.posWeight === 'balanced');

/** The training data as a step with these options takes them, and its target. */
export async function trialData(
  { job, data, model, options }: Source & { job: TrainerOptions },
  shapes: ShapeOracle,
): Promise<{ data: Dataset; target: InputSpec }> {
  const { model: trial } = await inject(model, options, shapes);
  // By each rank for itself.
  const trainer = await Trainer.create(trial, { ...job, collective: undefined });
  const { inputs, description } = trainer;
  await trainer.release();
  const bound = await bind(job, data, inputs, description.loss.target);
  return { data: bound, target: inputs.find(({ name }) => name === description.loss.target)! };
}

/** A trainer whose schedule ends with the run, where it is to. */
export async function withSchedule(
  trainer: Trainer,
  job: Preparation & TrainerOptions,
  train: Dataset,
  emit: Emit,
  /** What the trainer was created from. */
  start: Model,
): Promise<Trainer> {
  const { schedule, scheduleTotal, accumulation } = trainer.description;
  const before = schedule?.total;
  if (before === undefined) return trainer;
  const updates = updatesOf({ ...job, inject: { accumulate: accumulation?.batches } }, train);
  const note = (text: string) => emit({ type: 'note', text, level: 'warning' });
  if (scheduleTotal === undefined) {
    if (updates > before)
      note(`the schedule ends after ${before} updates: the last ${updates - before} have its final rate`);
    return trainer;
  }
  if (updates === before) return trainer;
  // Ranks that divide the optimizer have no whole state, and have not trained yet.
  const model = extendSchedule(job.shardOptimizer ? start : trainer.snapshot(), updates);
  await trainer.release();
  note(`the schedule ends with the run, after ${updates} updates instead of ${before}`);
  return Trainer.create(model, job);
}

/** The updates of the whole run, at least 1. */
export function updatesOf(
  job: Pick<TrainJob, 'epochs' | 'batchSize' | 'inject' | 'collective'>,
  data: Dataset,
): number {
  const { accumulate = 1 } = job.inject ?? {};
  const all = job.collective && !data.isSharded ? data.sharded(job.collective) : data;
  const sampled = all.isPoisson ? all.poisson(accumulate) : all;
  return Math.max(1, Math.floor((job.epochs * sampled.batchCount(job)) / accumulate));
}

/** What the data feed the inputs, of which `target` takes labels. */
export function bind(
  job: Pick<TrainJob, 'bind'>,
  data: Data,
  inputs: readonly InputSpec[],
  target?: string,
): Promise<Dataset> {
  return data.bind(inputs, bindingOf(job, target));
}

/** The same for training: samples of a batch are mixed where the job asks for it. */
export async function bindTraining(
  job: Pick<TrainJob, 'bind' | 'augment'>,
  data: Data,
  { inputs, description, collective }: Pick<Trainer, 'inputs' | 'description' | 'collective'>,
): Promise<Dataset> {
  const { loss } = description;
  const bound = await bind(job, data, inputs, loss.target);
  if (!skipsLosses(description)) checkNumbers(bound, data.name);
  const train = collective
    ? bound.sharded(collective, leastOnRank(description))
    : bound.isPoisson
      ? bound.poisson(description.accumulation?.batches)
      : bound;
  if (!job.augment?.length) return train;
  const { mixChunk, mixingOf } = await import('./on-demand.js');
  const mixing = mixingOf(job.augment, inputs, loss);
  if (!mixing) return train;
  return train.map((batch, { rows, pass }) =>
    pass ? { ...batch, inputs: mixChunk(batch.inputs, pass.places ?? rows, pass, mixing) } : batch,
  );
}

/** How many rows a message names. */
const FEW = 4;

/** Throws `bad-data` for rows of files' arrays to train on that hold NaN, which would make all weights NaN. */
function checkNumbers({ columns, rows }: Dataset, source: string): void {
  const chosen = rows && new Set(rows);
  for (const { array, arrayName, isFromFile } of columns) {
    if (!isFromFile || !(array instanceof Tensor)) continue;
    const bad = [...nonFiniteRows(array, Number.isNaN)].filter(row => chosen?.has(row) ?? true);
    if (!bad.length) continue;
    const named = bad
      .slice(0, FEW)
      .map(row => row + 1)
      .join(', ');
    const more = bad.length > FEW ? ` and ${bad.length - FEW} more` : '';
    const flag = flagValue(arrayName);
    throw new AgdError(
      'bad-data',
      `Array '${arrayName}' of ${source} is NaN in row${bad.length > 1 ? 's' : ''} ${named}${more} (${bad.length} of ${rows?.length ?? array.dims[0]}, counted from 1): leave them out with --skip-missing ${flag}, or the batches that have them with --on-nonfinite skip.`,
    );
  }
}

/** The options of injection, with two classes for each target where the samples of a batch are to be mixed. */
export function withMixedTargets(
  inject: InjectOptions,
  augment: readonly Augmentation[] = [],
): InjectOptions {
  const { loss } = inject;
  if (!loss || loss.kind === 'output' || !takesClasses(loss.kind) || !mixes(augment)) return inject;
  return { ...inject, loss: { ...loss, mixTargets: true } };
}

/** The samples of the validation data that a trained model does worst on. A run that is done does not fail for want of them. */
export async function worstOf(
  model: Model,
  data: Dataset,
  count: number | undefined,
  { batchSize, device, threads, paths }: Omit<WorstOptions, 'count'>,
  emit: Emit,
): Promise<JudgedSample[]> {
  if (!count) return [];
  const { worstSamples } = await import('./on-demand.js');
  try {
    return await worstSamples(model, data, { count, batchSize, device, threads, paths });
  } catch (error) {
    if (!(error instanceof AgdError)) throw error;
    emit({ type: 'note', text: `no samples with the largest loss: ${error.message}`, level: 'warning' });
    return [];
  }
}

/** How the arrays of a job feed inputs, of which `target` takes labels. */
export function bindingOf(job: Pick<TrainJob, 'bind'>, target: string | undefined): DataBinding {
  return { ...job.bind, labels: target === undefined ? [] : [target] };
}

/** Data that are not trained on: columns become inputs as they do in training. */
export async function openHeld(
  paths: string | readonly string[],
  { columns, label, shuffleBuffer, skipMissing, skipDamaged, progress }: Omit<DataOptions, 'recipe'>,
  { recipe }: Data,
): Promise<Data> {
  const rows = { skipMissing, skipDamaged };
  const { openData } = await import('../data/open.js');
  return openData(paths, { columns, label, shuffleBuffer, ...rows, recipe, progress });
}
