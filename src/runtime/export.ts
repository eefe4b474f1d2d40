import { saveModel, writeFileAtomic } from '../graph/files.js';
import type { Model } from '../graph/ir.js';
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

/** Writes an injected model's state as .safetensors in PyTorch's terms; see `pytorch-state.ts` for the names. */
export async function exportPytorchState(injected: Model, path: string): Promise<void> {
  const state = new Map([...injected.graph.initializers].map(([v, tensor]) => [v.name, tensor]));
  await writeSafetensors(path, toPytorch(readDescription(injected), state));
}
