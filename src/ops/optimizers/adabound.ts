/** AdaBound. Luo, Xiong, Liu, Sun: «Adaptive Gradient Methods with Dynamic Bound of Learning Rate», ICLR 2019. */
import {
  correction,
  demand,
  movingAverage,
  type Optimizer,
  type OptimizerOptions,
  validateBetas,
  validateCommon,
  validateEps,
} from './optimizer.js';

export type AdaboundOptions = OptimizerOptions & {
  /** Decay rates of the moving averages of the gradient and of its square, in [0, 1). */
  betas: readonly [number, number];
  /** The rate, of SGD, towards which the bounds close; it follows schedules of `lr`. */
  finalLr: number;
  /** How fast the bounds close, in (0, 1). */
  gamma: number;
  eps: number;
  /** Divides by the largest average so far. */
  amsbound: boolean;
};

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
  defaults: {
    lr: 1e-3,
    betas: [0.9, 0.999],
    finalLr: 0.1,
    gamma: 1e-3,
    eps: 1e-8,
    weightDecay: 0,
    amsbound: false,
  },

  states: ({ amsbound }) => ['exp_avg', 'exp_avg_sq', ...(amsbound ? ['max_exp_avg_sq'] : [])],

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

  validate(options) {
    const { lr, betas, finalLr, gamma, eps } = options;
    validateCommon(options);
    validateBetas(betas);
    validateEps(eps);
    demand(lr > 0, 'The bounds of adabound follow lr, which must be above 0.');
    demand(finalLr >= 0 && Number.isFinite(finalLr), `final_lr must be a number from 0 up, not ${finalLr}.`);
    demand(gamma > 0 && gamma < 1, `gamma must be between 0 and 1, not ${gamma}.`);
  },
};
