/** What commands need that read a model and write a step: half of what the library loads. */
import type { Model } from './graph/ir.js';
import { type InjectReport, inject as injectPass } from './passes/inject.js';
import { type Inspection, type InspectOptions, inspect as inspectPass } from './passes/inspect.js';
import type { LossFunction } from './passes/normalize/loss-function.js';
import { withLossFunction } from './passes/normalize/with-loss-function.js';
import type { InjectOptions, LossSpec } from './passes/options.js';
import { sessionShapes } from './runtime/session.js';

export { saveModel } from './graph/files.js';
export { openModel } from './graph/open-model.js';
export { modelFile, openForInjection } from './runtime/formats/artifacts.js';
export { injectedEvent } from './runtime/train/injected-event.js';

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

/** The contents of a model, and what training it requires. */
export function inspect(model: Model, options?: InspectOptions): Promise<Inspection> {
  return inspectPass(model, options, sessionShapes);
}
