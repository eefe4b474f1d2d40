/** Attention and rotary embeddings, as the operators that their definitions are made of. */
import { attend, causalBias, maskBias, mergeHeads, repeatHeads, splitHeads } from './core/attend.js';
import type { Expr } from './core/expr.js';
import { expansion, type NodeView } from './core/rule.js';

type AttentionInputs = readonly [
  Expr,
  Expr,
  Expr,
  mask?: Expr,
  pastKey?: Expr,
  pastValue?: Expr,
  lengths?: Expr,
];

/** Y = softmax(cap(Q K^T scale) + mask) V, per head; keys and values follow those of the past. */
export const Attention = expansion<AttentionInputs>(node => {
  const [q0, k0, v0, mask, pastKey, pastValue, lengths] = node.inputs;
  const { attrs } = node;
  for (const side of ['left_window_size', 'right_window_size'])
    if (attrs.int(side, -1) >= 0) node.unsupported(`'${side}'`);
  const merged = q0.rank === 3;
  const [qHeads, kvHeads] = [attrs.int('q_num_heads', 0), attrs.int('kv_num_heads', 0)];
  const q = merged ? splitHeads(q0, qHeads) : q0;
  const after = (past: Expr | undefined, x: Expr) => {
    const heads = merged ? splitHeads(x, kvHeads) : x;
    return past ? past.concat([heads], 2) : heads;
  };
  const [key, value] = [after(pastKey, k0), after(pastValue, v0)];
  const times = sharing(q, key);
  const [k, v] = [repeatHeads(key, times), repeatHeads(value, times)];

  const biases: Expr[] = [];
  if (mask) biases.push(maskBias(padMask(mask, k), q));
  if (attrs.int('is_causal', 0)) biases.push(causalBias(q, k, offsetOf(q, pastKey, lengths)));
  if (lengths) biases.push(lengthBias(k, lengths));
  const { y, stages } = attend(q, k, v, {
    scale: attrs.has('scale') ? attrs.float('scale', 1) : defaultScale(q),
    softcap: attrs.float('softcap', 0),
    biases,
    mayMaskAll: !!mask || !!lengths,
  });
  return [merged ? mergeHeads(y) : y, key, value, stages[attrs.int('qk_matmul_output_mode', 0)]];
});

/** How many query heads share a key head. */
function sharing(q: Expr, k: Expr): number {
  const [qHeads, kHeads] = [q.extent(1), k.extent(1)];
  return typeof qHeads === 'number' && typeof kHeads === 'number' ? qHeads / kHeads : 1;
}

function defaultScale(q: Expr): number | Expr {
  const size = q.extent(-1);
  return typeof size === 'number'
    ? 1 / Math.sqrt(size)
    : q
        .count(q.dtype, [q.rank - 1])
        .sqrt()
        .reciprocal();
}

/** A mask may be shorter than the keys; those beyond it are not seen. */
function padMask(mask: Expr, k: Expr): Expr {
  const [have, want] = [mask.extent(-1), k.extent(2)];
  if (have === want && typeof have === 'number') return mask;
  const { g } = mask;
  const missing = k.dims(2, 3).sub(mask.dims(-1));
  const fill = mask.dtype === 'bool' ? g.scalar(0, 'bool') : g.scalar(Number.NEGATIVE_INFINITY, mask.dtype);
  return mask.op('Pad', [g.vector([0, missing]), fill, g.ints([mask.rank - 1])]);
}

/** How many keys precede the first query: those of the past, or per sample by the number of valid keys. */
function offsetOf(q: Expr, past: Expr | undefined, lengths: Expr | undefined): Expr | undefined {
  if (past) return past.dims(2, 3);
  return lengths?.sub(q.dims(2, 3)).reshape([-1, 1, 1, 1]);
}

function lengthBias(k: Expr, lengths: Expr): Expr {
  const { g } = k;
  const places = g.scalar(0, 'int64').op('Range', [k.dims(2, 3).squeeze([0]), g.scalar(1, 'int64')]);
  return maskBias(places.less(lengths.reshape([-1, 1, 1, 1])), k);
}

type Rotary = readonly [x: Expr, cos: Expr, sin: Expr, positions?: Expr];

/** Pairs of features (x1, x2) turned by the angle of their position: (x1 cos - x2 sin, x1 sin + x2 cos). */
export const RotaryEmbedding = expansion<Rotary>(node => {
  const [x, cos, sin, positions] = node.inputs;
  const { attrs } = node;
  const heads = attrs.int('num_heads', 0);
  const merged = x.rank === 3;
  // [B, S, N, H]
  const spread = merged ? x.reshape([0, 0, heads, -1]) : x.transpose([0, 2, 1, 3]);
  const turned = rotate(spread, angles(cos, positions), angles(sin, positions), node);
  return [merged ? turned.reshapeLike(x) : turned.transpose([0, 2, 1, 3])];
});

/** [B, S, 1, H / 2]: from a table by position, or per position already. */
function angles(table: Expr, positions: Expr | undefined): Expr {
  return (positions ? table.gather(positions) : table).unsqueeze([2]);
}

function rotate(x: Expr, cos: Expr, sin: Expr, { attrs }: NodeView<Rotary>): Expr {
  const last = x.rank - 1;
  const size = x.extent(-1);
  const width = attrs.int('rotary_embedding_dim', 0);
  if (typeof size === 'number' && width && width < size) {
    const [part, rest] = splitLast(x, [width, size - width]) as [Expr, Expr];
    return turn(part, cos, sin, attrs.int('interleaved', 0) === 1).concat([rest], last);
  }
  return turn(x, cos, sin, attrs.int('interleaved', 0) === 1);
}

/** The features are (x1, x2) pair by pair where they are interleaved, else all x1 and then all x2. */
function turn(x: Expr, cos: Expr, sin: Expr, interleaved: boolean): Expr {
  const { g } = x;
  const last = x.rank - 1;
  const size = x.extent(-1);
  const half = typeof size === 'number' ? size / 2 : undefined;
  if (interleaved) {
    const pairs = x.reshape(g.vector([x.dims(0, -1), -1, 2]));
    const [x1, x2] = splitLast(pairs, [1, 1]).map(e => e.squeeze([last + 1])) as [Expr, Expr];
    const [real, imaginary] = [x1.mul(cos).sub(x2.mul(sin)), x1.mul(sin).add(x2.mul(cos))];
    return real
      .unsqueeze([-1])
      .concat([imaginary.unsqueeze([-1])], last + 1)
      .reshapeLike(x);
  }
  const [x1, x2] = splitLast(x, half ? [half, half] : undefined) as [Expr, Expr];
  return x1
    .mul(cos)
    .sub(x2.mul(sin))
    .concat([x1.mul(sin).add(x2.mul(cos))], last);
}

/** Parts of the last axis: of these sizes, or two equal ones. */
function splitLast(x: Expr, sizes: readonly number[] | undefined): Expr[] {
  const lead = x.shape?.slice(0, -1);
  const types = (sizes ?? [null, null]).map(
    n => ({ kind: 'tensor', dtype: x.dtype, shape: lead && [...lead, n] }) as const,
  );
  const attrs = { axis: x.rank - 1, num_outputs: sizes ? undefined : 2 };
  return x.g.emit('Split', [x, sizes && x.g.ints(sizes)], attrs, { outputs: types.length, types });
}
