/** Shampoo. Gupta, Koren, Singer: «Shampoo: Preconditioned Stochastic Tensor Optimization», ICML 2018. */
import type { Expr } from '../core/expr.js';
import { norm } from '../core/norm.js';
import { belowOne, count, nonNegative, positive } from '../core/option-type.js';
import { loop } from '../core/scan.js';
import {
  lrOption,
  type Optimizer,
  type OptionsOf,
  option,
  type State,
  weightDecayOption,
} from './optimizer.js';

const options = {
  lr: lrOption(0.1),
  momentum: option(belowOne, 0, 'Momentum'),
  weightDecay: weightDecayOption(),
  eps: option(positive, 1e-4, 'Initial value of the diagonal of preconditioners'),
  ridge: option(nonNegative, 1e-6, 'Lower bound of eps, relative to the norm of a preconditioner'),
  maxSize: option(count, 1024, 'Axes up to this long have a preconditioner'),
  rootSteps: option(count, 40, 'Steps of the Newton iteration for inverse roots'),
  updateFreq: option(count, 10, 'Compute the inverse roots every N updates'),
};

export type ShampooOptions = OptionsOf<typeof options>;

/** The extents of a parameter as a vector, or as a matrix of its first axis and the others. */
const foldedShape = (shape: readonly number[]) => {
  const [rows = 1, ...others] = shape;
  return shape.length < 2 ? [rows] : [rows, others.reduce((n, d) => n * d, 1)];
};

const NAMES = [
  { sum: 'precond_0', root: 'inv_precond_0' },
  { sum: 'precond_1', root: 'inv_precond_1' },
] as const;

/** The axes with a preconditioner. */
const axesOf = ({ maxSize }: ShampooOptions, shape: readonly number[]) =>
  foldedShape(shape).flatMap((size, axis) => (size <= maxSize ? [axis] : []));

/**
 * With G the gradient as a matrix of its first axis and the others, and k = 2:
 *
 *     L += G G^T       R += G^T G        both start at eps I
 *     u = momentum u + (1 - momentum) L^(-1/2k) G R^(-1/2k)
 *     w -= lr u
 *
 * Roots are those of L and R with an eps of at least ridge |L| and ridge |R|, without which rounding would make small
 * eigenvalues negative (Anil et al.: «Scalable Second Order Optimization for Deep Learning», 2020, has the same ridge). Of a
 * vector, k = 1 and R is left out. Roots are computed every `update_freq` updates, and in each of
 * the first `update_freq`, when one gradient more changes them most. An axis longer than `max_size` has no preconditioner, and k is smaller by 1.
 * Weight decay is added to the gradient.
 */
export const shampoo: Optimizer<ShampooOptions> = {
  name: 'shampoo',
  options,

  // A state starts as one number everywhere, so that eps I is added where the state is read.
  states: (options, shape) => [
    ...axesOf(options, shape).flatMap(axis => {
      const size = foldedShape(shape)[axis]!;
      const { sum, root } = NAMES[axis as 0 | 1];
      const names = options.updateFreq === 1 ? [sum] : [sum, root];
      return names.map(name => ({ name, dims: [size, size] }));
    }),
    ...(options.momentum ? ['momentum_buffer'] : []),
  ],

  whole: () => true,

  scalars(step, lr, { updateFreq }) {
    const rounds = step.sub(1).div(updateFreq);
    const isDue = rounds.equal(rounds.floor()).or(step.lessOrEqual(updateFreq));
    return { rate: lr, ...(updateFreq === 1 ? {} : { due: isDue.cast(step.dtype) }) };
  },

  update(w, grad, state, { rate, due }, options) {
    const { weightDecay, momentum, rootSteps } = options;
    const g = weightDecay ? grad.add(w.mul(weightDecay)) : grad;
    const shape = w.staticShape!;
    const folded = foldedShape(shape);
    // A vector as a matrix of one column.
    const matrix = g.reshape(folded.length === 1 ? [folded[0]!, 1] : folded);
    const axes = axesOf(options, shape);
    const next: State = {};
    let step = matrix;
    for (const axis of axes) {
      const gram = axis ? matrix.mT.matmul(matrix) : matrix.matmul(matrix.mT);
      const names = NAMES[axis as 0 | 1];
      const sum = state[names.sum]!.add(gram);
      const count = due ? due.mul(rootSteps).cast('int64') : sum.g.scalar(rootSteps, 'int64');
      const computed = inverseRoot(damped(sum, options), 2 * axes.length, count);
      const root = due ? due.equal(1).where(computed, state[names.root]!) : computed;
      next[names.sum] = sum;
      if (due) next[names.root] = root;
      step = axis ? step.matmul(root) : root.matmul(step);
    }
    const preconditioned = step.reshape(shape);
    if (!momentum) return { step: preconditioned.mul(rate!), state: next };
    const buffer = state.momentum_buffer!.mul(momentum).add(preconditioned.mul(1 - momentum));
    return { step: buffer.mul(rate!), state: { ...next, momentum_buffer: buffer } };
  },
};

function damped(sum: Expr, { eps, ridge }: ShampooOptions): Expr {
  const added = ridge ? norm(sum).mul(ridge).maximum(eps) : eps;
  return sum.add(sum.op('EyeLike').mul(added));
}

/**
 * A^(-1/p) of a symmetric positive definite matrix, by the coupled Newton iteration. Guo, Higham: «A Schur-Newton Method for
 * the Matrix p'th Root and its Inverse», SIAM 2006. With z = (1 + p) / (2 |A|), X = z^(1/p) I and M = z A:
 *
 *     T = ((p + 1) I - M) / p        X = X T        M = T^p M
 *
 * `steps` times, so that M nears I, and X the root. These are products only; ONNX has no operator for eigenvalues. p is 2 or 4.
 */
function inverseRoot(a: Expr, p: number, steps: Expr): Expr {
  const { g } = a;
  const z = norm(a).rdiv((1 + p) / 2);
  const identity = a.op('EyeLike');
  const start = [identity.mul(z.pow(1 / p)), a.mul(z)];
  const { states } = loop(
    g,
    steps,
    start.map(e => ({ start: e, type: a.type })),
    (b, _, [x, m]) => {
      const t = m!.mul(-1 / p).add(b.of(identity.value).mul((p + 1) / p));
      const square = t.matmul(t);
      const power = p === 4 ? square.matmul(square) : square;
      return [x!.matmul(t), power.matmul(m!)];
    },
  );
  return states[0]!;
}
