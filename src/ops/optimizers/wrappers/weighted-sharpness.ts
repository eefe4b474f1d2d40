/**
 * WSAM in its decoupled form. Yue, Jiang, Ye, Gao, Liu, Zhang: «Sharpness-Aware Minimization Revisited: Weighted
 * Sharpness as a Regularization Term», KDD 2023.
 */
import { ensure, type Optimizer, type OptimizerOptions } from '../optimizer.js';

/** The default of the authors' implementation. */
export const GAMMA = 0.9;

/**
 * With g' the gradient at perturbed weights, the step of the optimizer, which takes the gradient g, and beside it
 *
 *     lr gamma / (1 - gamma) (g' - g)
 */
export function weightedSharpness<O extends OptimizerOptions>(
  optimizer: Optimizer<O>,
  gamma: number,
): Optimizer<O> {
  return {
    ...optimizer,
    perturbed: true,
    scalars: (step, lr, ...rest) => ({
      ...optimizer.scalars(step, lr, ...rest),
      sharpness: lr.mul(gamma / (1 - gamma)),
    }),
    update(w, grad, state, scalars, options, perturbed) {
      const { step, ...updated } = optimizer.update(w, grad, state, scalars, options);
      return { ...updated, step: step.add(perturbed!.sub(grad).mul(scalars.sharpness!)) };
    },

    validate(options) {
      optimizer.validate?.(options);
      const why = optimizer.point
        ? 'averages its weights'
        : optimizer.totals && 'estimates its learning rate';
      ensure(
        !why,
        `${optimizer.name} ${why}, and wsam adds a step of length lr: use sam, or another optimizer.`,
      );
    },
  };
}
