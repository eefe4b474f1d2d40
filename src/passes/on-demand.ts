/** Passes that few models need: one part of a page's scripts, which is loaded when the first of them runs. */
export { applyAdapters, withAdapterInputs } from './adapters/apply-adapters.js';
export { mergeAdapters } from './adapters/merge-adapters.js';
export { addDerivatives, checkModes, valuesToDifferentiate } from './differentiate/add-derivatives.js';
export { checkpointActivations } from './differentiate/checkpoint-activations.js';
export { checkStatistics, clipSamples, separateSamples } from './differentiate/clip-samples.js';
export { lookUpRows, sumLookups } from './differentiate/look-up-rows.js';
export { perturbWeights } from './differentiate/perturb-weights.js';
export { adoptStep, describeOwnStep, readAlgorithm, withoutOptimizer } from './import/adopt-step.js';
export { lowerTrainingOperators } from './import/lower-training-operators.js';
export { useGradients } from './import/use-gradients.js';
export { addSegments } from './normalize/add-segments.js';
export { deriveInputs } from './normalize/derive-inputs.js';
export { freeBatch } from './normalize/free-batch.js';
export { maskSegments } from './normalize/mask-segments.js';
export { quantizeModel } from './quantize/quantize-model.js';
export { storeIntegers } from './quantize/store-integers.js';
export { bakePreprocessing } from './recipe/bake-preprocessing.js';
export { chooseWrt } from './select/choose-wrt.js';
