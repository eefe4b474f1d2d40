/**
 * agd-onnx as a library: the commands of the command line as typed functions. Graphs are in `agd-onnx/ir`, custom rules
 * in `agd-onnx/extend`.
 */
import type { Model } from './graph/ir.js';
import { random } from './graph/random.js';
import { type AdaptReport, adapt as adaptPass } from './passes/adapt.js';
import { type DerivativeModel, type DerivativeOptions, derivativeModel } from './passes/differentiate.js';
import { type PlainStep, plainStep as plainStepPass } from './passes/file/plain-step.js';
import { type InjectReport, inject as injectPass } from './passes/inject.js';
import { type Inspection, type InspectOptions, inspect as inspectPass } from './passes/inspect.js';
import type { LossFunction } from './passes/normalize/loss-function.js';
import { withLossFunction } from './passes/normalize/with-loss-function.js';
import type { AdaptOptions } from './passes/options/adapt.js';
import type { FileOptions, InjectOptions, LossSpec, OptimizerSpec, RunOptions } from './passes/options.js';
import {
  type Exchanged,
  type SplitStep,
  type SplitTable,
  splitStep as splitStepPass,
} from './passes/run/split-step.js';
import type { Source } from './runtime/data/source.js';
import { sessionShapes } from './runtime/session.js';
import type { ColumnSummary, Suggestion } from './runtime/suggest-config.js';

export { AgdError, type ErrorCode } from './graph/errors.js';
export { loadModel, saveModel } from './graph/files.js';
export { Tensor } from './graph/tensor.js';
export type { LossKind } from './ops/losses/index.js';
export type { Activation, LossOptions } from './ops/losses/loss.js';
export { type AnyOptions, OPTIMIZER_NAMES, type OptimizerName } from './ops/optimizers/index.js';
export type { Schedule } from './ops/schedules.js';
export type { GradientOptions } from './passes/differentiate.js';
export type { TrainingDescription } from './passes/file/description.js';
export type {
  LossContext,
  LossExpression,
  LossFunction,
  LossOperand,
  LossTargets,
} from './passes/normalize/loss-function.js';
export { parseLoss } from './passes/options/parse-loss.js';
export type { Device, ParameterGroup, StepOptions } from './passes/options.js';
export type { GroupOptions } from './passes/select/group-parameters.js';
export type { ParameterChoice } from './passes/select/parameter-choice.js';
export { type CheckedGradient, checkGradients } from './runtime/check-gradients.js';
export { anyRank, broadcastBytes, type Collective, partOfRank } from './runtime/collective/collective.js';
export { localCollectives } from './runtime/collective/local.js';
export { openCollective } from './runtime/collective/mpi.js';
export { type BindOptions, bindData, type InputSpec } from './runtime/data/bind.js';
export type { Data, DataOptions } from './runtime/data/data.js';
export { type Batch, type BatchOptions, Dataset } from './runtime/data/dataset.js';
export { datasetFrom, type FitData, type Sample } from './runtime/data/from-values.js';
export { loadArrays } from './runtime/data/load.js';
export { openData } from './runtime/data/open.js';
export type { Samples } from './runtime/data/samples.js';
export type { Block, Field, FieldKind, Source, Values } from './runtime/data/source.js';
export { type NestedArray, type TensorLike, toTensor } from './runtime/data/to-tensor.js';
export { type EvaluateModelOptions, evaluate } from './runtime/evaluate/evaluate-model.js';
export type { EvaluateOptions } from './runtime/evaluate/evaluation.js';
export type { ModelRunOptions } from './runtime/evaluate/model-run.js';
export { type PredictOptions, predict, predictBatches } from './runtime/evaluate/predict.js';
export type { Prediction } from './runtime/evaluate/predictions.js';
export { exportFile } from './runtime/export.js';
export { loadExtensions } from './runtime/extensions.js';
export { exportFrom } from './runtime/formats/export-from.js';
export { type Gradients, gradients } from './runtime/gradients.js';
export { METRICS, type MetricChoice, type MetricDefinition } from './runtime/metrics/index.js';
export type { MetricValue, Task, TaskSpec } from './runtime/metrics/metric.js';
export type { ScoredBatch } from './runtime/metrics/scored-batch.js';
export { type Feeds, Session, type SessionOptions } from './runtime/session.js';
export {
  type Candidate,
  type ComparedRun,
  type Comparison,
  type ComparisonEvent,
  compare,
} from './runtime/train/comparison.js';
export type {
  BestEpoch,
  EndEvent,
  EpochEvent,
  Evaluation,
  JudgedSample,
  LoopEvent,
  SavedEvent,
  StartEvent,
  StepEvent,
  TelemetryRow,
  TrainEvent,
} from './runtime/train/events.js';
export type { Compression } from './runtime/train/exchange.js';
export { type Callbacks, FitError, type FitOptions, type FitResult, fit } from './runtime/train/fit.js';
export type { TrainerOptions } from './runtime/train/load-step.js';
export {
  type MemoryChange,
  type MemoryEstimate,
  type MemoryOptions,
  type MemoryPlan,
  planMemory,
} from './runtime/train/memory-estimate.js';
export type { RunHistory } from './runtime/train/run-state.js';
export { runTrainJob, type TrainJob } from './runtime/train/train-job.js';
export { Trainer } from './runtime/train/trainer.js';
export { type LoopOptions, trainingLoop } from './runtime/train/training-loop.js';
export type { Reply } from './runtime/train/training-run.js';
export { trainInWorker } from './runtime/train/worker.js';
export type {
  AdaptOptions,
  AdaptReport,
  ColumnSummary,
  DerivativeModel,
  DerivativeOptions,
  Exchanged,
  InjectOptions,
  InjectReport,
  Inspection,
  InspectOptions,
  LossSpec,
  Model,
  OptimizerSpec,
  PlainStep,
  SplitStep,
  SplitTable,
  Suggestion,
};

