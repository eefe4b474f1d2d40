/**
 * AdaHessian. Yao, Gholami, Shen, Mustafa, Keutzer, Mahoney: «ADAHESSIAN: An Adaptive Second Order Optimizer for
 * Machine Learning», AAAI 2021. The options and their names are those of the authors' implementation.
 */
import type { Expr } from '../core/expr.js';
import {
  correction,
  demand,
  movingAverage,
  type Optimizer,
  type OptimizerOptions,
  validateBetas,
  validateCommon,
  validateEps,
  withDecay,
} from './optimizer.js';

export type AdahessianOptions = OptimizerOptions & {
  /** Decay rates of the moving averages of the gradient and of the squared diagonal of the Hessian, in [0, 1). */
  betas: readonly [number, number];
  eps: number;
  /** From 0, a step of SGD with momentum, to 1. */
  hessianPower: number;
  /** Kernels of convolutions share the mean of the diagonal over their spatial axes. */
  averageConvKernel: boolean;
};

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
  defaults: {
    lr: 0.15,
    betas: [0.9, 0.999],
    eps: 1e-4,
    hessianPower: 1,
    averageConvKernel: true,
    weightDecay: 0,
  },

  states: () => ['exp_avg', 'exp_hessian_diag_sq'],

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
      step: withDecay(step, w, decay),
      state: { exp_avg: m, exp_hessian_diag_sq: v },
    };
  },

  validate(options) {
    const { betas, eps, hessianPower } = options;
    validateCommon(options);
    validateBetas(betas);
    validateEps(eps);
    demand(hessianPower >= 0 && hessianPower <= 1, `hessian_power must be from 0 to 1, not ${hessianPower}.`);
  },
};

const power = (x: Expr, exponent: number) => (exponent === 1 ? x : x.pow(exponent));
