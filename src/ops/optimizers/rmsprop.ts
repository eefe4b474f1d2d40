/**
 * RMSprop. Hinton: «Neural Networks for Machine Learning», lecture 6, 2012. `centered` is from Graves: «Generating Sequences
 * With Recurrent Neural Networks», 2013. Options as PyTorch's.
 */
import { flag, nonNegative } from '../core/option-type.js';
import {
  ensure,
  epsOption,
  lrOption,
  movingAverage,
  type Optimizer,
  type OptionsOf,
  option,
  squared,
  weightDecayOption,
} from './optimizer.js';

const options = {
  lr: lrOption(1e-2),
  alpha: option(nonNegative, 0.99, 'Decay rate of the moving average of squared gradients'),
  eps: epsOption(1e-8),
  weightDecay: weightDecayOption(),
  momentum: option(nonNegative, 0, 'Momentum'),
  centered: option(flag, false, 'Divide by the standard deviation of the gradient'),
};

export type RmspropOptions = OptionsOf<typeof options>;

/**
 * With m and v the moving averages of g and g^2, both by alpha:
 *
 *     u = momentum u + g / (sqrt(v) + eps)        with `centered`, sqrt(v - m^2)
 *     w -= lr u
 *
 * Weight decay is added to the gradient.
 */
export const rmsprop: Optimizer<RmspropOptions> = {
  name: 'rmsprop',
  options,

  states: ({ momentum, centered }) => [
    squared('square_avg'),
    ...(momentum ? ['momentum_buffer'] : []),
    ...(centered ? ['grad_avg'] : []),
  ],

  scalars: (_, lr) => ({ rate: lr }),

  update(w, grad, state, { rate }, { alpha, eps, weightDecay, momentum, centered }) {
    const g = weightDecay ? grad.add(w.mul(weightDecay)) : grad;
    const v = movingAverage(state.square_avg!, g.square(), alpha);
    const m = centered ? movingAverage(state.grad_avg!, g, alpha) : undefined;
    // Rounding may make a variance of nearly 0 negative.
    const variance = m ? v.sub(m.square()).relu() : v;
    const scaled = g.div(variance.sqrt().add(eps));
    const buffer = momentum ? state.momentum_buffer!.mul(momentum).add(scaled) : scaled;
    return {
      step: buffer.mul(rate!),
      state: { square_avg: v, momentum_buffer: buffer, ...(m ? { grad_avg: m } : {}) },
    };
  },

  validate({ alpha }) {
    ensure(alpha < 1, `alpha of rmsprop must be a number in [0, 1), not ${alpha}.`);
  },
};
