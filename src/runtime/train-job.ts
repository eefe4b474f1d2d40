import { existsSync } from 'node:fs';
import { mkdtemp, readFile, realpath, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { AgdError } from '../graph/errors.js';
import { checkWritable, loadModel } from '../graph/files.js';
import type { Model } from '../graph/ir.js';
import { checkState, saveState as saveSnapshot } from '../graph/state-file.js';
import { extendSchedule } from '../passes/file/extend-schedule.js';
import { isInjected, readDescription } from '../passes/file/step-metadata.js';
import { hasOwnStep } from '../passes/import/adopt-step.js';
import { inject } from '../passes/inject.js';
import type { Fed, InjectOptions } from '../passes/options.js';
import { readRecipe } from '../passes/recipe/recipe.js';
import type { BindOptions, InputSpec } from './data/bind.js';
import type { Dataset } from './data/dataset.js';
import { type Data, type DataBinding, type DataOptions, dataOptionsOf, openData } from './data/open.js';
import { readSafetensors } from './data/safetensors.js';
import { injectedEvent, type NewEvent, type TrainEvent } from './events.js';
import { checkExport, exportFile } from './export.js';
import { loadExtensions } from './extensions.js';
import { type Beginning, openForInjection } from './formats/artifacts.js';
import { goOnFrom } from './formats/ort-state.js';
import { batchToFree, shapesOf } from './model-data.js';
import {
  changes,
  emptyHistory,
  fitHistory,
  follow,
  type Run,
  type RunSettings,
  readRun,
  settingsOf,
  sourceOf,
  withRun,
} from './run-state.js';
import type { SessionOptions } from './session.js';
import { inputSpecs, Trainer } from './trainer.js';
import { trainingLoop } from './training-loop.js';

/** A training run from files to files. */
export type TrainJob = SessionOptions &
  Beginning & {
    /** An injected model, or a plain one together with `inject`. */
    model: string;
    /** Modules that define the gradients, optimizers and losses of extensions, loaded in the thread that trains. */
    extend?: readonly string[];
    inject?: InjectOptions;
    /** Files, or globs, which are read one after the other. */
    data: string | readonly string[];
    validation?: string | readonly string[];
    /** Where the trained model goes: the original model with its new weights. */
    output: string;
    /** Where the training step with its state goes, after every epoch and when stopped: a run can go on from it. */
    state?: string;
    /** A .safetensors file of parameters and optimizer state in PyTorch's terms, from which the run goes on. */
    resumePytorch?: string;
    /** Writes the moving average of the weights to `output`, not the weights. */
    exportEma?: boolean;
    epochs: number;
    batchSize?: number;
    seed?: number;
    lr?: number;
    bind?: Omit<BindOptions, 'labels' | 'source'>;
  } & Omit<DataOptions, 'recipe'>;

/** Reports an event, as of now. */
type Emit = (event: NewEvent) => void;

/**
 * Runs a job and reports what happens. When `signal` asks to stop, or the loss is no longer finite, the state
 * of the last good step is written before returning or throwing: to `state`, or beside `output`.
 */
export async function runTrainJob(
  job: TrainJob,
  report: (event: TrainEvent) => void,
  signal: { readonly aborted: boolean } = { aborted: false },
): Promise<void> {
  const emit: Emit = event => report({ time: Date.now(), ...event } as TrainEvent);
  await loadExtensions(job.extend);
  for (const path of [job.output, stateFile(job)]) await checkWritable(path);
  const data = await openData(job.data, dataOptionsOf(job));
  const resumed = await resumable(job);
  if (resumed) emit({ type: 'note', text: `resumes the run in ${job.state}`, level: 'warning' });
  const model = resumed ?? (await trainable(job, data, emit));
  data.use(readRecipe(model));
  if (job.exportEma && readDescription(model).ema === undefined)
    throw new AgdError(
      'bad-option',
      'The model keeps no average of its weights: inject it with --ema DECAY.',
    );
  let trainer = await Trainer.create(model, job);
  try {
    if (job.resumePytorch !== undefined && !resumed) await resume(trainer, job.resumePytorch, emit);
    const { target } = trainer.description.loss;
    const train = await bind(job, data, trainer.inputs, target);
    for (const text of train.notesOn(job)) emit({ type: 'note', text, level: 'warning' });
    const { validation: path } = job;
    const validation =
      path === undefined
        ? await data.validation(trainer.inputs, bindingOf(job, target))
        : await bind(job, await openHeld(path, job, data), trainer.inputs, target);
    const { epochs, batchSize, seed, lr } = job;
    const size = { batchSize: train.batchSize(job), stepsPerEpoch: train.batchCount(job) };
    trainer = await withSchedule(trainer, job, train, emit);
    const run = await beginRun(job, trainer, model, await settingsOf(job, data, size.batchSize), emit);
    const { history } = run;
    const stepsBefore = trainer.batchCount;
    const before = stepsBefore ? { history: structuredClone(history) } : {};
    emit({ type: 'start', epochs, samples: train.length, stepsBefore, ...size, ...before });
    const save = (to: string) => {
      fitHistory(history, trainer.batchCount);
      return saveState(to, trainer, run, emit);
    };
    try {
      for await (const event of trainingLoop(trainer, train, {
        epochs,
        batchSize,
        seed,
        lr,
        validation,
        signal,
        before: history.losses,
      })) {
        follow(history, event);
        emit(event);
        if (event.type === 'epoch' && job.state && event.epoch < epochs) await save(job.state);
      }
      if (job.state || signal.aborted) await save(stateFile(job));
      await exportFile(trainer.snapshot(), job.output, { ema: job.exportEma });
      emit({ type: 'saved', path: job.output, what: 'model' });
    } catch (error) {
      if (!(error instanceof AgdError)) throw error;
      if (error.code === 'non-finite') await save(stateFile(job));
      throw error.code === 'io' ? await rescued(trainer, job, run, error) : error;
    }
    emit({ type: 'end', stopped: signal.aborted, steps: trainer.stepCount, skipped: trainer.skippedCount });
  } finally {
    await trainer.release();
  }
}

/**
 * The state that a job is to be resumed from: the one that it would write, where it is there already, as of a job that is
 * started again. Throws `bad-option` where that file is not the state of a run, or is that of another.
 */
async function resumable(job: TrainJob): Promise<Model | undefined> {
  const { state } = job;
  if (state === undefined || !existsSync(state) || (await isSameFile(state, job.model))) return undefined;
  const restart = `to start anew, remove it first: rm ${state}`;
  const model = await loadModel(state);
  if (!isInjected(model))
    throw new AgdError(
      'bad-option',
      `${state} is there already and holds no training state: choose another file, or ${restart}.`,
    );
  const run = readRun(model);
  const source = await sourceOf(job);
  const other =
    run?.settings.sha256 !== source.sha256
      ? `another model than ${job.model}`
      : run?.settings.inject !== source.inject
        ? 'other options'
        : undefined;
  if (other)
    throw new AgdError(
      'bad-option',
      `${state} is there already, the state of a run with ${other}. To continue that run: agd-onnx train ${state} --data ${[job.data].flat().join(' --data ')} --state ${state}; ${restart}.`,
    );
  checkExport(model);
  await checkState(model, state);
  return model;
}

async function isSameFile(a: string, b: string): Promise<boolean> {
  const [one, other] = await Promise.all([a, b].map(path => realpath(path).catch(() => path)));
  return one === other;
}

/** The run that a job begins or goes on with, whose history ends where the state does. Says what is other than it was. */
async function beginRun(
  job: TrainJob,
  trainer: Trainer,
  model: Model,
  settings: RunSettings,
  emit: Emit,
): Promise<Run> {
  const before = readRun(model);
  if (!before) return { settings, history: fitHistory(emptyHistory(), trainer.batchCount) };
  const note = (text: string) => emit({ type: 'note', text, level: 'warning' });
  if (job.state === undefined) note(`${job.model} stays as it is: --state ${job.model} updates it`);
  const differences = trainer.batchCount ? changes(before.settings, settings) : [];
  if (differences.length)
    note(`resumed with ${differences.join(', ')}: results differ from an uninterrupted run`);
  const { sha256, inject } = before.settings;
  return {
    settings: { ...settings, sha256, inject },
    history: fitHistory(before.history, trainer.batchCount),
  };
}

/** A trainer whose schedule ends with the run, where it is to. */
async function withSchedule(trainer: Trainer, job: TrainJob, train: Dataset, emit: Emit): Promise<Trainer> {
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
  const model = extendSchedule(trainer.snapshot(), updates);
  await trainer.release();
  note(`the schedule ends with the run, after ${updates} updates instead of ${before}`);
  return Trainer.create(model, job);
}

const stateFile = (job: TrainJob) => job.state ?? job.output.replace(/(\.onnx)?$/, '.agd.onnx');

/** Where the disk is full or a folder has gone, what was learnt goes to the system's folder for temporary files. */
async function rescued(trainer: Trainer, job: TrainJob, run: Run, error: AgdError): Promise<AgdError> {
  const folder = await mkdtemp(join(tmpdir(), 'agd-onnx-'));
  const path = join(folder, basename(stateFile(job)));
  try {
    await saveSnapshot(withRun(trainer.snapshot(), run), path);
  } catch {
    await rm(folder, { recursive: true });
    return error;
  }
  const text = `${error.message.replace(/\.$/, '')}. What was learnt is in ${path}: agd-onnx export takes the model out of it.`;
  return new AgdError('io', text, { cause: error });
}

async function saveState(path: string, trainer: Trainer, run: Run, emit: Emit): Promise<void> {
  await saveSnapshot(withRun(trainer.snapshot(), run), path);
  emit({ type: 'saved', path, what: 'state' });
}

async function resume(trainer: Trainer, path: string, emit: Emit): Promise<void> {
  const unused = trainer.restore((await readSafetensors(path)).tensors);
  emit({ type: 'note', text: `resumes from ${path}, after ${trainer.stepCount} updates`, level: 'warning' });
  if (unused.length)
    emit({ type: 'note', text: `${path}: nothing here is called ${unused.join(', ')}`, level: 'warning' });
}

async function trainable(job: TrainJob, data: Data, emit: Emit): Promise<Model> {
  // Read where it is used: a job may come from another process.
  const original = job.inject && (job.inject.original ?? (await readFile(job.model).catch(() => undefined)));
  const { model, options, optimizer } = await openForInjection(job.model, { ...job.inject, original }, job);
  if (isInjected(model)) {
    if (job.inject)
      throw new AgdError(
        'bad-option',
        `${job.model} holds a training step already: its loss and options were decided when it was injected.`,
      );
    checkExport(model);
    return model;
  }
  if (!options.loss && !options.gradients && !hasOwnStep(model))
    throw new AgdError('bad-option', `${job.model} holds no training step yet: choose a loss with --loss.`);
  const updates = async (fed: Fed) => updatesOf(job, await bind(job, data, inputSpecs(fed), fed.target));
  const adopted = hasOwnStep(model) && !options.replaceOptimizer;
  const tile = adopted ? options.tile : (options.tile ?? (job.device ?? 'cpu') === 'cpu');
  const source = { job, data, model, options };
  const { freeBatch = options.freeBatch, note } = await batchToFree(source);
  if (note) emit({ type: 'note', text: note });
  const given = { ...options, updates, tile, freeBatch };
  const { model: injected, report } = await inject(model, given, await shapesOf(source));
  emit(injectedEvent(report));
  const begun = goOnFrom(injected, optimizer);
  if (begun.note) emit({ type: 'note', text: begun.note, level: 'warning' });
  return begun.model;
}

/** The updates of the whole run, at least 1. */
export function updatesOf(job: Pick<TrainJob, 'epochs' | 'batchSize' | 'inject'>, data: Dataset): number {
  return Math.max(1, Math.floor((job.epochs * data.batchCount(job)) / (job.inject?.accumulate ?? 1)));
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

/** How the arrays of a job feed inputs, of which `target` takes labels. */
export function bindingOf(job: Pick<TrainJob, 'bind'>, target: string | undefined): DataBinding {
  return { ...job.bind, labels: target === undefined ? [] : [target] };
}

/** Data that are not trained on: columns become inputs as they do in training. */
export function openHeld(
  paths: string | readonly string[],
  { columns, label, shuffleBuffer }: DataOptions,
  { recipe }: Data,
): Promise<Data> {
  return openData(paths, { columns, label, shuffleBuffer, recipe });
}
