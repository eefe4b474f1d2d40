/**
 * AdEMAMix. Pagliardini, Ablin, Grangier: «The AdEMAMix Optimizer: Better, Faster, Older», ICLR 2025; options as in the
 * authors' implementation, whose third beta is `beta3`.
 */
import type { Expr } from '../core/expr.js';
import { belowOne, count, nonNegative } from '../core/option-type.js';
import {
  betasOption,
  correction,
  epsOption,
  lrOption,
  movingAverage,
  type Optimizer,
  type OptionsOf,
  oneMinusExp,
  option,
  squared,
  towards,
  weightDecayOption,
  withDecay,
} from './optimizer.js';

const options = {
  lr: lrOption(1e-3),
  betas: betasOption,
  beta3: option(belowOne, 0.9999, 'Decay rate of the third moving average'),
  alpha: option(nonNegative, 2, 'Factor of the slow moving average'),
  beta3Warmup: option(count, undefined, 'Updates in which beta3 rises from beta1'),
  alphaWarmup: option(count, undefined, 'Updates in which alpha rises from 0'),
  eps: epsOption(1e-8),
  weightDecay: weightDecayOption(),
};

export type AdemamixOptions = OptionsOf<typeof options>;

/**
 * With m, n and v the moving averages of g, g (by beta3) and g^2:
 *
 *     w -= lr (m / (1 - beta1^t) + alpha n) / (sqrt(v / (1 - beta2^t)) + eps)
 *
 * alpha rises linearly, beta3 so that its half-life does. Expanding the fraction by sqrt(1 - beta2^t) moves the corrections
 * into the scalars. Weight decay is decoupled: w -= lr weight_decay w.
 */
export const ademamix: Optimizer<AdemamixOptions> = {
  name: 'ademamix',
  options,

  states: ({ betas }) => [...(betas[0] ? ['exp_avg_fast'] : []), 'exp_avg_slow', squared('exp_avg_sq')],

  scalars(step, lr, { betas: [beta1, beta2], beta3, alpha, beta3Warmup, alphaWarmup, eps, weightDecay }) {
    const root = correction(step, beta2).sqrt();
    const rate = lr.mul(root);
    const slow = alphaWarmup === undefined ? rate : rate.mul(step.div(alphaWarmup).minimum(1));
    return {
      rate: rate.div(correction(step, beta1)),
      slowRate: slow.mul(alpha),
      eps: root.mul(eps),
      ...(beta3Warmup === undefined ? {} : { share: risingShare(step, beta1, beta3, beta3Warmup) }),
      ...(weightDecay ? { decay: lr.mul(weightDecay) } : {}),
    };
  },

  update(w, g, state, { rate, slowRate, eps, share, decay }, { betas: [beta1, beta2], beta3 }) {
    const m = beta1 ? movingAverage(state.exp_avg_fast!, g, beta1) : g;
    const n = share ? towards(state.exp_avg_slow!, g, share) : movingAverage(state.exp_avg_slow!, g, beta3);
    const v = movingAverage(state.exp_avg_sq!, g.square(), beta2);
    const step = m.mul(rate!).add(n.mul(slowRate!)).div(v.sqrt().add(eps!));
    return {
      ...withDecay(step, w, decay),
      state: { exp_avg_fast: m, exp_avg_slow: n, exp_avg_sq: v },
    };
  },
};

/** 1 - beta, where ln(1/2) / ln(beta) - 1 rises linearly from that of `start` to that of `end`. */
function risingShare(step: Expr, start: number, end: number, updates: number): Expr {
  // 1e-8 is the authors': it makes the half-life of 0 finite.
  const lifeOf = (beta: number) => Math.log(0.5) / Math.log(beta + 1e-8) - 1;
  const [from, to] = [lifeOf(start), lifeOf(end)];
  const life = step.mul((to - from) / updates).add(from);
  const share = oneMinusExp(life.add(1).rdiv(Math.log(0.5) / 2));
  return step.less(updates).where(share, 1 - end);
}
