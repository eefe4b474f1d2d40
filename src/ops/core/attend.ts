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

/** Repeats each head `times` times in a row: key and value heads that several query heads share. */
export function repeatHeads(x: Expr, times: number | Expr): Expr {
  if (times === 1) return x;
  const { g } = x;
  const wide = x.unsqueeze([2]).expand(g.vector([1, 1, times, 1, 1]));
  return wide.reshape(g.vector([x.dims(0, 1), x.dims(1, 2).mul(times), x.dims(2, 4)]));
}

/** Lower clamp of masked scores: a softmax over masked scores alone is still defined. */
const lowest = (dtype: string) => (dtype === 'float16' ? -6e4 : -1e30);

/**
 * The bias of a mask: for a boolean one, 0 where it is true and minus infinity elsewhere; a float mask is already a
 * bias.
 */
export function maskBias(mask: Expr, like: Expr): Expr {
  return isFloat(mask.value.dtype)
    ? mask
    : mask.where(like.g.scalar(0, like.dtype), Number.NEGATIVE_INFINITY);
}

/**
 * The keys that a query may attend to: those up to its own position, which is shifted by `offset` among the keys, and
 * only the last `window` of them if that is not 0.
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
  /** The kinds of `qk_matmul_output`: raw scores, scores after the cap, scores with the bias, probabilities. */
  stages: readonly [Expr, Expr, Expr, Expr];
};

/**
 * softmax(cap(q k^T scale) + bias) v on [B, N, S, H]; with `mayMaskAll`, rows in which everything is masked give zeros.
 * `sink` [1, N, 1, 1] or a scalar is the score of a key whose value is zero: its exponential adds to the denominator.
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
    sink,
  }: {
    scale: number | Expr;
    softcap?: number;
    biases: readonly Expr[];
    mayMaskAll: boolean;
    sink?: Expr;
  },
): Attended {
  const raw = q.mul(scale).matmul(k.mT);
  const capped = softcap > 0 ? raw.div(softcap).tanh().mul(softcap) : raw;
  const biased = biases.reduce((sum, b) => sum.add(b), capped);
  const floor = q.g.scalar(lowest(q.dtype), q.dtype);
  const scores = biases.length ? biased.op('Clip', [floor]) : biased;
  const softmax = sink ? withSink(scores, sink) : scores.op('Softmax', [], { axis: -1 });
  const masked = mayMaskAll
    ? scores.max([-1], { keepdims: true }).lessOrEqual(lowest(q.dtype) / 2)
    : undefined;
  const p = masked ? masked.where(softmax.zeros(), softmax) : softmax;
  return { y: p.matmul(v), stages: [raw, capped, biased, p] };
}

/** The softmax over scores and one more, of which the share of that is left out. */
function withSink(scores: Expr, sink: Expr): Expr {
  const column = scores.slice([0], [1], [3]).zeros().add(sink);
  const all = scores.concat([column], 3).op('Softmax', [], { axis: -1 });
  return all.slice([0], [-1], [3]).typed(scores.type);
}

/** The number of query heads that share a key head: a number, or an int64 vector with one element. */
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

/** The bias that masks the keys beyond the first `lengths[b]` of each sample: minus infinity, or another number. */
export function lengthBias(k: Expr, lengths: Expr, hidden = Number.NEGATIVE_INFINITY): Expr {
  const places = k.dims(2, 3).iota().cast(lengths.dtype);
  const seen = places.less(lengths.reshape([-1, 1, 1, 1]));
  return seen.where(k.g.scalar(0, k.dtype), hidden);
}
