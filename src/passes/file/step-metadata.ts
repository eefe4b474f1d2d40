/** Reads and writes the description of a step in the metadata of an injected file. */
import { AgdError } from '../../graph/errors.js';
import type { Model } from '../../graph/ir.js';
import { checkAgainst, checkDescription } from './check-description.js';
import type { TrainingDescription } from './description.js';

const KEY = 'agd.training';

export function isInjected(model: Model): boolean {
  return model.metadata.has(KEY);
}

/**
 * Throws `invalid-model` for a file that is damaged or was not injected, `unsupported-version` for another format
 * version.
 */
export function readDescription(model: Model): TrainingDescription {
  const text = model.metadata.get(KEY);
  if (text === undefined)
    throw new AgdError(
      'invalid-model',
      'The model contains no training step: run `agd-onnx inject` on it first.',
    );
  let description: unknown;
  try {
    description = JSON.parse(text);
  } catch {
    throw new AgdError('invalid-model', `The metadata entry '${KEY}' is not JSON: the file is damaged.`);
  }
  const { version } = (description ?? {}) as Partial<Record<'version', unknown>>;
  if (typeof version === 'number' && version !== 1)
    throw new AgdError(
      'unsupported-version',
      `The training step has format ${version}; this version of agd-onnx reads format 1. Inject the original model again.`,
    );
  checkDescription(description);
  return description;
}

/** The same, and checks that graph and bindings have everything that the description names. */
export function readStep(model: Model): TrainingDescription {
  const description = readDescription(model);
  checkAgainst(model, description);
  return description;
}

export function writeDescription(model: Model, description: TrainingDescription): void {
  model.metadata.set(KEY, JSON.stringify(description));
}
