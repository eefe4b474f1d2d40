/**
 * Cautious optimizers. Liang, Chen, Liu, Liu: «Cautious Optimizers: Improving Training with One Line of Code», 2024; with
 * the factor of the authors' implementation.
 */
import { ensure, type Optimizer, type OptimizerOptions } from '../optimizer.js';

/** Bounds the factor of a step of which few elements are left. */
const LEAST_SHARE = 1e-3;

/**
 * Leaves out the elements of each step u that would go against the gradient g, and scales the others up:
 *
 *     u φ / max(mean(φ), 1e-3)        φ = 1 if u g > 0, else 0
 *
 * Decoupled weight decay is not masked.
 */
export function cautious<O extends OptimizerOptions>(optimizer: Optimizer<O>): Optimizer<O> {
  return {
    ...optimizer,
    whole: () => true,
    update(w, grad, ...rest) {
      const { step, ...updated } = optimizer.update(w, grad, ...rest);
      const agrees = step.mul(grad).greater(0).cast(step.dtype);
      return { ...updated, step: step.mul(agrees.div(agrees.mean().maximum(LEAST_SHARE))) };
    },

    validate(options) {
      optimizer.validate?.(options);
      ensure(
        !optimizer.point,
        `The weights of ${optimizer.name} are an average, which no single gradient moves: leave out cautious.`,
      );
    },
  };
}
