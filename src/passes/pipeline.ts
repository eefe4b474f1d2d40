/**
 * The order in which each command runs the passes, which `stages` declares. The order is important; `requires` and `ensures` state
 * what each pass relies on. The tables in docs/explain/architecture.md are generated from this file.
 */
import type { Model } from '../graph/ir.js';
import { contextOf, type Pass, type PassOptions, runPasses, type With } from './common/context.js';
import type { ShapeOracle } from './normalize/infer-shapes.js';
import { DIFFERENTIATE_PASSES } from './stages/differentiate.js';
import { FILE_PASSES } from './stages/file.js';
import { IMPORT_PASSES } from './stages/import.js';
import { LOSS_PASSES } from './stages/loss.js';
import { NORMALIZE_PASSES } from './stages/normalize.js';
import { UPDATE_PASSES } from './stages/update.js';

/** Every pass by name. Each can run alone, on a context with the facts that it requires. */
export const PASSES: ReadonlyMap<string, Pass> = new Map(
  [NORMALIZE_PASSES, LOSS_PASSES, DIFFERENTIATE_PASSES, UPDATE_PASSES, FILE_PASSES, IMPORT_PASSES]
    .flat()
    .map(p => [p.name, p]),
);

function list(...names: string[]): Pass[] {
  return names.map(name => {
    const found = PASSES.get(name);
    if (!found) throw new Error(`Unknown pass '${name}'.`);
    return found;
  });
}

const STANDARDIZE = list(
  'check-attributes',
  'add-adapters',
  'quantize-model',
  'copy-model',
  'upgrade-opset',
  'expand-sparse',
  'inline-functions',
  'widen-bfloat16',
  'lower-opset',
  'read-origins',
  'lift-subgraph-initializers',
);
const PLACE = list('split-merged-initializers', 'tie-transposed-initializers', 'place-parameters');
const INFER = list('infer-shapes', 'fold-shapes', 'open-graph', 'mask-segments');
const NORMALIZE = [
  ...STANDARDIZE,
  ...PLACE,
  ...list('lift-constants', 'add-segments', 'derive-inputs', 'keep-all-positions', 'expand-extensions'),
  ...list('free-batch'),
  ...INFER,
];
const CLEAN = list('eliminate-dead-nodes', 'drop-unread-inputs');
const UPDATE = [
  ...list('plan-schedule', 'plan-unfreezing', 'return-divisor', 'attach-optimizer', 'number-batches'),
  ...CLEAN,
  ...list('narrow-splits', 'declare-value-types', 'describe-step', 'embed-original'),
];
const MODES = list('train-batch-norm', 'train-dropout');
const DRAW = list('draw-random', 'number-batches', 'compute-in-float');

/** What is differentiated, and with respect to what: a loss by the trained parameters or by `wrt`, or outputs by `wrt`. */
const OF_PARAMETERS = [
  ...NORMALIZE,
  ...list('attach-loss', 'check-loss', 'select-parameters'),
  ...MODES,
  ...DRAW,
];
const OF_WRT = [...NORMALIZE, ...list('attach-loss', 'check-loss', 'choose-wrt'), ...MODES, ...DRAW];
const OF_OUTPUTS = [...NORMALIZE, ...list('add-cotangents', 'choose-wrt'), ...DRAW];
const GRADIENTS = [...list('backward', 'lower-batch-norm', 'return-gradients'), ...CLEAN];
const DERIVATIVES = [
  ...DRAW,
  ...list('add-derivatives', 'lower-batch-norm'),
  ...CLEAN,
  ...list('narrow-splits', 'declare-value-types'),
];
const OBJECTIVE = [...list('lower-batch-norm', 'return-objective'), ...CLEAN];

