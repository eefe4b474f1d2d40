/**
 * Adan. Xie, Zhou, Li, Lin, Yan: «Adan: Adaptive Nesterov Momentum Algorithm for Faster Optimizing Deep Models», TPAMI
 * 2024; options as in the authors' implementation, whose third beta is `beta3`.
 */
import { belowOne, betas, flag } from '../core/option-type.js';
import {
  correction,
  epsOption,
  lrOption,
  movingAverage,
  type Optimizer,
  type OptionsOf,
  option,
  squared,
  weightDecayOption,
  withDecay,
} from './optimizer.js';

const options = {
  lr: lrOption(1e-3),
  betas: option(betas, [0.98, 0.92] as const, 'Decay rates of the averages of g and of its differences'),
  beta3: option(belowOne, 0.99, 'Decay rate of the third moving average'),
  eps: epsOption(1e-8),
  weightDecay: weightDecayOption(),
  noProx: option(flag, false, 'Weight decay as in AdamW, not as a proximal step'),
};

export type AdanOptions = OptionsOf<typeof options>;

/**
 * With d = g - g_{t-1}, which is 0 in the first step, m, v and n the moving averages of g, d and (g + beta2 d)^2:
 *
 *     s = lr (m / (1 - beta1^t) + beta2 v / (1 - beta2^t)) / (sqrt(n / (1 - beta3^t)) + eps)
 *     w = (w - s) / (1 + lr weight_decay)        with `no_prox`, w (1 - lr weight_decay) - s
 *
 * Expanding the fraction by sqrt(1 - beta3^t) moves the corrections into the scalars.
 */
export const adan: Optimizer<AdanOptions> = {
  name: 'adan',
  options,

  states: () => ['exp_avg', squared('exp_avg_sq'), 'exp_avg_diff', 'neg_pre_grad'],

  scalars(step, lr, { betas: [beta1, beta2], beta3, eps, weightDecay, noProx }) {
    const root = correction(step, beta3).sqrt();
    const decay = weightDecay ? lr.mul(weightDecay) : undefined;
    const shrink = decay && !noProx ? decay.add(1).reciprocal() : undefined;
    const rate = shrink ? lr.mul(root).mul(shrink) : lr.mul(root);
    return {
      rate: rate.div(correction(step, beta1)),
      diffRate: rate.mul(beta2).div(correction(step, beta2)),
      eps: root.mul(eps),
      later: step.greater(1).cast(step.dtype),
      ...(decay ? { decay: shrink ? decay.mul(shrink) : decay } : {}),
    };
  },

  update(w, g, state, { rate, diffRate, eps, later, decay }, { betas: [beta1, beta2], beta3 }) {
    const difference = g.add(state.neg_pre_grad!).mul(later!);
    const m = movingAverage(state.exp_avg!, g, beta1);
    const v = movingAverage(state.exp_avg_diff!, difference, beta2);
    const n = movingAverage(state.exp_avg_sq!, g.add(difference.mul(beta2)).square(), beta3);
    const step = m.mul(rate!).add(v.mul(diffRate!)).div(n.sqrt().add(eps!));
    return {
      ...withDecay(step, w, decay),
      state: { exp_avg: m, exp_avg_sq: n, exp_avg_diff: v, neg_pre_grad: g.neg() },
    };
  },
};
