/**
 * AGD. Yue, Ye, Jiang, Liu, Zhang: «AGD: an Auto-switchable Optimizer using Stepwise Gradient Difference for
 * Preconditioning Matrix», NeurIPS 2023. The options and their names are those of the authors' implementation.
 */
import type { Expr } from '../core/expr.js';
import { norm } from '../core/norm.js';
import { flag, positive } from '../core/option-type.js';
import {
  betasOption,
  correction,
  decayFactor,
  decoupledOption,
  ensure,
  fixedDecayOption,
  largestOption,
  lrOption,
  type Optimizer,
  type OptionsOf,
  option,
  squared,
  weightDecayOption,
  withDecay,
} from './optimizer.js';

const options = {
  lr: lrOption(1e-3),
  betas: betasOption,
  delta: option(positive, 1e-5, 'Switch threshold: SGD step below, adaptive above'),
  weightDecay: weightDecayOption(),
  weightDecouple: decoupledOption(true),
  fixedDecay: fixedDecayOption,
  amsgrad: largestOption,
  win: option(flag, false, 'Win acceleration (has its own form of weight decay)'),
  clip: option(positive, undefined, 'Bound on the elements of m / max(...)'),
};

export type AgdOptions = OptionsOf<typeof options>;

/**
 * The paper, with m the moving average of the gradient g, s the difference of successive bias-corrected m, and
 * b the moving average of s^2:
 *
 *     w -= lr sqrt(1 - beta2^t) / (1 - beta1^t) m / max(sqrt(b), delta sqrt(1 - beta2^t))
 *
 * is computed with h = m / (1 - beta1^t), which makes s a single product, and B = b / (1 - beta2), which saves one:
 *
 *     s = (1 - beta1) / (1 - beta1^t) (g - h)        h += s        B = beta2 B + s^2
 *     w -= lr r q,   q = h / max(sqrt(B), delta r)   r = sqrt((1 - beta2^t) / (1 - beta2))
 *
 * so that m / max(...) = (1 - beta1^t) / sqrt(1 - beta2) q, which is what `clip` bounds. With `win`, a = lr r q
 * and lr' = lr sqrt(1 - beta2^t) / (1 - beta1^t):
 *
 *     z = (z - a) / (1 + weight_decay lr')
 *     w -= 2 ((1 + weight_decay lr') w - z + a) / (3 + 2 weight_decay lr')
 */
export const agd: Optimizer<AgdOptions> = {
  name: 'agd',
  options,

  states: ({ amsgrad, win }) => [
    'exp_avg_corrected',
    squared('diff_sq_sum'),
    ...(amsgrad ? [squared('max_diff_sq_sum')] : []),
    ...(win ? [{ name: 'z', exact: true }] : []),
  ],

  scalars(step, lr, { betas: [beta1, beta2], delta, weightDecay, weightDecouple, fixedDecay, win, clip }) {
    const [corrected1, corrected2] = [correction(step, beta1), correction(step, beta2)];
    const root = corrected2.div(1 - beta2).sqrt();
    return {
      gain: corrected1.rdiv(1 - beta1),
      keep: decayFactor(step, beta2),
      rate: lr.mul(root),
      floor: root.mul(delta),
      ...(clip === undefined ? {} : boundOf(corrected1.rdiv(clip * Math.sqrt(1 - beta2)))),
      ...(win ? winScalars(lr.mul(corrected2.sqrt()).div(corrected1).mul(weightDecay)) : {}),
      ...(weightDecay && weightDecouple && !win
        ? { decay: fixedDecay ? step.g.scalar(weightDecay, step.dtype) : lr.mul(weightDecay) }
        : {}),
    };
  },

  update(w, grad, state, { gain, keep, rate, floor, low, high, decay, grown, blend }, options) {
    const { betas, weightDecay, weightDecouple, amsgrad, win } = options;
    const g = weightDecay && !weightDecouple ? grad.add(w.mul(weightDecay)) : grad;
    const s = g.sub(state.exp_avg_corrected!).mul(gain!);
    const h = state.exp_avg_corrected!.add(s);
    const B = state.diff_sq_sum!.mul(g.dtype === 'float64' ? betas[1] : keep!).add(s.square());
    const largest = amsgrad ? state.max_diff_sq_sum!.maximum(B) : B;
    // Clip with a minimum is Max with a scalar, and has a kernel on every execution provider.
    const q = h.div(largest.sqrt().op('Clip', [floor]));
    const step = (low ? q.op('Clip', [low, high]) : q).mul(rate!);
    const next = {
      exp_avg_corrected: h,
      diff_sq_sum: B,
      ...(amsgrad ? { max_diff_sq_sum: largest } : {}),
    };
    if (!win) return { ...withDecay(step, w, decay), state: next };
    const moved = state.z!.sub(step);
    const z = weightDecay ? moved.sub(moved.mul(decay!)) : moved;
    return { step: (weightDecay ? w.mul(grown!) : w).sub(z).add(step).mul(blend!), state: { ...next, z } };
  },

  checkpoint: ({ betas: [beta1, beta2], amsgrad, win }, step) => ({
    exp_avg_corrected: { name: 'exp_avg', factor: 1 - beta1 ** step },
    diff_sq_sum: { name: 'exp_avg_sq', factor: 1 - beta2 },
    ...(amsgrad ? { max_diff_sq_sum: { name: 'max_exp_avg_sq', factor: 1 - beta2 } } : {}),
    ...(win ? { z: { name: 'z', factor: 1 } } : {}),
  }),

  // The share of coordinates whose divisor is the lower bound, and the norm of the paper's s.
  observed: {
    names: ['sgd_share', 'difference_norm'],
    observe(before, after, { floor }, { amsgrad }) {
      const divisor = after[amsgrad ? 'max_diff_sq_sum' : 'diff_sq_sum']!.sqrt();
      const difference = after.exp_avg_corrected!.sub(before.exp_avg_corrected!);
      return [divisor.less(floor!).cast('float32').mean(), norm(difference)];
    },
  },

  validate({ weightDecouple, fixedDecay, win }) {
    ensure(
      weightDecouple || !fixedDecay,
      'fixed_decay is a form of decoupled weight decay: it needs weight_decouple.',
    );
    ensure(
      !win || (weightDecouple && !fixedDecay),
      'win has its own form of weight decay: leave weight_decouple on and fixed_decay off.',
    );
  },
};

const boundOf = (high: Expr) => ({ low: high.neg(), high });

/** `decay` is weight_decay lr'. */
const winScalars = (decay: Expr) => ({
  decay: decay.div(decay.add(1)),
  grown: decay.add(1),
  blend: decay.mul(2).add(3).rdiv(2),
});
