/**
 * WSAM in its decoupled form. Yue, Jiang, Ye, Gao, Liu, Zhang: «Sharpness-Aware Minimization Revisited: Weighted
 * Sharpness as a Regularization Term», KDD 2023.
 */
import { ensure, type Optimizer, type OptimizerOptions, rateOf } from '../optimizer.js';

/** The default of the authors' implementation. */
export const GAMMA = 0.9;

/**
 * With g' the gradient at perturbed weights, the step of the optimizer, which takes the gradient g, and beside it
 *
 *     lr gamma / (1 - gamma) (g' - g)
 *
 * lr is multiplied by what the optimizer multiplies its own by, such as Prodigy's d.
 */
export function weightedSharpness<O extends OptimizerOptions>(
  optimizer: Optimizer<O>,
  gamma: number,
): Optimizer<O> {
  return {
    ...optimizer,
    perturbed: true,
    scalars(step, lr, ...rest) {
      const scalars = optimizer.scalars(step, lr, ...rest);
      return { ...scalars, sharpness: rateOf(optimizer, scalars, lr).mul(gamma / (1 - gamma)) };
    },
    update(w, grad, state, scalars, options, perturbed) {
      const { step, ...updated } = optimizer.update(w, grad, state, scalars, options);
      return { ...updated, step: step.add(perturbed!.sub(grad).mul(scalars.sharpness!)) };
    },

    validate(options) {
      optimizer.validate?.(options);
      ensure(
        !optimizer.point,
        `The weights of ${optimizer.name} are an average, and wsam adds a step: use sam, or another optimizer.`,
      );
    },
  };
}
