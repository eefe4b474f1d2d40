/**
 * AdamL: AdamW with lasso and group lasso. Yue, Liu, Tong, Zhang, Zhang, Gu: «Adaptive Optimizers with Sparse Group Lasso for
 * Neural Networks in CTR Prediction», ECML PKDD 2021, in the form and with the options of AGD's authors' implementation.
 */
import type { Expr } from '../core/expr.js';
import { flag, nonNegative } from '../core/option-type.js';
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
} from './optimizer.js';

const options = {
  lr: lrOption(1e-3),
  betas: betasOption,
  eps: epsOption(1e-8),
  weightDecay: weightDecayOption(1e-2),
  l1: option(nonNegative, 0, 'Strength of the lasso, which sets elements to 0'),
  l21: option(nonNegative, 0, 'Strength of the group lasso, which sets rows of matrices to 0'),
  adjustL1: option(
    flag,
    true,
    'Divide the lasso by the root of the denominator of the step, not by the denominator',
  ),
};

export type AdamlOptions = OptionsOf<typeof options>;

/**
 * With m and v the moving averages of g and g^2, and D = sqrt(v / (1 - beta2^t)) + eps:
 *
 *     u = w - lr / (1 - beta1^t) m / D
 *     u = u - clip(u, -s, s)                        s = lr l1 / D, with adjust_l1 lr l1 / sqrt(D)
 *     u = u max(0, 1 - lr l21 sqrt(n) / |sqrt(D) u|)    |·| over the n elements of axis 1, if there is one
 *     w = u / (1 + lr weight_decay)
 */
export const adaml: Optimizer<AdamlOptions> = {
  name: 'adaml',
  options,

  states: () => ['exp_avg', squared('exp_avg_sq')],

  whole: ({ l21 }, shape) => l21 > 0 && shape.length > 1,

  scalars(step, lr, { betas: [beta1, beta2], weightDecay, l1, l21 }) {
    return {
      rate: lr.div(correction(step, beta1)),
      root: correction(step, beta2).sqrt(),
      ...(weightDecay ? { shrink: lr.mul(weightDecay).add(1) } : {}),
      ...(l1 ? { l1: lr.mul(l1) } : {}),
      ...(l21 ? { l21: lr.mul(l21) } : {}),
    };
  },

  update(w, grad, state, { rate, root, shrink, l1, l21 }, { betas: [beta1, beta2], eps, adjustL1 }) {
    const m = movingAverage(state.exp_avg!, grad, beta1);
    const v = movingAverage(state.exp_avg_sq!, grad.square(), beta2);
    const d = v.sqrt().div(root!).add(eps);
    const moved = w.sub(m.div(d).mul(rate!));
    const sparse = l1 ? shrunk(moved, (adjustL1 ? d.sqrt() : d).rdiv(l1)) : moved;
    const grouped = l21 && w.rank > 1 ? sparse.mul(shareOfRows(sparse, d, l21)) : sparse;
    const next = shrink ? grouped.div(shrink) : grouped;
    return { step: w.sub(next), state: { exp_avg: m, exp_avg_sq: v } };
  },
};

/** What the lasso leaves: exactly 0 where |u| is at most `bound`. */
const shrunk = (u: Expr, bound: Expr) => u.sub(u.minimum(bound).maximum(bound.neg()));

/** max(0, 1 - l21 sqrt(n) / |sqrt(d) u|) */
function shareOfRows(u: Expr, d: Expr, l21: Expr): Expr {
  const size = u.staticShape![1]!;
  const norm = u.square().mul(d).sum([1], { keepdims: true }).sqrt();
  const bound = l21.mul(Math.sqrt(size));
  return norm.greater(bound).where(bound.div(norm.maximum(bound)).rsub(1), 0);
}
