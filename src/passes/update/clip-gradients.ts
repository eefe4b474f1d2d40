import type { Expr } from '../../ops/core/expr.js';
import { sumOfSquares } from '../../ops/core/norm.js';
import type { ScalarType, StepOptions } from '../options.js';

/** As PyTorch's clip_grad_norm_ does, so that a norm of 0 divides nothing by 0. */
const EPSILON = 1e-6;

/** The gradients within bounds, elements before the norm, as PyTorch's clip_grad_value_ and clip_grad_norm_ make them. */
export function clipGradients(
  grads: readonly Expr[],
  { clipGradValue: bound, clipGradNorm: largest, scalars }: StepOptions,
): readonly Expr[] {
  const bounded =
    bound === undefined
      ? grads
      : grads.map(x => x.op('Clip', [x.g.scalar(-bound, x.dtype), x.g.scalar(bound, x.dtype)]));
  if (largest === undefined) return bounded;
  const factor = globalNorm(bounded, scalars).add(EPSILON).rdiv(largest).minimum(1);
  return bounded.map(x => x.mul(factor.cast(x.dtype)));
}

/** The 2-norm of all tensors together, a scalar. */
export function globalNorm(tensors: readonly Expr[], type: ScalarType = 'float64'): Expr {
  const squares = tensors.map(x => sumOfSquares(x).cast(type));
  const [first, ...others] = squares;
  return (others.length ? first!.op('Sum', others) : first!).sqrt();
}
