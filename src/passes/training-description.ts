import { AgdError } from '../graph/errors.js';
import type { Model } from '../graph/ir.js';
import type { LossSpec } from './attach-loss.js';

/** What a reader of an injected file has to know beyond the graph; kept as JSON in the file's metadata. */
export type TrainingDescription = {
  version: 1;
  /** The loss as asked for, with the names of the graph's loss output, model output and target input. */
  loss: LossSpec & { name: string; output: string; target?: string };
  /** The outputs that the model had. */
  outputs: string[];
  optimizer: { name: string; options: Record<string, unknown> };
  /** Names of the inputs for learning rate (float32 scalar) and step count (int64 scalar). */
  lr: string;
  step: string;
  /** Parameters with their optimizer state: the optimizer's name of a tensor -> its name in the graph. */
  parameters: { name: string; state: Record<string, string> }[];
  /** Running statistics that a step updates. */
  statistics: string[];
};

const KEY = 'agd.training';

export function isInjected(model: Model): boolean {
  return model.metadata.has(KEY);
}

/** Throws `invalid-model` for a file that was not injected, or by a version that writes another form. */
export function readDescription(model: Model): TrainingDescription {
  const text = model.metadata.get(KEY);
  if (text === undefined)
    throw new AgdError(
      'invalid-model',
      'The model holds no training step: run `agd-onnx inject` on it first.',
    );
  let description: TrainingDescription;
  try {
    description = JSON.parse(text);
  } catch {
    throw new AgdError('invalid-model', `The metadata entry '${KEY}' is not JSON: the file is damaged.`);
  }
  if (description.version !== 1)
    throw new AgdError(
      'unsupported-version',
      `The training step is of form ${description.version}; this version of agd-onnx reads form 1. Inject the original model again.`,
    );
  return description;
}

export function writeDescription(model: Model, description: TrainingDescription): void {
  model.metadata.set(KEY, JSON.stringify(description));
}