/** The passes of each use, in order. */
export const PIPELINES = {
  /** A typed copy, ready to be differentiated, with an initializer for each parameter. */
  normalize: NORMALIZE,
  /** A training step from a loss. */
  inject: [
    ...list('resolve-optimizer'),
    ...NORMALIZE,
    ...list('attach-loss', 'select-parameters', 'check-loss', 'group-parameters'),
    ...MODES,
    ...list('observe-ranges', 'detach-values', 'lower-precision', 'separate-samples', 'look-up-rows'),
    ...list('draw-random', 'scale-loss', 'backward'),
    ...list('lower-batch-norm', 'scale-gradients-of-scales', 'unscale-gradients', 'name-gradients'),
    ...list('checkpoint-activations', 'sum-rows', 'perturb-weights', 'compute-in-float'),
    ...UPDATE,
  ],
  /** A training step from gradients that the graph computes. */
  injectGradients: [
    ...list('resolve-optimizer'),
    ...STANDARDIZE,
    ...list('lift-constants', 'add-segments', 'derive-inputs', 'keep-all-positions', 'expand-extensions'),
    ...INFER,
    ...list('use-gradients', 'group-parameters', 'draw-random', 'take-gradients', 'perturb-weights'),
    ...list('compute-in-float'),
    ...UPDATE,
  ],
  /** Loss and gradients with respect to the parameters that would train. */
  gradients: [...OF_PARAMETERS, ...GRADIENTS],
  /** The same with respect to `wrt`. */
  gradientsByName: [...OF_WRT, ...GRADIENTS],
  /** Vector-Jacobian products. */
  pullback: [...OF_OUTPUTS, ...GRADIENTS],
  /** The functions that these three differentiate, for finite differences. */
  objective: [...OF_PARAMETERS, ...OBJECTIVE],
  objectiveByName: [...OF_WRT, ...OBJECTIVE],
  objectiveOfPullback: [...OF_OUTPUTS, ...OBJECTIVE],
  /** Derivatives of values, and of a loss, to be written to a file. */
  derivatives: [...NORMALIZE, ...list('choose-wrt'), ...DERIVATIVES],
  derivativesOfLoss: [...NORMALIZE, ...list('attach-loss', 'check-loss', 'choose-wrt'), ...DERIVATIVES],
  /** The losses of samples, for validation. */
  evaluate: [
    ...NORMALIZE,
    ...list('attach-sample-losses', 'choose-state', 'compute-in-float'),
    ...MODES,
    ...list('draw-random', 'number-batches', 'feed-state', 'return-losses', 'expand-unfed'),
    ...CLEAN,
  ],
  /** The outputs of the model, for predictions. */
  predict: [
    ...NORMALIZE,
    ...list('choose-state', 'compute-in-float'),
    ...MODES,
    ...list('draw-random', 'number-batches', 'feed-state', 'expand-unfed'),
    ...CLEAN,
  ],
  /** Expands ONNX's training operators in the main graph, before any other pipeline. */
  lowerTraining: list('copy-model', 'lower-training-operators'),
  /** Reads the training step that a model contains, without rewriting its state. */
  readStep: list('read-algorithm', 'lower-training-operators', 'infer-shapes'),
  /** Turns that step into one that the trainer can run. */
  adopt: [
    ...list('read-algorithm', 'lower-training-operators', 'infer-shapes', 'open-graph', 'adopt-step'),
    ...DRAW,
    ...CLEAN,
    ...list('narrow-splits', 'describe-own-step', 'embed-original'),
  ],
} satisfies Record<string, readonly Pass[]>;

/** A typed copy of the model, before any loss. */
export function normalize(
  model: Model,
  oracle: ShapeOracle,
  options: Pick<PassOptions, 'freeBatch' | 'deriveInputs' | 'allPositions' | 'pack'> = {},
): Promise<With<'work' | 'g' | 'origins' | 'model'>> {
  const facts = ['work', 'g', 'origins', 'model'] as const;
  return runPasses(PIPELINES.normalize, contextOf(model, options, oracle), facts);
}
