import { isFloat } from '../../graph/dtype.js';
import type { Expr } from './expr.js';

/** [B, S, N * H] to [B, N, S, H]. */
export function splitHeads(x: Expr, heads: number): Expr {
  return x.reshape([0, 0, heads, -1]).transpose([0, 2, 1, 3]);
}

/** [B, N, S, H] to [B, S, N * H]. */
export function mergeHeads(x: Expr): Expr {
  return x.transpose([0, 2, 1, 3]).reshape([0, 0, -1]);
}

/** Each head `times` times, one after the other: key and value heads that several query heads share. */
export function repeatHeads(x: Expr, times: number | Expr): Expr {
  if (times === 1) return x;
  const { g } = x;
  const wide = x.unsqueeze([2]).expand(g.vector([1, 1, times, 1, 1]));
  return wide.reshape(g.vector([x.dims(0, 1), x.dims(1, 2).mul(times), x.dims(2, 4)]));
}

/** The least number that scores are let down to: a softmax over nothing else is still defined. */
const lowest = (dtype: string) => (dtype === 'float16' ? -6e4 : -1e30);

/** 0 where a boolean mask allows, minus infinity where it does not; a float mask is a bias already. */
export function maskBias(mask: Expr, like: Expr): Expr {
  return isFloat(mask.value.dtype)
    ? mask
    : mask.where(like.g.scalar(0, like.dtype), Number.NEGATIVE_INFINITY);
}

/**
 * Keys that a query may see: those up to its own place, which is `offset` further on among the keys, and of
 * these the last `window`, where it is not 0.
 */
export function causalBias(q: Expr, k: Expr, offset: Expr | undefined, window = 0): Expr {
  const count = (x: Expr) => x.dims(2, 3).iota();
  const own = count(q).unsqueeze([1]);
  const behind = (offset ? own.add(offset) : own).sub(count(k));
  const seen = behind.greaterOrEqual(0);
  return maskBias(window ? seen.and(behind.less(window)) : seen, q);
}

export type Attended = {
  y: Expr;
  /** What `qk_matmul_output` may be: raw scores, after the cap, with the bias, probabilities. */
  stages: readonly [Expr, Expr, Expr, Expr];
};

/**
 * softmax(cap(q k^T scale) + bias) v on [B, N, S, H]; rows of which everything is masked give zeros where
 * `mayMaskAll`.
 */
export function attend(
  q: Expr,
  k: Expr,
  v: Expr,
  {
    scale,
    softcap = 0,
    biases,
    mayMaskAll,
  }: { scale: number | Expr; softcap?: number; biases: readonly Expr[]; mayMaskAll: boolean },
): Attended {
  const raw = q.mul(scale).matmul(k.mT);
  const capped = softcap > 0 ? raw.div(softcap).tanh().mul(softcap) : raw;
  const biased = biases.reduce((sum, b) => sum.add(b), capped);
  const floor = q.g.scalar(lowest(q.dtype), q.dtype);
  const scores = biases.length ? biased.op('Clip', [floor]) : biased;
  const softmax = scores.op('Softmax', [], { axis: -1 });
  const masked = mayMaskAll
    ? scores.max([-1], { keepdims: true }).lessOrEqual(lowest(q.dtype) / 2)
    : undefined;
  const p = masked ? masked.where(softmax.zeros(), softmax) : softmax;
  return { y: p.matmul(v), stages: [raw, capped, biased, p] };
}

/** How many query heads share a key head: a number, or an int64 vector of one. */
export function sharing(q: Expr, k: Expr): number | Expr {
  const [queries, keys] = [q.extent(1), k.extent(1)];
  const isKnown = typeof queries === 'number' && typeof keys === 'number';
  return isKnown ? queries / keys : q.dims(1, 2).div(k.dims(1, 2));
}

export function defaultScale(q: Expr): number | Expr {
  const size = q.extent(-1);
  return typeof size === 'number'
    ? 1 / Math.sqrt(size)
    : q
        .count(q.dtype, [q.rank - 1])
        .sqrt()
        .reciprocal();
}

/** What hides the keys beyond the first `lengths[b]` of each sample: minus infinity, or another number. */
export function lengthBias(k: Expr, lengths: Expr, hidden = Number.NEGATIVE_INFINITY): Expr {
  const places = k.dims(2, 3).iota().cast(lengths.dtype);
  const seen = places.less(lengths.reshape([-1, 1, 1, 1]));
  return seen.where(k.g.scalar(0, k.dtype), hidden);
}
