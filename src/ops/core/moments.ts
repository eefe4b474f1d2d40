import type { Expr } from './expr.js';
import { range } from './rule.js';

/** Mean and (biased) variance over `axes`, which are kept with extent 1. */
export function moments(x: Expr, axes: readonly number[]): { mean: Expr; centered: Expr; variance: Expr } {
  const mean = x.mean(axes, { keepdims: true });
  const centered = x.sub(mean);
  return { mean, centered, variance: centered.square().mean(axes, { keepdims: true }) };
}

/**
 * Mean, biased variance and number of the values of each channel of [N, C, ...]. If the graph is to be synchronized, they are
 * copies, recorded for exchange: their sources are those of this rank's part of the batch.
 */
export function channelMoments(x: Expr): ReturnType<typeof moments> & { count: Expr } {
  const axes = allButChannels(x);
  const own = { ...moments(x, axes), count: x.count(x.dtype, axes) };
  const { synchronized } = x.g.scope;
  if (!synchronized) return own;
  const [count, mean, variance] = [own.count, own.mean, own.variance].map(e => e.op('Identity')) as [
    Expr,
    Expr,
    Expr,
  ];
  const values = { count: count.value, mean: mean.value, variance: variance.value };
  synchronized.statistics.set(mean.value, values);
  return { count, mean, variance, centered: x.sub(mean) };
}

/** The sum of a b over all axes but the channels', which are kept. On the CPU, products of rows do not write a b. */
export function channelDots(a: Expr, b: Expr): Expr {
  const pixels = a.shape!.slice(2).reduce<number>((n, d) => n * (typeof d === 'number' ? d : 0), 1);
  if (a.g.provider !== 'cpu' || a.dtype !== 'float32' || pixels < LEAST)
    return a.mul(b).sum(allButChannels(a), { keepdims: true });
  const row = (e: Expr) => e.reshape([0, 0, 1, pixels]);
  return row(a)
    .matmul(row(b).mT)
    .reshape([0, 0, ...range(2, a.rank).map(() => 1)])
    .sum([0], { keepdims: true });
}

/** Images of fewer pixels gain nothing. */
const LEAST = 600;

/** What all ranks' parts of a batch contribute to `e`, which is linear in the gradient: a copy, recorded for exchange. */
export function overRanks(e: Expr): Expr {
  const { synchronized } = e.g.scope;
  if (!synchronized) return e;
  const copy = e.op('Identity');
  synchronized.sums.add(copy.value);
  return copy;
}

export type Standardized = { xhat: Expr; inv: Expr };

/** x with mean 0 and variance 1 over `axes`, and the reciprocal of the standard deviation. */
export function standardize(x: Expr, axes: readonly number[], epsilon: number): Standardized {
  const { centered, variance } = moments(x, axes);
  const inv = variance.add(epsilon).sqrt().reciprocal();
  return { xhat: centered.mul(inv), inv };
}

/** xhat = standardize(x)  =>  dx = inv * (d - mean(d) - xhat * mean(d * xhat)). */
export function standardizeBack(d: Expr, { xhat, inv }: Standardized, axes: readonly number[]): Expr {
  const mean = (e: Expr) => e.mean(axes, { keepdims: true });
  return d
    .sub(mean(d))
    .sub(xhat.mul(mean(d.mul(xhat))))
    .mul(inv);
}

/** Reshapes a vector with one number per channel to broadcast over [N, C, ...]. */
export const perChannel = (v: Expr, x: Expr) => v.reshape([-1, ...Array(x.rank - 2).fill(1)]);
/** The axes of [N, C, ...] except that of the channels. */
export const allButChannels = (x: Expr) => [0, ...range(2, x.rank)];
