import type { Model } from '../graph/ir.js';
import { eliminateDeadNodes } from './eliminate-dead-nodes.js';
import type { ShapeOracle } from './infer-shapes.js';
import { prepare } from './inject.js';
import { readOriginal } from './original.js';
import { trainBatchNorm } from './train-batch-norm.js';
import { trainDropout } from './train-dropout.js';
import { readDescription } from './training-description.js';

/**
 * The original model in inference form with the loss of an injected one, under the same names; parameters and
 * running statistics are inputs. For validation.
 */
export async function evaluationModel(injected: Model, oracle: ShapeOracle): Promise<Model> {
  const { loss, outputs, parameters, statistics } = readDescription(injected);
  const { work, g } = await prepare(readOriginal(injected), loss, oracle);
  // The file may have been exported in training mode.
  trainBatchNorm(g, 'eval');
  trainDropout(g, 'eval', 0);
  const fed = new Set([...parameters.map(p => p.name), ...statistics]);
  for (const value of [...work.graph.initializers.keys()]) {
    if (!fed.has(value.name)) continue;
    work.graph.initializers.delete(value);
    if (!work.graph.inputs.includes(value)) work.graph.inputs.push(value);
  }
  // Where the original computes gradients itself, nobody asks for them here.
  const wanted = new Set([loss.name, loss.output, ...outputs]);
  work.graph.outputs = work.graph.outputs.filter(v => wanted.has(v.name));
  eliminateDeadNodes(work);
  return work;
}
