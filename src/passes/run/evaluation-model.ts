/** The models that evaluation and prediction run: in inference mode, with or without the loss. */
import { AgdError } from '../../graph/errors.js';
import type { Model } from '../../graph/ir.js';
import type { Provider } from '../../ops/core/provider.js';
import { isKnownLoss } from '../../ops/losses/index.js';
import { contextOf, type PassOptions, runPasses } from '../common/context.js';
import { partOfModel } from '../common/part-of-model.js';
import type { AttachedSampleLosses } from '../differentiate/attach-loss.js';
import { readOriginal } from '../file/embed-original.js';
import { readDescription } from '../file/step-metadata.js';
import { withAlgorithm } from '../import/own-step.js';
import { derivedHere } from '../normalize/derivable-inputs.js';
import type { ShapeOracle } from '../normalize/infer-shapes.js';
import { readsLastToken } from '../normalize/keep-all-positions.js';
import type { LossSpec } from '../options.js';
import { PIPELINES } from '../pipeline.js';

/** The names of a loss's values: the loss itself, the output that it reads, and the target. */
export type NamedLoss = LossSpec & { name: string; output: string; target?: string };

/** `samples` are the outputs with the loss of each sample; a model that computes its loss itself has only the mean. */
export type EvaluationModel = { model: Model; loss: NamedLoss; samples?: AttachedSampleLosses };

/** Regardless of the exported mode; random operators draw the same numbers in each evaluation. */
const INFERENCE = { batchNorm: 'eval', dropout: 'eval', seed: 0 } as const;

/**
 * The original model in inference mode with the loss of an injected one, sample by sample. Values keep their names;
 * parameters and running statistics are inputs.
 */
export async function evaluationModel(
  injected: Model,
  oracle: ShapeOracle,
  provider?: Provider,
): Promise<EvaluationModel> {
  const { loss, outputs, freeBatch, deriveInputs, allPositions, pack } = readDescription(injected);
  const original = readOriginal(injected);
  // A model that computes its loss may compute gradients and an update from it, which validation does not need.
  const source =
    loss.kind === 'output' ? partOfModel(withAlgorithm(original), [loss.output, ...outputs]) : original;
  return modelWithLoss(source, loss, oracle, {
    ...{ freeBatch, allPositions, pack, provider },
    deriveInputs: await derivedHere(source.graph, deriveInputs),
    ...stateOf(injected),
  });
}

/** A plain model in inference mode with a loss, sample by sample. Throws as `attachLoss` does. */
export async function modelWithLoss(
  model: Model,
  loss: LossSpec,
  oracle: ShapeOracle,
  options: PassOptions = {},
): Promise<EvaluationModel> {
  if (loss.kind !== 'output' && !isKnownLoss(loss.kind))
    throw new AgdError(
      'bad-option',
      `Loss '${loss.kind}' is defined by an extension, which validation needs: load it with --extend FILE.`,
    );
  const context = contextOf(model, { ...options, loss, ...INFERENCE }, oracle);
  const { work, samples } = await runPasses(PIPELINES.evaluate, context, ['work', 'samples']);
  // A loss that the model computes has the name that it was given as an output.
  const name = context.loss?.loss.name ?? 'loss';
  const named = samples && { output: samples.output.name, target: samples.target?.name };
  return { model: work, loss: { output: '', ...loss, ...named, name } as NamedLoss, samples };
}

/** A model in inference mode that has these outputs, which may be inner values. Throws `no-such-value`. */
export async function predictionModel(
  model: Model,
  outputs: readonly string[],
  oracle: ShapeOracle,
  options: PassOptions = {},
): Promise<Model> {
  const part = partOfModel(model, outputs);
  const deriveInputs = await derivedHere(part.graph, options.deriveInputs);
  const context = contextOf(part, { ...options, ...INFERENCE, deriveInputs }, oracle);
  return (await runPasses(PIPELINES.predict, context, ['work'])).work;
}

/** The same of an injected model, whose parameters and running statistics are inputs. */
export function injectedPredictionModel(
  injected: Model,
  outputs: readonly string[],
  oracle: ShapeOracle,
  provider?: Provider,
): Promise<Model> {
  const { freeBatch, deriveInputs, allPositions, pack } = readDescription(injected);
  const original = withAlgorithm(readOriginal(injected));
  const part = partOfModel(original, outputs);
  return predictionModel(original, outputs, oracle, {
    ...{ freeBatch, deriveInputs, pack, provider, allPositions: allPositions && readsLastToken(part.graph) },
    ...stateOf(injected),
  });
}

/** What an evaluation of an injected model is fed: its state, and what its step is fed. */
function stateOf(injected: Model): Pick<PassOptions, 'state' | 'fed'> {
  const { parameters, statistics } = readDescription(injected);
  const state = new Set([...parameters.map(p => p.name), ...statistics]);
  return { state, fed: new Set([...state, ...injected.graph.inputs.map(v => v.name)]) };
}
