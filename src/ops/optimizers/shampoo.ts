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
};

export type ShampooOptions = OptionsOf<typeof options>;

/** The extents of a parameter as a vector, or as a matrix of its first axis and the others. */
const foldedShape = (shape: readonly number[]) => {
  const [rows = 1, ...others] = shape;
  return shape.length < 2 ? [rows] : [rows, others.reduce((n, d) => n * d, 1)];
};

const NAMES = ['precond_0', 'precond_1'];

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
 * vector, k = 1 and R is left out. An axis longer than `max_size` has no preconditioner, and k is smaller by 1.
 * Weight decay is added to the gradient.
 */
export const shampoo: Optimizer<ShampooOptions> = {
  name: 'shampoo',
  options,

  // A state starts as one number everywhere, so that eps I is added where the state is read.
  states: (options, shape) => [
    ...axesOf(options, shape).map(axis => {
      const size = foldedShape(shape)[axis]!;
      return { name: NAMES[axis]!, dims: [size, size] };
    }),
    ...(options.momentum ? ['momentum_buffer'] : []),
  ],

  whole: () => true,

  scalars: (_, lr) => ({ rate: lr }),

  update(w, grad, state, { rate }, options) {
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
      const sum = state[NAMES[axis]!]!.add(gram);
      next[NAMES[axis]!] = sum;
      const root = inverseRoot(damped(sum, options), 2 * axes.length, rootSteps);
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
 * so that M nears I, and X the root. These are products only; ONNX has no operator for eigenvalues. p is 2 or 4.
 */
function inverseRoot(a: Expr, p: number, steps: number): Expr {
  const { g } = a;
  const z = norm(a).rdiv((1 + p) / 2);
  const identity = a.op('EyeLike');
  const start = [identity.mul(z.pow(1 / p)), a.mul(z)];
  const { states } = loop(
    g,
    g.scalar(steps, 'int64'),
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
