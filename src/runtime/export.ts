import { saveModel, writeFileAtomic } from '../graph/files.js';
import type { Model } from '../graph/ir.js';
import { originalBytes, readOriginal } from '../passes/original.js';

/**
 * Writes the original model with the injected model's current values to `path`: byte for byte the original file
 * but for the trained numbers. Where the original kept its tensors in files of their own, so does this.
 */
export async function exportFile(injected: Model, path: string): Promise<void> {
  const model = readOriginal(injected);
  const external = [...model.graph.initializers.values()].some(tensor => tensor.external);
  if (external) await saveModel(model, path);
  else await writeFileAtomic(path, [originalBytes(injected)]);
}
