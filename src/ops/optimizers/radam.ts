/** RAdam. Liu, Jiang, He, Chen, Liu, Gao, Han: «On the Variance of the Adaptive Learning Rate and Beyond», ICLR 2020. */
import type { Expr } from '../core/expr.js';
import {
  betasOption,
  correction,
  decoupledOption,
  epsOption,
  lrOption,
  movingAverage,
  type Optimizer,
  type OptionsOf,
  squared,
  weightDecayOption,
  withDecay,
} from './optimizer.js';

const options = {
  lr: lrOption(1e-3),
  betas: betasOption,
  eps: epsOption(1e-8),
  weightDecay: weightDecayOption(),
  decoupledWeightDecay: decoupledOption(false),
};

export type RadamOptions = OptionsOf<typeof options>;

/**
 * With m and v the moving averages of g and g^2, and r the rectification, in the form of PyTorch's RAdam:
 *
 *     w -= lr / (1 - beta1^t) r sqrt(1 - beta2^t) m / (sqrt(v) + eps)
 *
 * Until enough gradients have been seen for r, it is a step of SGD with momentum: r, root and denominator are 1.
 */
export const radam: Optimizer<RadamOptions> = {
  name: 'radam',
  options,

  states: () => ['exp_avg', squared('exp_avg_sq')],

  scalars(step, lr, { betas: [beta1, beta2], weightDecay, decoupledWeightDecay }) {
    const { factor, low, high } = rectification(step, beta2, 1);
    return {
      rate: lr.mul(factor).div(correction(step, beta1)),
      low,
      high,
      ...(weightDecay && decoupledWeightDecay ? { decay: lr.mul(weightDecay) } : {}),
    };
  },

  update(w, grad, state, { rate, low, high, decay }, { betas, eps, weightDecay, decoupledWeightDecay }) {
    const g = weightDecay && !decoupledWeightDecay ? grad.add(w.mul(weightDecay)) : grad;
    const m = movingAverage(state.exp_avg!, g, betas[0]);
    const v = movingAverage(state.exp_avg_sq!, g.square(), betas[1]);
    const step = m.div(v.sqrt().add(eps).op('Clip', [low, high])).mul(rate!);
    return {
      ...withDecay(step, w, decay),
      state: { exp_avg: m, exp_avg_sq: v },
    };
  },
};

/**
 * The factor on lr / (1 - beta1^t), r sqrt(1 - beta2^t) or, while fewer than 5 gradients count, `early`; and the bounds
 * of the denominator, which leave it unchanged or, in the latter case, make it 1. With n_max = 2 / (1 - beta2) - 1 and
 * n = n_max - 2 t beta2^t / (1 - beta2^t), the number of gradients that count:
 *
 *     r = sqrt((n - 4) (n - 2) n_max / ((n_max - 4) (n_max - 2) n))
 */
export function rectification(step: Expr, beta2: number, early: number) {
  const corrected = correction(step, beta2);
  const max = 2 / (1 - beta2) - 1;
  const n = corrected.rsub(1).mul(step).div(corrected).mul(2).rsub(max);
  const r = n
    .sub(4)
    .mul(n.sub(2))
    .div(n)
    .mul(max / ((max - 4) * (max - 2)))
    .sqrt();
  const adaptive = n.greater(5);
  return {
    factor: adaptive.where(r.mul(corrected.sqrt()), early),
    low: adaptive.where(step.zeros(), 1),
    high: adaptive.where(step.full(Number.POSITIVE_INFINITY), 1),
  };
}
