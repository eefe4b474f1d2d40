import { AgdError } from '../../graph/errors.js';
import type { Model } from '../../graph/ir.js';
import { neededInputs } from '../../graph/prune.js';
import { isKnownLoss } from '../../ops/losses/index.js';
import { dropUnreadInputs, eliminateDeadNodes } from '../common/eliminate-dead-nodes.js';
import { partOfModel } from '../common/part-of-model.js';
import { type AttachedSampleLosses, attachLoss, attachSampleLosses } from '../differentiate/attach-loss.js';
import { activeValues } from '../differentiate/backward.js';
import { computeInFloat } from '../differentiate/compute-in-float.js';
import { drawRandom, numberBatches } from '../differentiate/draw-random.js';
import { expandNodes } from '../differentiate/expand-nodes.js';
import { trainBatchNorm } from '../differentiate/train-batch-norm.js';
import { trainDropout } from '../differentiate/train-dropout.js';
import { readOriginal } from '../file/embed-original.js';
import { readDescription } from '../file/step-metadata.js';
import { withAlgorithm } from '../import/adopt-step.js';
import type { ShapeOracle } from '../normalize/infer-shapes.js';
import { normalize } from '../pipeline.js';

/** `samples` are the outputs with the loss of each sample; a model that computes its loss itself has only the mean. */
export type EvaluationModel = { model: Model; samples?: AttachedSampleLosses };

/**
 * The original model in inference form with the loss of an injected one, under the same names, but sample by sample;
 * parameters and running statistics are inputs. For validation.
 */
export async function evaluationModel(injected: Model, oracle: ShapeOracle): Promise<EvaluationModel> {
  const { loss, outputs, parameters, statistics, freeBatch } = readDescription(injected);
  if (loss.kind !== 'output' && !isKnownLoss(loss.kind))
    throw new AgdError(
      'bad-option',
      `Loss '${loss.kind}' is defined by an extension, which validation needs: load it with --extend FILE.`,
    );
  const original = readOriginal(injected);
  // Where the model computes its loss, and gradients or an update after it, nobody asks for these here.
  const source =
    loss.kind === 'output' ? partOfModel(withAlgorithm(original), [loss.output, ...outputs]) : original;
  const { work, g } = await normalize(source, oracle, { freeBatch });
  const samples = loss.kind === 'output' ? undefined : attachSampleLosses(g, loss);
  if (loss.kind === 'output') attachLoss(g, loss);
  const fed = new Set([...parameters.map(p => p.name), ...statistics]);
  const values = [...work.graph.initializers.keys()].filter(v => fed.has(v.name));
  g.forget(values);
  computeInFloat(work.graph, values);
  // The file may have been exported in training mode.
  trainBatchNorm(g, 'eval');
  trainDropout(g, 'eval');
  // Every evaluation draws the same, so that those of two epochs can be compared.
  numberBatches(g, drawRandom(g, 0), () => g.scalar(0, 'int64'));
  for (const value of values) {
    work.graph.initializers.delete(value);
    if (!work.graph.inputs.includes(value)) work.graph.inputs.push(value);
  }
  const results = [loss.name, loss.output, samples?.losses.name, samples?.weights?.name];
  work.graph.outputs = work.graph.outputs.filter(v => results.includes(v.name));
  // A kernel may read what its gradient does not, such as the lengths of sequences: no step is fed that.
  const known = new Set([...fed, ...injected.graph.inputs.map(v => v.name)]);
  if (neededInputs(work.graph, work.graph.outputs).some(v => !known.has(v.name)))
    expandNodes(g, activeValues(work.graph.nodes, values));
  eliminateDeadNodes(work);
  dropUnreadInputs(work);
  return { model: work, samples };
}
