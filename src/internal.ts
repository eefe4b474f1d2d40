/**
 * agd-onnx for its own command line, benchmarks and comparisons: the main entry point and what else these need. Not
 * stable: any release may change it.
 */
export { diffModels, isSameModel, type ModelDiff } from './graph/diff.js';
export { checkWritable, ioError, writeFileAtomic } from './graph/files.js';
export { openModel } from './graph/open-model.js';
export { permutation, random } from './graph/random.js';
export * from './index.js';
export { decodeModel, encodeModel } from './ir.js';
export { parseSchedule, SCHEDULES } from './ops/schedules.js';
export { originalBytes, readOriginal as exportTrained } from './passes/file/embed-original.js';
export { isInjected, readDescription } from './passes/file/step-metadata.js';
export { trainingInfoForm } from './passes/file/write-training-info.js';
export { attachModels } from './passes/normalize/attach-models.js';
export { withValues } from './passes/normalize/with-values.js';
export { parseScale } from './passes/options.js';
export { readRecipe } from './passes/recipe/read-recipe.js';
export { dataOptionsOf } from './runtime/data/data.js';
export { writeNpz } from './runtime/data/npz.js';
export { areArrays, openRecords } from './runtime/data/open.js';
export { loadRecipe, saveRecipe } from './runtime/data/recipe/recipe-file.js';
export { readSafetensors, writeSafetensors } from './runtime/data/safetensors.js';
export { withDevice } from './runtime/devices/choose.js';
export { keepColumns } from './runtime/evaluate/kept-columns.js';
export {
  type KeptColumns,
  predictionFormat,
  type RawValue,
  writePredictions,
} from './runtime/evaluate/prediction-files.js';
export { exportPytorchState, withParameters } from './runtime/export.js';
export { loadParameters, type Opened } from './runtime/formats/artifacts.js';
export { isArtifacts } from './runtime/formats/is-artifacts.js';
export { readOnnxAdapter, writeOnnxAdapter } from './runtime/formats/onnx-adapter.js';
export { modelFile, openForInjection } from './runtime/formats/open-for-injection.js';
export {
  type OptimizerGroup,
  type OrtCheckpoint,
  type Property,
  readOrtCheckpoint,
  writeOrtCheckpoint,
} from './runtime/formats/ort-checkpoint.js';
export { exportOrtCheckpoint, resumeOptimizer } from './runtime/formats/ort-state.js';
export { readPeft, writePeft } from './runtime/formats/peft.js';
export { gradientFeeds } from './runtime/gradient-feeds.js';
export { withLargePages } from './runtime/large-pages.js';
export { operatorConfig, type RequiredOperator, requiredOperators } from './runtime/required-operators.js';
export { flushDenormals, sessionShapes } from './runtime/session.js';
export { type ColumnSummary, type Suggestion, suggestTraining } from './runtime/suggest-config.js';
export { withRanges } from './runtime/train/calibrate.js';
export { bestCheckpoint } from './runtime/train/checkpoints.js';
export {
  type Metric,
  metricCurve,
  metricOf,
  type Standing,
  standings,
} from './runtime/train/comparison.js';
export { foldOutput } from './runtime/train/cross-validate.js';
export { EVENT_SCHEMAS } from './runtime/train/events.js';
export { injectedEvent } from './runtime/train/injected-event.js';
export { RunLength } from './runtime/train/run-length.js';
export { verifyPackedModel } from './runtime/train/verify-packing.js';
export { webgpuProvider } from './runtime/webgpu.js';
