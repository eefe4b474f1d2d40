/** agd-onnx as a library: what the command line does, as typed functions. */
import type { Model } from './graph/ir.js';
import { type InjectReport, inject as injectPass } from './passes/inject.js';
import { type Inspection, type InspectOptions, inspect as inspectPass } from './passes/inspect.js';
import type { InjectOptions } from './passes/options.js';
import { type SplitStep, splitStep as splitStepPass } from './passes/split-step.js';
import { sessionShapes } from './runtime/session.js';

export { AgdError, type ErrorCode } from './graph/errors.js';
export { checkWritable, loadModel, saveModel, writeFileAtomic } from './graph/files.js';
export { Model } from './graph/ir.js';
export { decodeModel, encodeModel } from './graph/proto.js';
export { Tensor } from './graph/tensor.js';
export { LOSSES, type LossKind, type LossOptions } from './ops/criterion.js';
export {
  type AnyOptions,
  OPTIMIZERS,
  type OptimizerName,
  type OptimizerSpec,
} from './ops/optimizers/index.js';
export { parseSchedule, SCHEDULES, type Schedule } from './ops/schedules.js';
export type { TrainingDescription } from './passes/description.js';
export type { GradientOptions } from './passes/gradients.js';
export type { GroupOptions } from './passes/group-parameters.js';
export type { LossSpec, ParameterGroup, StepOptions } from './passes/options.js';
export { DEVICES, type Device, parseScale } from './passes/options.js';
export { originalBytes, readOriginal as exportTrained } from './passes/original.js';
export type { ParameterChoice } from './passes/parameter-choice.js';
export { isInjected, readDescription } from './passes/training-description.js';
export { trainingInfoForm } from './passes/training-info-form.js';
export {
  exportFrom,
  isArtifacts,
  loadParameters,
  modelFile,
  type Opened,
  openForInjection,
} from './runtime/artifacts.js';
export { type CheckedGradient, checkGradients } from './runtime/check-gradients.js';
export {
  type ComparedRun,
  type Comparison,
  type ComparisonEvent,
  type Contender,
  compare,
  type Metric,
  metricCurve,
  metricOf,
  type Standing,
  standings,
} from './runtime/comparison.js';
export { type BindOptions, bindData, type InputSpec } from './runtime/data/bind.js';
export { type Batch, type BatchOptions, Dataset } from './runtime/data/dataset.js';
export { loadArrays } from './runtime/data/load.js';
export { readSafetensors, writeSafetensors } from './runtime/data/safetensors.js';
export { exportFile, exportPytorchState, withParameters } from './runtime/export.js';
export { type Gradients, gradients } from './runtime/gradients.js';
export {
  type OptimizerGroup,
  type OrtCheckpoint,
  type Property,
  readOrtCheckpoint,
  writeOrtCheckpoint,
} from './runtime/ort-checkpoint.js';
export { exportOrtCheckpoint, goOnFrom } from './runtime/ort-state.js';
export { type Feeds, flushDenormals, Session, type SessionOptions } from './runtime/session.js';
export { runTrainJob, type TrainEvent, type TrainJob } from './runtime/train-job.js';
export { type Metrics, type TelemetryRow, Trainer } from './runtime/trainer.js';
export { type LoopEvent, type LoopOptions, trainingLoop } from './runtime/training-loop.js';
export { webgpuProvider } from './runtime/webgpu.js';
export { trainInWorker } from './runtime/worker.js';
export type { InjectOptions, InjectReport, Inspection, InspectOptions, SplitStep };

/** Writes loss, backward pass and optimizer into a copy of the model; see `InjectOptions`. Shapes come from ONNX Runtime. */
export function inject(
  model: Model,
  options: InjectOptions,
): Promise<{ model: Model; report: InjectReport }> {
  return injectPass(model, options, sessionShapes);
}

/** What a model is made of, and what training it would take. */
export function inspect(model: Model, options?: InspectOptions): Promise<Inspection> {
  return inspectPass(model, options, sessionShapes);
}

/** The step of an injected model in two halves, for what comes between gradient and update; see `SplitStep`. */
export function splitStep(model: Model): Promise<SplitStep> {
  return splitStepPass(model, sessionShapes);
}