/**
 * Adds loss, backward pass and optimizer to a copy of the model; see `InjectOptions`. Shapes are inferred by ONNX
 * Runtime.
 */
export function inject(
  model: Model,
  options: Omit<InjectOptions, 'loss'> & {
    /** A specification, or a function that writes the loss as an expression. */
    loss?: LossSpec | LossFunction;
  },
): Promise<{ model: Model; report: InjectReport }> {
  return injectPass(model, withLossFunction(options), sessionShapes);
}

/** A copy of the model with a new head for other classes, or a longer vocabulary; see `AdaptOptions`. */
export function adapt(model: Model, options: AdaptOptions): Promise<{ model: Model; report: AdaptReport }> {
  return adaptPass(model, options, sessionShapes, random);
}

/**
 * A model that computes derivatives of values or of a loss: gradient, vector-Jacobian or Jacobian-vector product, Jacobian,
 * Hessian-vector product or Hessian; see `DerivativeOptions`.
 */
export function differentiate(model: Model, options: DerivativeOptions): Promise<DerivativeModel> {
  return derivativeModel(model, options, sessionShapes);
}

/** The contents of a model, and what training it requires. */
export function inspect(model: Model, options?: InspectOptions): Promise<Inspection> {
  return inspectPass(model, options, sessionShapes);
}

/**
 * What a first training run of a model file on files of records needs: target, loss, and which columns feed what. `label` is
 * the target column where it is known. Throws as reading does, `missing-data` where no column can be the target.
 */
export const suggest = (
  model: string,
  data: string | readonly string[],
  label?: string,
): Promise<Suggestion> =>
  reading(data, async source =>
    (await import('./runtime/suggest-config.js')).suggestTraining(model, source, label),
  );

/** What the columns of files of records hold. Throws as reading does, `bad-data` for files of arrays. */
export const describeColumns = (data: string | readonly string[]): Promise<ColumnSummary[]> =>
  reading(data, async source => (await import('./runtime/suggest-config.js')).summarize(source));

async function reading<T>(
  data: string | readonly string[],
  action: (source: Source) => Promise<T>,
): Promise<T> {
  const { openRecords } = await import('./runtime/data/open.js');
  const source = await openRecords(data);
  try {
    return await action(source);
  } finally {
    await source.close();
  }
}

/** Writes the adapters of a training state to an .onnx_adapter file of ONNX Runtime. Throws `bad-option` where it has none. */
export async function saveAdapters(state: Model, path: string): Promise<void> {
  const { writeOnnxAdapter } = await import('./runtime/formats/onnx-adapter.js');
  await writeOnnxAdapter(state, path);
}

/** The step of an injected model with its state as plain inputs and outputs, or so many steps in one run; see `PlainStep`. */
export function plainStep(model: Model, steps?: number): PlainStep {
  return plainStepPass(model, steps);
}

/** The step of an injected model in two halves, for work between gradients and update; see `SplitStep`. */
export function splitStep(model: Model): Promise<SplitStep> {
  return splitStepPass(model, sessionShapes);
}

/** The contents of a configuration file (`--config`): the options of a command, under the library's names. */
export type Config = Partial<
  Omit<RunOptions & InjectOptions & FileOptions, 'loss' | 'optimizer' | 'config'>
> & {
  loss?: LossSpec | LossSpec['kind'];
  optimizer?: OptimizerSpec | OptimizerSpec['name'];
} & Readonly<Record<string, unknown>>;

/** Returns the configuration unchanged, but typed: for `export default defineConfig({ ... })`. */
export const defineConfig = (config: Config): Config => config;
