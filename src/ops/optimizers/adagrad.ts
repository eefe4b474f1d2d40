/**
 * Adagrad. Duchi, Hazan, Singer: «Adaptive Subgradient Methods for Online Learning and Stochastic Optimization», JMLR 12,
 * 2011; options as PyTorch's.
 */
import { nonNegative } from '../core/option-type.js';
import {
  epsOption,
  lrOption,
  type Optimizer,
  type OptionsOf,
  option,
  squared,
  weightDecayOption,
} from './optimizer.js';

const options = {
  lr: lrOption(1e-2),
  lrDecay: option(nonNegative, 0, 'Decay of the learning rate: lr / (1 + lr_decay (t - 1))'),
  eps: epsOption(1e-10),
  weightDecay: weightDecayOption(),
  initialAccumulatorValue: option(nonNegative, 0, 'Initial value of the sum of squared gradients'),
};

export type AdagradOptions = OptionsOf<typeof options>;

/**
 * With s the sum of g^2, which starts at initial_accumulator_value:
 *
 *     w -= lr / (1 + lr_decay (t - 1)) g / (sqrt(s) + eps)
 *
 * Weight decay is added to the gradient.
 */
export const adagrad: Optimizer<AdagradOptions> = {
  name: 'adagrad',
  options,

  states: ({ initialAccumulatorValue }) => [{ ...squared('sum'), value: initialAccumulatorValue }],

  scalars: (step, lr, { lrDecay }) => ({
    rate: lrDecay ? lr.div(step.sub(1).mul(lrDecay).add(1)) : lr,
  }),

  update(w, grad, state, { rate }, { eps, weightDecay }) {
    const g = weightDecay ? grad.add(w.mul(weightDecay)) : grad;
    const sum = state.sum!.add(g.square());
    return { step: g.div(sum.sqrt().add(eps)).mul(rate!), state: { sum } };
  },
};
