/**
 * AdaHessian. Yao, Gholami, Shen, Mustafa, Keutzer, Mahoney: «ADAHESSIAN: An Adaptive Second Order Optimizer for
 * Machine Learning», AAAI 2021. The options and their names are those of the authors' implementation.
 */
import type { Expr } from '../core/expr.js';
import { flag, fraction } from '../core/option-type.js';
import {
  betasOption,
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
  lr: lrOption(0.15),
  betas: betasOption,
  eps: epsOption(1e-4),
  hessianPower: option(fraction, 1, 'Power of the Hessian diagonal'),
  averageConvKernel: option(flag, true, 'Average the Hessian diagonal over each convolution kernel'),
  weightDecay: weightDecayOption(),
};

export type AdahessianOptions = OptionsOf<typeof options>;

/**
 * With m the moving average of g, v that of D^2, where D = |H z| is Hutchinson's estimate |z * H z| of the Hessian's
 * diagonal, z signs drawn at random, and k = hessian_power:
 *
 *     w -= lr / (1 - beta1^t) m / (sqrt(v / (1 - beta2^t))^k + eps)
 *
 * Weight decay is decoupled: w -= lr weight_decay w.
 */
export const adahessian: Optimizer<AdahessianOptions> = {
  name: 'adahessian',
  options,

  states: () => ['exp_avg', squared('exp_hessian_diag_sq')],

  diagonal(product, { averageConvKernel }) {
    const size = product.abs();
    if (!averageConvKernel || size.rank < 3) return size;
    const spatial = Array.from({ length: size.rank - 2 }, (_, i) => 2 + i);
    return size.mean(spatial, { keepdims: true }).expandLike(size);
  },

  scalars(step, lr, { betas, eps, hessianPower, weightDecay }) {
    const root = correction(step, betas[1]).pow(hessianPower / 2);
    return {
      rate: lr.mul(root).div(correction(step, betas[0])),
      eps: root.mul(eps),
      ...(weightDecay ? { decay: lr.mul(weightDecay) } : {}),
    };
  },

  update(w, g, state, { rate, eps, decay }, { betas, hessianPower }, diagonal) {
    const m = movingAverage(state.exp_avg!, g, betas[0]);
    const v = movingAverage(state.exp_hessian_diag_sq!, diagonal!.square(), betas[1]);
    const step = m.div(power(v.sqrt(), hessianPower).add(eps!)).mul(rate!);
    return {
      ...withDecay(step, w, decay),
      state: { exp_avg: m, exp_hessian_diag_sq: v },
    };
  },
};

const power = (x: Expr, exponent: number) => (exponent === 1 ? x : x.pow(exponent));
