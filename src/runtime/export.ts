import { withInitializers } from '../graph/clone.js';
import { AgdError } from '../graph/errors.js';
import { saveModel, writeFileAtomic } from '../graph/files.js';
import type { Model } from '../graph/ir.js';
import type { Tensor } from '../graph/tensor.js';
import { averagedModel } from '../passes/average-weights.js';
import { originalBytes, readOriginal } from '../passes/original.js';
import { partOfModel } from '../passes/part-of-model.js';
import { readDescription } from '../passes/training-description.js';
import { writeSafetensors } from './data/safetensors.js';
import { toPytorch } from './pytorch-state.js';

/**
 * Writes the original model with the injected model's current values to `path`: byte for byte the original file
 * but for the trained numbers. Where the original kept its tensors in files of their own, so does this. Of a model that
 * computed its gradients itself, only the part for its other outputs is written, if it has any. With `ema`,
 * the moving averages of the weights take their place; throws `bad-option` where the model keeps none.
 */
export async function exportFile(injected: Model, path: string, { ema = false } = {}): Promise<void> {
  const trained = ema ? averagedModel(injected) : injected;
  const model = readOriginal(trained);
  const { exports } = readDescription(injected);
  if (exports?.length) return saveModel(partOfModel(model, exports), path);
  const external = [...model.graph.initializers.values()].some(tensor => tensor.external);
  if (external) await saveModel(model, path);
  else await writeFileAtomic(path, [originalBytes(trained)]);
}

/**
 * An injected model with other values for its parameters, and for what else of its state `values` has. Throws
 * `no-such-value` where a parameter is missing, `bad-shape` or `bad-dtype` where one is of another type.
 */
export function withParameters(injected: Model, values: ReadonlyMap<string, Tensor>): Model {
  const names = readDescription(injected).parameters.map(p => p.name);
  const missing = names.find(name => !values.has(name));
  if (missing !== undefined)
    throw new AgdError(
      'no-such-value',
      `There is no value for parameter '${missing}' in the file of parameters.`,
    );
  for (const [{ name }, { dtype, dims }] of injected.graph.initializers) {
    const given = values.get(name);
    if (given && given.dtype !== dtype)
      throw new AgdError('bad-dtype', `The value for '${name}' is ${given.dtype}, not ${dtype}.`);
    if (given && `${given.dims}` !== `${dims}`)
      throw new AgdError('bad-shape', `The value for '${name}' has shape [${given.dims}], not [${dims}].`);
  }
  return withInitializers(injected, name => values.get(name));
}

/** Writes an injected model's state as .safetensors in PyTorch's terms; see `pytorch-state.ts` for the names. */
export async function exportPytorchState(injected: Model, path: string): Promise<void> {
  const state = new Map([...injected.graph.initializers].map(([v, tensor]) => [v.name, tensor]));
  await writeSafetensors(path, toPytorch(readDescription(injected), state));
}
