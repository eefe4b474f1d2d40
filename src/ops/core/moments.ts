import type { Expr } from './expr.js';

/** Mean and (biased) variance over `axes`, which stay with extent 1. */
export function moments(x: Expr, axes: readonly number[]): { mean: Expr; centered: Expr; variance: Expr } {
  const mean = x.mean(axes, { keepdims: true });
  const centered = x.sub(mean);
  return { mean, centered, variance: centered.square().mean(axes, { keepdims: true }) };
}
