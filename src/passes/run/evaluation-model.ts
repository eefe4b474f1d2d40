import { AgdError } from '../../graph/errors.js';
import type { Model } from '../../graph/ir.js';
import { isKnownLoss } from '../../ops/losses/index.js';
import { contextOf, runPasses } from '../common/context.js';
import { partOfModel } from '../common/part-of-model.js';
import type { AttachedSampleLosses } from '../differentiate/attach-loss.js';
import { readOriginal } from '../file/embed-original.js';
import { readDescription } from '../file/step-metadata.js';
import { withAlgorithm } from '../import/adopt-step.js';
import type { ShapeOracle } from '../normalize/infer-shapes.js';
import { PIPELINES } from '../pipeline.js';

/** `samples` are the outputs with the loss of each sample; a model that computes its loss itself has only the mean. */
export type EvaluationModel = { model: Model; samples?: AttachedSampleLosses };

/**
 * The original model in inference mode with the loss of an injected one, sample by sample. Values keep their names;
 * parameters and running statistics are inputs.
 */
export async function evaluationModel(injected: Model, oracle: ShapeOracle): Promise<EvaluationModel> {
  const { loss, outputs, parameters, statistics, freeBatch } = readDescription(injected);
  if (loss.kind !== 'output' && !isKnownLoss(loss.kind))
    throw new AgdError(
      'bad-option',
      `Loss '${loss.kind}' is defined by an extension, which validation needs: load it with --extend FILE.`,
    );
  const original = readOriginal(injected);
  // A model that computes its loss may compute gradients and an update from it, which validation does not need.
  const source =
    loss.kind === 'output' ? partOfModel(withAlgorithm(original), [loss.output, ...outputs]) : original;
  const state = new Set([...parameters.map(p => p.name), ...statistics]);
  const fed = new Set([...state, ...injected.graph.inputs.map(v => v.name)]);
  // Whatever mode the file was exported in; random operators draw the same numbers in each evaluation.
  const options = { freeBatch, loss, state, fed, batchNorm: 'eval', dropout: 'eval', seed: 0 } as const;
  const context = contextOf(source, options, oracle);
  const { work, samples } = await runPasses(PIPELINES.evaluate, context, ['work', 'samples']);
  return { model: work, samples };
}
