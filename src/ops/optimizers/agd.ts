/**
 * AGD. Yue, Ye, Jiang, Liu, Zhang: «AGD: an Auto-switchable Optimizer using Stepwise Gradient Difference for
 * Preconditioning Matrix», NeurIPS 2023.
 */
import { AgdError } from '../../graph/errors.js';
import type { Optimizer, OptimizerOptions } from './optimizer.js';

export type AgdOptions = OptimizerOptions & {
  /** Decay rates of the moving averages of the gradient and of the squared gradient difference, in [0, 1). */
  betas: readonly [number, number];
  /** The auto-switch: coordinates whose averaged difference is below it take a step of SGD with momentum. */
  delta: number;
};

/**
 * The paper, with m the moving average of the gradient g, s the difference of successive bias-corrected m, and
 * b the moving average of s^2:
 *
 *     w -= lr sqrt(1 - beta2^t) / (1 - beta1^t) m / max(sqrt(b), delta sqrt(1 - beta2^t))
 *
 * is computed on h = m / (1 - beta1^t) and B = b / (1 - beta2), of which the first makes s a single product
 * and the second saves one:
 *
 *     s = (1 - beta1) / (1 - beta1^t) (g - h)        h += s        B = beta2 B + s^2
 *     w -= lr r h / max(sqrt(B), delta r)            r = sqrt((1 - beta2^t) / (1 - beta2))
 *
 * Weight decay is decoupled: w is first multiplied by 1 - lr weight_decay.
 */
export const agd: Optimizer<AgdOptions> = {
  name: 'agd',
  defaults: { lr: 1e-3, betas: [0.9, 0.999], delta: 1e-5, weightDecay: 0 },

  states: () => ['exp_avg_corrected', 'diff_sq_sum'],

  scalars(step, lr, { betas: [beta1, beta2], delta, weightDecay }) {
    const decayed = (beta: number) => step.g.scalar(beta, 'float64').pow(step).rsub(1);
    const root = decayed(beta2)
      .div(1 - beta2)
      .sqrt();
    return {
      gain: decayed(beta1).rdiv(1 - beta1),
      rate: lr.mul(root),
      floor: root.mul(delta),
      ...(weightDecay ? { keep: lr.mul(weightDecay).rsub(1) } : {}),
    };
  },

  update(w, g, { exp_avg_corrected: h, diff_sq_sum: B }, { gain, rate, floor, keep }, { betas: [, beta2] }) {
    const s = g.sub(h!).mul(gain!);
    const h1 = h!.add(s);
    const B1 = B!.mul(beta2).add(s.square());
    // Clip with a minimum is Max with a scalar, and has a kernel on every execution provider.
    const step = h1.div(B1.sqrt().op('Clip', [floor])).mul(rate!);
    return { param: (keep ? w.mul(keep) : w).sub(step), state: { exp_avg_corrected: h1, diff_sq_sum: B1 } };
  },

  checkpoint: ({ betas: [beta1, beta2] }, step) => ({
    exp_avg_corrected: { name: 'exp_avg', factor: 1 - beta1 ** step },
    diff_sq_sum: { name: 'exp_avg_sq', factor: 1 - beta2 },
  }),

  validate({ lr, betas, delta, weightDecay }) {
    const demand = (ok: boolean, what: string) => {
      if (!ok) throw new AgdError('bad-option', what);
    };
    demand(lr >= 0 && Number.isFinite(lr), `lr must be a number from 0 up, not ${lr}.`);
    for (const [i, beta] of betas.entries())
      demand(beta >= 0 && beta < 1, `betas[${i}] must be in [0, 1), not ${beta}.`);
    demand(delta > 0 && Number.isFinite(delta), `delta must be above 0, not ${delta}.`);
    demand(
      weightDecay >= 0 && Number.isFinite(weightDecay),
      `weight_decay must be a number from 0 up, not ${weightDecay}.`,
    );
  },
};
