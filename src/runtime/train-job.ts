import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { AgdError } from '../graph/errors.js';
import { checkWritable, saveModel } from '../graph/files.js';
import type { Model } from '../graph/ir.js';
import type { Tensor } from '../graph/tensor.js';
import { type InjectOptions, type InjectReport, inject } from '../passes/inject.js';
import { isInjected, readDescription } from '../passes/training-description.js';
import { hasOwnStep } from '../passes/training-info.js';
import { type Beginning, openForInjection } from './artifacts.js';
import { type BindOptions, bindData, type InputSpec } from './data/bind.js';
import type { Dataset } from './data/dataset.js';
import { loadArrays } from './data/load.js';
import { readSafetensors } from './data/safetensors.js';
import { checkExport, exportFile } from './export.js';
import { goOnFrom } from './ort-state.js';
import { type SessionOptions, sessionShapes } from './session.js';
import { inputSpec, Trainer } from './trainer.js';
import { type LoopEvent, trainingLoop } from './training-loop.js';

type Arrays = ReadonlyMap<string, Tensor>;

/** A training run from files to files. */
export type TrainJob = SessionOptions &
  Beginning & {
    /** An injected model, or a plain one together with `inject`. */
    model: string;
    inject?: InjectOptions;
    data: string;
    validation?: string;
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
  };

export type TrainEvent =
  | LoopEvent
  | { type: 'note'; text: string }
  | { type: 'injected'; report: InjectReport }
  | {
      type: 'begin';
      epochs: number;
      stepsPerEpoch: number;
      /** Steps done already, where a run goes on. */
      stepsBefore: number;
      batchSize: number;
      samples: number;
    }
  | { type: 'saved'; path: string; what: 'model' | 'state' }
  /** `steps` are updates; `skipped` are batches whose gradients were not finite. */
  | { type: 'end'; stopped: boolean; steps: number; skipped: number };

/**
 * Runs a job and reports what happens. When `signal` asks to stop, or the loss is no longer finite, the state
 * of the last good step is written before returning or throwing: to `state`, or beside `output`.
 */
export async function runTrainJob(
  job: TrainJob,
  emit: (event: TrainEvent) => void,
  signal: { readonly aborted: boolean } = { aborted: false },
): Promise<void> {
  for (const path of [job.output, stateFile(job)]) await checkWritable(path);
  const arrays = await loadArrays(job.data);
  const model = await trainable(job, arrays, emit);
  if (job.exportEma && readDescription(model).ema === undefined)
    throw new AgdError(
      'bad-option',
      'The model keeps no average of its weights: inject it with --ema DECAY.',
    );
  const trainer = await Trainer.create(model, job);
  try {
    if (job.resumePytorch !== undefined) await resume(trainer, job.resumePytorch, emit);
    const { target } = trainer.description.loss;
    const train = bind(job, arrays, trainer.inputs, target);
    for (const text of train.notesOn(job)) emit({ type: 'note', text });
    const { validation: path } = job;
    const validation =
      path === undefined
        ? undefined
        : bind({ ...job, data: path }, await loadArrays(path), trainer.inputs, target);
    const { epochs, batchSize, seed, lr } = job;
    const size = { batchSize: train.batchSize(job), stepsPerEpoch: train.batchCount(job) };
    emit({ type: 'begin', epochs, samples: train.length, stepsBefore: trainer.batchCount, ...size });
    try {
      for await (const event of trainingLoop(trainer, train, {
        epochs,
        batchSize,
        seed,
        lr,
        validation,
        signal,
      })) {
        emit(event);
        if (event.type === 'epoch' && job.state && event.epoch < epochs)
          await saveState(job.state, trainer, emit);
      }
      if (job.state || signal.aborted) await saveState(stateFile(job), trainer, emit);
      await exportFile(trainer.snapshot(), job.output, { ema: job.exportEma });
      emit({ type: 'saved', path: job.output, what: 'model' });
    } catch (error) {
      if (!(error instanceof AgdError)) throw error;
      if (error.code === 'non-finite') await saveState(stateFile(job), trainer, emit);
      throw error.code === 'io' ? await rescued(trainer, job, error) : error;
    }
    emit({ type: 'end', stopped: signal.aborted, steps: trainer.stepCount, skipped: trainer.skippedCount });
  } finally {
    await trainer.release();
  }
}

const stateFile = (job: TrainJob) => job.state ?? job.output.replace(/(\.onnx)?$/, '.agd.onnx');

/** Where the disk is full or a folder has gone, what was learnt goes to the system's folder for temporary files. */
async function rescued(trainer: Trainer, job: TrainJob, error: AgdError): Promise<AgdError> {
  const folder = await mkdtemp(join(tmpdir(), 'agd-onnx-'));
  const path = join(folder, basename(stateFile(job)));
  try {
    await saveModel(trainer.snapshot(), path);
  } catch {
    await rm(folder, { recursive: true });
    return error;
  }
  const text = `${error.message.replace(/\.$/, '')}. What was learnt is in ${path}: agd-onnx export takes the model out of it.`;
  return new AgdError('io', text, { cause: error });
}

async function saveState(path: string, trainer: Trainer, emit: (event: TrainEvent) => void): Promise<void> {
  await saveModel(trainer.snapshot(), path);
  emit({ type: 'saved', path, what: 'state' });
}

async function resume(trainer: Trainer, path: string, emit: (event: TrainEvent) => void): Promise<void> {
  const unused = trainer.restore((await readSafetensors(path)).tensors);
  emit({ type: 'note', text: `goes on from ${path}, after ${trainer.stepCount} updates` });
  if (unused.length) emit({ type: 'note', text: `${path}: nothing here is called ${unused.join(', ')}` });
}

async function trainable(job: TrainJob, arrays: Arrays, emit: (event: TrainEvent) => void): Promise<Model> {
  const { model, options, optimizer } = await openForInjection(job.model, job.inject ?? {}, job);
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
    throw new AgdError(
      'bad-option',
      `${job.model} holds no training step yet: say with --loss what it shall learn.`,
    );
  const updates: InjectOptions['updates'] = (inputs, leastBatch) =>
    updatesOf(
      job,
      bind(
        job,
        arrays,
        inputs.map(v => inputSpec(v, leastBatch)),
      ),
    );
  const adopted = hasOwnStep(model) && !options.replaceOptimizer;
  const tile = adopted ? options.tile : (options.tile ?? (job.device ?? 'cpu') === 'cpu');
  const { model: injected, report } = await inject(model, { ...options, updates, tile }, sessionShapes);
  emit({ type: 'injected', report });
  const begun = goOnFrom(injected, optimizer);
  if (begun.note) emit({ type: 'note', text: begun.note });
  return begun.model;
}

/** The updates of the whole run, at least 1. */
export function updatesOf(job: Pick<TrainJob, 'epochs' | 'batchSize' | 'inject'>, data: Dataset): number {
  return Math.max(1, Math.floor((job.epochs * data.batchCount(job)) / (job.inject?.accumulate ?? 1)));
}

/** What `job.data` feeds the inputs, of which `target` takes labels. */
export function bind(
  job: Pick<TrainJob, 'bind' | 'data'>,
  arrays: Arrays,
  inputs: readonly InputSpec[],
  target?: string,
): Dataset {
  const labels = target === undefined ? [] : [target];
  return bindData(arrays, inputs, { ...job.bind, labels, source: job.data });
}
