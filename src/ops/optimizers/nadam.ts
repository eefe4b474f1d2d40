/** NAdam. Dozat: «Incorporating Nesterov Momentum into Adam», ICLR 2016 workshop; options as PyTorch's. */
import type { Expr } from '../core/expr.js';
import { nonNegative } from '../core/option-type.js';
import {
  betasOption,
  correction,
  decoupledOption,
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
  lr: lrOption(2e-3),
  betas: betasOption,
  eps: epsOption(1e-8),
  weightDecay: weightDecayOption(),
  momentumDecay: option(nonNegative, 4e-3, 'How fast the momentum rises from half of beta1 to beta1'),
  decoupledWeightDecay: decoupledOption(false),
};

export type NadamOptions = OptionsOf<typeof options>;

/**
 * With m and v the moving averages of g and g^2, mu_t = beta1 (1 - 0.96^(t momentum_decay) / 2) and M_t the product of
 * mu_1 to mu_t:
 *
 *     w -= lr ((1 - mu_t) / (1 - M_t) g + mu_{t+1} / (1 - M_{t+1}) m) / (sqrt(v / (1 - beta2^t)) + eps)
 *
 * Expanding the fraction by sqrt(1 - beta2^t) moves the correction into the scalars.
 */
export const nadam: Optimizer<NadamOptions> = {
  name: 'nadam',
  options,

  states: () => ['exp_avg', squared('exp_avg_sq'), { name: 'mu_product', value: 1, scalar: true }],

  scalars(
    step,
    lr,
    { betas, eps, weightDecay, momentumDecay, decoupledWeightDecay },
    { mu_product: before },
  ) {
    const root = correction(step, betas[1]).sqrt();
    const momentumAt = (t: Expr) =>
      t
        .mul(momentumDecay * Math.log(0.96))
        .exp()
        .mul(-betas[0] / 2)
        .add(betas[0]);
    const [mu, next] = [momentumAt(step), momentumAt(step.add(1))];
    const product = before!.mul(mu);
    const rate = lr.mul(root);
    return {
      mu_product: product,
      gain: rate.mul(mu.rsub(1)).div(product.rsub(1)),
      rate: rate.mul(next).div(product.mul(next).rsub(1)),
      eps: root.mul(eps),
      ...(weightDecay && decoupledWeightDecay ? { decay: lr.mul(weightDecay) } : {}),
    };
  },

  update(w, grad, state, { gain, rate, eps, decay }, { betas, weightDecay, decoupledWeightDecay }) {
    const g = weightDecay && !decoupledWeightDecay ? grad.add(w.mul(weightDecay)) : grad;
    const m = movingAverage(state.exp_avg!, g, betas[0]);
    const v = movingAverage(state.exp_avg_sq!, g.square(), betas[1]);
    const step = g.mul(gain!).add(m.mul(rate!)).div(v.sqrt().add(eps!));
    return { ...withDecay(step, w, decay), state: { exp_avg: m, exp_avg_sq: v } };
  },
};
