/** Adam. Kingma, Ba: «Adam: A Method for Stochastic Optimization», ICLR 2015; options as PyTorch's. */
import type { Expr } from '../core/expr.js';
import {
  betasOption,
  correction,
  epsOption,
  largestOption,
  lrOption,
  movingAverage,
  type Optimizer,
  type OptionsOf,
  squared,
  weightDecayOption,
} from './optimizer.js';

const options = {
  lr: lrOption(1e-3),
  betas: betasOption,
  eps: epsOption(1e-8),
  weightDecay: weightDecayOption(),
  amsgrad: largestOption,
};

export type AdamOptions = OptionsOf<typeof options>;

/**
 * With m and v the moving averages of g and g^2:
 *
 *     w -= lr / (1 - beta1^t) m / (sqrt(v / (1 - beta2^t)) + eps)
 *
 * Expanding the fraction by sqrt(1 - beta2^t) moves the corrections into the scalars. With amsgrad, its v is the
 * largest so far. Weight decay is added to the gradient.
 */
export const adam: Optimizer<AdamOptions> = {
  name: 'adam',
  options,

  states: ({ amsgrad }) => [
    'exp_avg',
    squared('exp_avg_sq'),
    ...(amsgrad ? [squared('max_exp_avg_sq')] : []),
  ],

  scalars(step, lr, { betas: [beta1, beta2], eps }) {
    const root = correction(step, beta2).sqrt();
    return { rate: lr.mul(root).div(correction(step, beta1)), eps: root.mul(eps) };
  },

  update(w, grad, state, scalars, options) {
    const g = options.weightDecay ? grad.add(w.mul(options.weightDecay)) : grad;
    return adamStep(g, state, scalars, options);
  },
};

/** The step that Adam subtracts from the weights, and its next state. */
export function adamStep(
  g: Expr,
  state: Record<string, Expr>,
  { rate, eps }: Record<string, Expr>,
  { betas: [beta1, beta2], amsgrad }: AdamOptions,
): { step: Expr; state: Record<string, Expr> } {
  const m = movingAverage(state.exp_avg!, g, beta1);
  const v = movingAverage(state.exp_avg_sq!, g.square(), beta2);
  const largest = amsgrad ? state.max_exp_avg_sq!.maximum(v) : v;
  const step = m.div(largest.sqrt().add(eps!)).mul(rate!);
  return { step, state: { exp_avg: m, exp_avg_sq: v, ...(amsgrad ? { max_exp_avg_sq: largest } : {}) } };
}
