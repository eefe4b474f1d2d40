import { choice, flag, text, texts } from '../../ops/core/option-type.js';
import { allOptimizerNames } from '../../ops/optimizers/index.js';
import { LEARNS, type Option, option } from './option.js';

const CHOICE = { group: 'What trains', commands: [...LEARNS, 'inspect'], stage: 'inject' } as const;
/** Those that a model with its own training step takes too. */
const OWN_STEP = {
  group: 'What trains',
  commands: ['inject', 'train'],
  stage: 'inject',
  ownStep: true,
} as const;

/** What trains, and by which optimizer, whose own options are in `src/ops/optimizers/`. */
export const PARAMETER_OPTIONS = {
  train: option(texts, {
    ...CHOICE,
    help: 'Train the parameters that match this glob',
  }),
  freeze: option(texts, {
    ...CHOICE,
    help: 'Freeze the parameters that match this glob',
  }),
  params: option(text, {
    ...OWN_STEP,
    help: 'Take parameters from this file: .safetensors, .npz, .onnx or an ONNX Runtime checkpoint',
  }),
  initialize: option(flag, {
    ...OWN_STEP,
    expert: true,
    help: "Run the initialization in the model's training_info",
    conflicts: ['params'],
  }),
  /**
   * `W1=dW1` names the gradient of one parameter, a pattern such as `{param}_grad` or `model.{param}=d_{param}` those
   * of all whose gradient is there.
   */
  gradients: option(texts, {
    ...OWN_STEP,
    expert: true,
    help: "Gradients the graph already computes, as W1=dW1 or '{param}_grad'",
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
