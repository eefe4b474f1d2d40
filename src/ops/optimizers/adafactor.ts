/**
 * Adafactor. Shazeer, Stern: «Adafactor: Adaptive Learning Rates with Sublinear Memory Cost», ICML 2018; in the form of
 * PyTorch's Adafactor, whose eps is `eps1` and `eps2` and whose d is `clip_threshold`.
 */
import type { Expr } from '../core/expr.js';
import { norm } from '../core/norm.js';
import { finite, nonNegative } from '../core/option-type.js';
import {
  ensure,
  lrOption,
  type Optimizer,
  type OptionsOf,
  option,
  type State,
  squared,
  towards,
  weightDecayOption,
  withDecay,
} from './optimizer.js';

const options = {
  lr: lrOption(1e-2),
  beta2Decay: option(finite, -0.8, 'Power of t by which the decay rate of squared gradients rises to 1'),
  eps1: option(nonNegative, undefined, "Lower bound of averages; by default the type's machine epsilon"),
  eps2: option(nonNegative, 1e-3, 'Lower bound of the root mean square of the weights'),
  clipThreshold: option(nonNegative, 1, 'Bound on the root mean square of a step'),
  weightDecay: weightDecayOption(),
};

export type AdafactorOptions = OptionsOf<typeof options>;

/**
 * With R and C the moving averages of the mean of g^2 over the last and the last but one axis, and rms the root mean
 * square:
 *
 *     b = t^beta2_decay       R += b (mean(g^2) - R)       C likewise       V = R C / mean(R)
 *     u = g / sqrt(V)
 *     w -= max(eps2, rms(w)) min(lr, 1 / sqrt(t)) u / max(1, rms(u) / clip_threshold)
 *
 * For vectors, V is the moving average of g^2. Weight decay is decoupled: w -= lr weight_decay w.
 */
export const adafactor: Optimizer<AdafactorOptions> = {
  name: 'adafactor',
  options,

  states: (_, shape) =>
    shape.length > 1
      ? [
          { name: 'row_var', dims: shape.with(-1, 1) },
          { name: 'col_var', dims: shape.with(-2, 1) },
        ]
      : [squared('variance')],

  whole: () => true,

  scalars: (step, lr, { beta2Decay, weightDecay }) => ({
    share: step.pow(beta2Decay),
    rate: lr.minimum(step.sqrt().reciprocal()),
    ...(weightDecay ? { decay: lr.mul(weightDecay) } : {}),
  }),

  update(w, g, state, { share, rate, decay }, { eps1: given, eps2, clipThreshold }) {
    const eps1 = given ?? (g.dtype === 'float64' ? 2 ** -52 : 2 ** -23);
    const squares = g.square();
    const { variance, next } = factored(squares, state, share!, eps1);
    const u = g.div(atLeast(variance, eps1 * eps1).sqrt());
    const bound = rms(u).div(clipThreshold).maximum(1);
    const factor = rms(w).maximum(eps2).mul(rate!).div(bound);
    return { ...withDecay(u.mul(factor), w, decay), state: next };
  },

  validate({ beta2Decay, clipThreshold }) {
    ensure(beta2Decay <= 0, `beta2_decay must be at most 0, not ${beta2Decay}.`);
    ensure(clipThreshold >= 1, `clip_threshold must be at least 1, not ${clipThreshold}.`);
  },
};

/** The estimate of the average of the squares, and the next state. */
function factored(squares: Expr, state: State, share: Expr, eps: number): { variance: Expr; next: State } {
  if (squares.rank < 2) {
    const variance = towards(state.variance!, squares, share);
    return { variance, next: { variance } };
  }
  const meanOf = (x: Expr, axis: number) => x.mean([x.rank + axis], { keepdims: true });
  const rows = towards(state.row_var!, meanOf(squares, -1), share);
  const columns = towards(state.col_var!, meanOf(squares, -2), share);
  const variance = rows.div(atLeast(meanOf(rows, -2), eps)).mul(columns);
  return { variance, next: { row_var: rows, col_var: columns } };
}

/** Clip with a minimum is Max with a scalar, and has a kernel on every execution provider. */
const atLeast = (x: Expr, least: number) => x.op('Clip', [least]);

const rms = (x: Expr) => norm(x).div(Math.sqrt(x.staticShape!.reduce((n, d) => n * d, 1)));
