/** Options that select parameters and the optimizer. */
import * as v from 'valibot';
import { choice, count, flag, fraction, text, texts } from '../../ops/core/option-type.js';
import { allOptimizerNames } from '../../ops/optimizers/index.js';
import { INJECTS, isObject, LEARNS, type Option, option } from './option.js';
import { parseUnfreezing, type Unfreezing } from './text.js';

const CHOICE = { group: 'What trains', commands: [...LEARNS, 'inspect'], stage: 'inject' } as const;
/** Options that also apply to a model with its own training step. */
const OWN_STEP = {
  group: 'What trains',
  commands: ['inject', 'train'],
  stage: 'inject',
  ownStep: true,
} as const;

/** Options of a training step only. */
const STEPS = { group: 'What trains', commands: INJECTS, stage: 'inject' } as const;

const unfreezing = v.pipe(
  v.custom<Unfreezing>(
    x => isObject(x) && Object.keys(x).length === 1 && (v.is(count, x.updates) || v.is(count, x.epochs)),
    'a number of updates or epochs',
  ),
  v.description('a number of updates, or epochs as 1epoch'),
);
const decayed = v.pipe(fraction, v.gtValue(0, 'a number from 0 to 1, not 0'));

/** Selection of parameters and optimizer. The options of optimizers are in `src/ops/optimizers/`. */
export const PARAMETER_OPTIONS = {
  train: option(texts, {
    ...CHOICE,
    help: 'Train the parameters that match this glob, even if a less specific --freeze matches',
  }),
  freeze: option(texts, {
    ...CHOICE,
    help: "Freeze the parameters that match this glob, or 'backbone': all but the head",
  }),
  unfreezeLast: option(count, {
    ...CHOICE,
    help: 'Train only the last N layers; the head is the first of them',
  }),
  /** Gradual unfreezing. Howard, Ruder: «Universal Language Model Fine-tuning for Text Classification», ACL 2018. */
  unfreezeEvery: option(unfreezing, {
    ...STEPS,
    help: 'Unfreeze one more layer, from the head down, every N updates (500) or epochs (1epoch)',
    parse: parseUnfreezing,
  }),
  /** Discriminative learning rates, of the same paper, with a configurable factor instead of 1/2.6. */
  layerDecay: option(decayed, {
    ...STEPS,
    help: 'Learning rate of each layer: this factor times that of the next one towards the head',
  }),
  params: option(text, {
    ...OWN_STEP,
    help: 'Read parameters from this file: .safetensors, .npz, .onnx or an ONNX Runtime checkpoint',
  }),
  initialize: option(flag, {
    ...OWN_STEP,
    expert: true,
    help: "Run the initialization in the model's training_info",
    conflicts: ['params'],
  }),
  /**
   * `W1=dW1` names the gradient of one parameter, a pattern such as `{param}_grad` or `model.{param}=d_{param}` those
   * of all parameters with such a gradient.
   */
  gradients: option(texts, {
    ...OWN_STEP,
    expert: true,
    help: "Gradients the graph already computes, e.g. W1=dW1 or '{param}_grad'",
    flag: 'grad',
  }),
  replaceOptimizer: option(flag, {
    ...OWN_STEP,
    expert: true,
    help: "Replace the optimizer of the model's own training step",
  }),

  optimizer: option(choice(allOptimizerNames), {
    group: 'Optimizer',
    commands: ['inject', 'train'],
    stage: 'inject',
    help: 'Optimizer',
    shown: 'agd',
    path: 'optimizer.name',
  }),
} satisfies Record<string, Option>;
