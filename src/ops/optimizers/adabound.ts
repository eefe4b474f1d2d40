/** AdaBound. Luo, Xiong, Liu, Sun: «Adaptive Gradient Methods with Dynamic Bound of Learning Rate», ICLR 2019. */
import { betweenZeroAndOne, nonNegative } from '../core/option-type.js';
import {
  betasOption,
  correction,
  ensure,
  epsOption,
  largestOption,
  lrOption,
  movingAverage,
  type Optimizer,
  type OptionsOf,
  option,
  squared,
  weightDecayOption,
} from './optimizer.js';

const options = {
  lr: lrOption(1e-3),
  betas: betasOption,
  finalLr: option(nonNegative, 0.1, 'Learning rate (of SGD) that the bounds converge to'),
  gamma: option(betweenZeroAndOne, 1e-3, 'How fast the bounds converge'),
  eps: epsOption(1e-8),
  weightDecay: weightDecayOption(),
  amsbound: largestOption,
};

export type AdaboundOptions = OptionsOf<typeof options>;

/**
 * Adam, whose rate of each coordinate is bounded:
 *
 *     rate = lr sqrt(1 - beta2^t) / (1 - beta1^t) / (sqrt(v) + eps)
 *     w -= clip(rate, final_lr (1 - 1 / (gamma t + 1)), final_lr (1 + 1 / (gamma t))) m
 *
 * in the form of the authors' implementation. Weight decay is added to the gradient.
 */
export const adabound: Optimizer<AdaboundOptions> = {
  name: 'adabound',
  options,

  states: ({ amsbound }) => [
    'exp_avg',
    squared('exp_avg_sq'),
    ...(amsbound ? [squared('max_exp_avg_sq')] : []),
  ],

  scalars(step, lr, options) {
    const { betas, finalLr, gamma } = options;
    const final = lr.mul(finalLr / options.lr);
    const closing = step.mul(gamma);
    return {
      rate: lr.mul(correction(step, betas[1]).sqrt()).div(correction(step, betas[0])),
      low: final.sub(final.div(closing.add(1))),
      high: final.add(final.div(closing)),
    };
  },

  update(w, grad, state, { rate, low, high }, { betas, eps, weightDecay, amsbound }) {
    const g = weightDecay ? grad.add(w.mul(weightDecay)) : grad;
    const m = movingAverage(state.exp_avg!, g, betas[0]);
    const v = movingAverage(state.exp_avg_sq!, g.square(), betas[1]);
    const largest = amsbound ? state.max_exp_avg_sq!.maximum(v) : v;
    const bounded = rate!.div(largest.sqrt().add(eps)).op('Clip', [low, high]);
    return {
      step: bounded.mul(m),
      state: { exp_avg: m, exp_avg_sq: v, ...(amsbound ? { max_exp_avg_sq: largest } : {}) },
    };
  },

  rates: ['finalLr'],

  validate({ lr }) {
    ensure(lr > 0, 'The bounds of adabound follow lr, which must be above 0.');
  },
};
