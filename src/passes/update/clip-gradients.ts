import type { Value } from '../../graph/ir.js';
import { Tensor } from '../../graph/tensor.js';
import type { Builder } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import { sumOfSquares } from '../../ops/core/norm.js';
import type { ScalarType, StepOptions } from '../options.js';
import { stateInput, type Transition } from './transition.js';

/** As in PyTorch's clip_grad_norm_: avoids a division by a norm of 0. */
const EPSILON = 1e-6;

/**
 * Clips the first `count` terms, which are the gradients: first by value, then by norm, as PyTorch's clip_grad_value_
 * and clip_grad_norm_. The norm before clipping by norm is stored in the state `grad_norm`, for monitoring. With `perturbed`, the
 * other terms are gradients, too, which are clipped by their own norm.
 */
export function clipGradients(
  g: Builder,
  count: number,
  { clipGradValue: bound, clipGradNorm: largest, scalars }: StepOptions,
  transition: Transition,
  perturbed = false,
): { transition: Transition; gradNorm?: Value } {
  const limited = (x: Expr) =>
    bound === undefined ? x : x.op('Clip', [x.g.scalar(-bound, x.dtype), x.g.scalar(bound, x.dtype)]);
  const split = (terms: readonly Expr[]) => {
    const others = terms.slice(count);
    return [terms.slice(0, count).map(limited), perturbed ? others.map(limited) : others] as const;
  };
  if (largest === undefined) return { transition: (b, terms) => transition(b, split(terms).flat()) };
  const gradNorm = stateInput(g, 'grad_norm', Tensor.zeros('float32', []));
  const within = (grads: readonly Expr[], norm: Expr) => {
    const factor = norm.add(EPSILON).rdiv(largest).minimum(1);
    return grads.map(x => x.mul(factor.cast(x.dtype)));
  };
  return {
    gradNorm,
    transition: (b, terms) => {
      const [grads, others] = split(terms);
      const norm = globalNorm(grads, scalars);
      const second = perturbed ? within(others, globalNorm(others, scalars)) : others;
      return new Map([
        ...transition(b, [...within(grads, norm), ...second]),
        [gradNorm, norm.cast('float32')],
      ]);
    },
  };
}

/** The global 2-norm of all tensors, a scalar. */
export function globalNorm(tensors: readonly Expr[], type: ScalarType = 'float64'): Expr {
  const squares = tensors.map(x => sumOfSquares(x).cast(type));
  const [first, ...others] = squares;
  return (others.length ? first!.op('Sum', others) : first!).sqrt();
}
