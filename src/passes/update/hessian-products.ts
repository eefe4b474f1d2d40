import type { Value } from '../../graph/ir.js';
import type { Builder } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import { coins } from '../../ops/rademacher.js';
import { backward } from '../differentiate/backward.js';
import { type LossScale, unscaled } from '../differentiate/scale-loss.js';

/**
 * The product of the loss's Hessian with a vector of random signs z, split by parameter: the gradient of sum(grads *
 * z) by the `points` where gradients are taken, undefined where there is no gradient. Each `step`, an int64 scalar, draws new signs. Throws `no-gradient` for an operator of the backward pass
 * without a rule. A loss scale is that of the products' backward pass, too.
 */
export function hessianProducts(
  g: Builder,
  params: readonly Value[],
  grads: readonly (Expr | undefined)[],
  step: Expr,
  seed: number,
  scaling?: LossScale,
  points = params,
): (Expr | undefined)[] {
  const dims = params.map(p => g.graph.initializers.get(p)!.dims);
  const sizes = dims.map(extents => extents.reduce((n, d) => n * d, 1));
  const all = coins(
    step,
    sizes.reduce((n, d) => n + d, 0),
    seed,
  );
  const parts = g.emit('Split', [all, g.ints(sizes)], { axis: 0 }, { outputs: params.length });
  const signsFor = (grad: Expr, i: number) =>
    parts[i]!.where(g.scalar(1, grad.dtype), g.scalar(-1, grad.dtype)).reshape(dims[i]!);
  const scaled = (e: Expr) => (scaling ? e.mul(g.of(scaling.scale).cast(e.dtype)) : e);
  const seeds = grads.flatMap((grad, i) => (grad ? [[grad.value, scaled(signsFor(grad, i))] as const] : []));
  const products = backward(g, new Map(seeds), points);
  const productOf = (i: number) => {
    const product = products[i] ?? g.of(params[i]!).zeros();
    return scaling ? unscaled(product, scaling) : product.wide();
  };
  return params.map((p, i) => grads[i] && g.of(g.rename(productOf(i), `${p.name}_hessian_product`)));
}
