/** Attention and rotary embeddings, expanded into the operators of their definitions. */
import type { Node } from '../graph/ir.js';
import {
  attend,
  causalBias,
  defaultScale,
  lengthBias,
  maskBias,
  mergeHeads,
  repeatHeads,
  sharing,
  splitHeads,
} from './core/attend.js';
import type { Expr } from './core/expr.js';
import { rotate } from './core/rotate.js';
import { expansion, expansionWithForms } from './core/rule.js';

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

/** A mask may be shorter than the keys; keys beyond it are masked. */
function padMask(mask: Expr, k: Expr): Expr {
  const [have, want] = [mask.extent(-1), k.extent(2)];
  if (have === want && typeof have === 'number') return mask;
  const { g } = mask;
  const missing = k.dims(2, 3).sub(mask.dims(-1));
  const fill = mask.dtype === 'bool' ? g.scalar(0, 'bool') : g.scalar(Number.NEGATIVE_INFINITY, mask.dtype);
  return mask.pad(g.vector([0, missing]), g.ints([mask.rank - 1]), fill);
}

/** How many keys precede the first query: those of the past, or per sample by the number of valid keys. */
function offsetOf(q: Expr, past: Expr | undefined, lengths: Expr | undefined): Expr | undefined {
  if (past) return past.dims(2, 3);
  return lengths?.sub(q.dims(2, 3)).reshape([-1, 1, 1, 1]);
}

type Rotary = readonly [x: Expr, cos: Expr, sin: Expr, positions?: Expr];

/**
 * Without positions, the caches have an entry for each sample. PyTorch exports one for all of them, which the kernels
 * refuse for batches of more than one sample.
 */
const hasSharedCache = ({ inputs: [x, cos, , positions] }: Node) => {
  const batch = cos?.shape?.[0];
  return !positions && (batch === undefined || batch === null || batch !== x?.shape?.[0]);
};

/** Pairs of features (x1, x2) rotated by the angle of their position: (x1 cos - x2 sin, x1 sin + x2 cos). */
export const RotaryEmbedding = expansionWithForms<Rotary>(hasSharedCache, node => {
  const [x, cos, sin, positions] = node.inputs;
  const { attrs } = node;
  const heads = attrs.int('num_heads', 0);
  const merged = x.rank === 3;
  // [B, S, N, H]
  const spread = merged ? x.reshape([0, 0, heads, -1]) : x.transpose([0, 2, 1, 3]);
  const turned = rotate(spread, [cos, sin, positions], {
    width: attrs.int('rotary_embedding_dim', 0),
    interleaved: attrs.int('interleaved', 0) === 1,
  });
  return [merged ? turned.reshapeLike(x) : turned.transpose([0, 2, 1, 3])];
});
