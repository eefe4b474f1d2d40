/** Learning rates by layer, from the norms of weights and steps, as LARS and LAMB have them. */
import type { Expr } from '../core/expr.js';
import { norm } from '../core/norm.js';
import { flag } from '../core/option-type.js';
import { option } from './optimizer.js';

export const excludeVectorsOption = option(
  flag,
  true,
  'Update vectors (biases, normalizations) without trust ratio and weight decay',
);

/** Whether a parameter with so many axes has a trust ratio. Vectors that are updated together have one axis, too. */
export const adaptsLayer = ({ excludeVectors }: { excludeVectors: boolean }, rank: number) =>
  rank > 1 || !excludeVectors;

/** eta |w| / |u|, a scalar; 1 if one of the norms is 0. */
export function trustRatio(w: Expr, u: Expr, eta = 1): Expr {
  const [weight, step] = [norm(w), norm(u)];
  const isZero = weight.minimum(step).equal(0);
  const ratio = weight.div(step);
  return isZero.where(1, eta === 1 ? ratio : ratio.mul(eta));
}
