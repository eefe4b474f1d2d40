/**
 * Muon. Jordan, Jin, Boza, You, Cesista, Newhouse, Bernstein: «Muon: An optimizer for hidden layers in neural networks»,
 * 2024; in the form of PyTorch's Muon. Parameters that are not hidden matrices are updated by AdamW.
 */
import type { Expr } from '../core/expr.js';
import { norm } from '../core/norm.js';
import { belowOne, betas, choice, countFromZero, flag, nonNegative, numbers } from '../core/option-type.js';
import { adamStep } from './adam.js';
import { adamw } from './adamw.js';
import {
  ensure,
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
  lr: lrOption(1e-3),
  momentum: option(belowOne, 0.95, 'Momentum'),
  nesterov: option(flag, true, 'Nesterov momentum'),
  nsCoefficients: option(numbers, [3.4445, -4.775, 2.0315], 'Coefficients of the Newton-Schulz iteration'),
  nsSteps: option(countFromZero, 5, 'Steps of the Newton-Schulz iteration'),
  eps: epsOption(1e-7),
  weightDecay: weightDecayOption(0.1),
  adjustLrFn: option(
    choice(['original', 'match_rms_adamw']),
    'original',
    'Scaling of lr by the shape of a matrix',
  ),
  useMuon: option(flag, true, 'Off: update by AdamW, as for embeddings, heads, and what is not a matrix'),
  transposed: option(flag, false, 'The matrix is stored as inputs x outputs, as MatMul has it'),
  adamLr: option(nonNegative, 3e-4, 'Learning rate of AdamW'),
  adamBetas: option(betas, [0.9, 0.95] as const, 'Decay rates of the two moving averages of AdamW'),
  adamEps: option(nonNegative, 1e-8, 'Added to the denominator of AdamW'),
};

export type MuonOptions = OptionsOf<typeof options>;

const isMuon = ({ useMuon }: MuonOptions, rank: number) => useMuon && rank > 1;

/**
 * With m the moving average of g, u = momentum m + (1 - momentum) g (m without `nesterov`), and u as a matrix of its first
 * axis and the others:
 *
 *     X = u / max(|u|, eps)
 *     ns_steps times: A = X X^T       X = a X + (b A + c A A) X
 *     w -= lr max(1, rows / columns)^(1/2) X          or with match_rms_adamw, 0.2 lr max(rows, columns)^(1/2) X
 *
 * so that X is close to the orthogonal factor of u. Weight decay is decoupled: w -= lr weight_decay w. The momentum is a
 * moving average, and X is computed in the type of the gradient, not in bfloat16. AdamW's learning rate is adam_lr in units
 * of lr, so that a schedule applies to both.
 */
export const muon: Optimizer<MuonOptions> = {
  name: 'muon',
  options,

  states: (options, { length }) =>
    isMuon(options, length) ? ['momentum_buffer'] : ['exp_avg', squared('exp_avg_sq')],

  whole: (options, { length }) => isMuon(options, length),

  forUse: ({ isTable, isHead, isTransposed }) => ({
    ...(isTable || isHead ? { useMuon: false } : {}),
    ...(isTransposed ? { transposed: true } : {}),
  }),

  rates: ['adamLr'],

  scalars(step, lr, options, kept) {
    const { rate, eps, decay } = adamw.scalars(
      step,
      lr.mul(options.adamLr / options.lr),
      adamOf(options),
      kept,
    );
    const { weightDecay } = options;
    return {
      rate: lr,
      ...(weightDecay ? { decay: lr.mul(weightDecay) } : {}),
      adamRate: rate!,
      adamEps: eps!,
      ...(decay ? { adamDecay: decay } : {}),
    };
  },

  update(w, g, state, { rate, decay, adamRate, adamEps, adamDecay }, options) {
    if (!state.momentum_buffer) {
      const { step, state: next } = adamStep(g, state, { rate: adamRate!, eps: adamEps! }, adamOf(options));
      return { ...withDecay(step, w, adamDecay), state: next };
    }
    const { momentum, nesterov } = options;
    const m = movingAverage(state.momentum_buffer, g, momentum);
    const u = nesterov ? movingAverage(m, g, momentum) : m;
    const x = orthogonalized(u, options).mul(rate!.mul(lrFactor(w.staticShape!, options)));
    return { ...withDecay(x, w, decay), state: { momentum_buffer: m } };
  },

  validate({ lr, nsCoefficients, nsSteps }) {
    ensure(lr > 0, 'adam_lr of muon is in units of lr, which must be above 0.');
    ensure(nsCoefficients.length === 3, 'ns_coefficients must be three numbers.');
    ensure(nsSteps < 100, `ns_steps must be below 100, not ${nsSteps}.`);
  },
};

const adamOf = ({ adamLr: lr, adamBetas: betas, adamEps: eps, weightDecay }: MuonOptions) => ({
  ...{ lr, betas, eps, weightDecay },
  amsgrad: false,
});

/** Close to the orthogonal matrix nearest to `u`: singular values of about 0.7 to 1.2 in place of its own. */
function orthogonalized(u: Expr, { nsCoefficients, nsSteps, eps }: MuonOptions): Expr {
  const [rows, columns] = asMatrix(u.staticShape!);
  const isTall = rows > columns;
  const [a, b, c] = nsCoefficients as [number, number, number];
  const matrix = u.reshape([rows, columns]);
  let x = matrix.div(norm(matrix).maximum(eps));
  if (isTall) x = x.mT;
  for (let i = 0; i < nsSteps; i++) {
    const gram = x.matmul(x.mT);
    const polynomial = gram.mul(b).add(gram.matmul(gram).mul(c));
    x = x.mul(a).add(polynomial.matmul(x));
  }
  return (isTall ? x.mT : x).reshape(u.staticShape!);
}

/** The extents of the first axis, and of all others. */
const asMatrix = ([rows, ...others]: readonly number[]) =>
  [rows!, others.reduce((n, d) => n * d, 1)] as const;

/** The rows of a weight are its outputs, and what is stored as inputs x outputs is transposed. */
function lrFactor(shape: readonly number[], { adjustLrFn, transposed }: MuonOptions): number {
  const [first, rest] = asMatrix(shape);
  const [rows, columns] = transposed ? [rest, first] : [first, rest];
  return adjustLrFn === 'original'
    ? Math.sqrt(Math.max(1, rows / columns))
    : 0.2 * Math.sqrt(Math.max(rows, columns));
}
