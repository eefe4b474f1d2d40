/**
 * AdaBelief. Zhuang, Tang, Ding, Tatikonda, Dvornek, Papademetris, Duncan: «AdaBelief Optimizer: Adapting Stepsizes by
 * the Belief in Observed Gradients», NeurIPS 2020. The options and their names are those of the authors' implementation.
 */
import { flag } from '../core/option-type.js';
import {
  betasOption,
  correction,
  decoupledOption,
  ensure,
  epsOption,
  fixedDecayOption,
  largestOption,
  lrOption,
  movingAverage,
  type Optimizer,
  type OptionsOf,
  option,
  type Scalars,
  squared,
  weightDecayOption,
  withDecay,
} from './optimizer.js';
import { rectification } from './radam.js';

const options = {
  lr: lrOption(1e-3),
  betas: betasOption,
  eps: epsOption(1e-16),
  weightDecay: weightDecayOption(),
  weightDecouple: decoupledOption(true),
  fixedDecay: fixedDecayOption,
  amsgrad: largestOption,
  rectify: option(flag, true, 'Rectify the step as RAdam does'),
  degeneratedToSgd: option(flag, true, 'Take SGD steps until the rectified ones start'),
};

export type AdabeliefOptions = OptionsOf<typeof options>;

/**
 * With m the moving average of g, and v that of (g - m)^2, to which eps is added in every step:
 *
 *     w -= lr / (1 - beta1^t) m / (sqrt(v / (1 - beta2^t)) + eps)
 *     w -= lr / (1 - beta1^t) r sqrt(1 - beta2^t) m / (sqrt(v) + eps)     with `rectify`; r as in RAdam
 *
 * As g - m = beta1 (g - m_{t-1}), the one difference moves m and makes the variance.
 */
export const adabelief: Optimizer<AdabeliefOptions> = {
  name: 'adabelief',
  options,

  states: ({ amsgrad }) => [
    'exp_avg',
    squared('exp_avg_var'),
    ...(amsgrad ? [squared('max_exp_avg_var')] : []),
  ],

  scalars(step, lr, { betas, eps, weightDecay, weightDecouple, fixedDecay, rectify, degeneratedToSgd }) {
    const root = correction(step, betas[1]).sqrt();
    const { factor, low, high }: Scalars = rectify
      ? rectification(step, betas[1], degeneratedToSgd ? 1 : 0)
      : { factor: root };
    return {
      rate: lr.mul(factor!).div(correction(step, betas[0])),
      eps: rectify ? step.full(eps) : root.mul(eps),
      ...(rectify ? { low: low!, high: high! } : {}),
      ...(weightDecay && weightDecouple
        ? { decay: fixedDecay ? step.full(weightDecay) : lr.mul(weightDecay) }
        : {}),
    };
  },

  update(w, grad, state, { rate, eps, low, high, decay }, options) {
    const { betas, weightDecay, weightDecouple, amsgrad } = options;
    const g = weightDecay && !weightDecouple ? grad.add(w.mul(weightDecay)) : grad;
    const ahead = g.sub(state.exp_avg!);
    const m = state.exp_avg!.add(ahead.mul(1 - betas[0]));
    const distance = ahead.mul(betas[0]).square();
    const v = movingAverage(state.exp_avg_var!, distance, betas[1]).add(options.eps);
    const largest = amsgrad ? state.max_exp_avg_var!.maximum(v) : v;
    const denominator = largest.sqrt().add(eps!);
    const step = m.div(low ? denominator.op('Clip', [low, high]) : denominator).mul(rate!);
    return {
      ...withDecay(step, w, decay),
      state: { exp_avg: m, exp_avg_var: v, ...(amsgrad ? { max_exp_avg_var: largest } : {}) },
    };
  },

  validate({ weightDecouple, fixedDecay, amsgrad, rectify }) {
    ensure(
      weightDecouple || !fixedDecay,
      'fixed_decay is a form of decoupled weight decay: it needs weight_decouple.',
    );
    ensure(!amsgrad || !rectify, 'The rectified step has no amsgrad: turn rectify off.');
  },
};
