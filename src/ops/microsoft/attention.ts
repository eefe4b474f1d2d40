/** ONNX Runtime's own attention operators, in the forms that its optimizer and exporters write. */
import type { Node } from '../../graph/ir.js';
import { attend, causalBias, defaultScale, lengthBias, mergeHeads, splitHeads } from '../core/attend.js';
import type { Expr } from '../core/expr.js';
import { dequantized } from '../core/levels.js';
import { rotate } from '../core/rotate.js';
import { expansion, expansionWithForms, type NodeView } from '../core/rule.js';
import { onIntegers } from '../core/surrogate.js';

type View = Pick<NodeView, 'attrs' | 'g' | 'unsupported'>;

type Fused = readonly [
  x: Expr,
  weights: Expr,
  bias?: Expr,
  mask?: Expr,
  past?: Expr,
  attentionBias?: Expr,
  pastLength?: Expr,
];

/** Self-attention whose queries, keys and values come from one product. */
export const Attention = expansion<Fused>(node => {
  const [x, weights, bias, mask, past, attentionBias, pastLength] = node.inputs;
  const { attrs } = node;
  if (attrs.int('do_rotary', 0)) node.unsupported("'do_rotary'");
  if (pastLength) node.unsupported('a past that shares its buffer');
  return fused(node, x.matmul(weights), { bias, mask, past, attentionBias });
});

type Integers = readonly [
  ...[x: Expr, weights: Expr, bias: Expr | undefined, scaleX: Expr, scaleW: Expr],
  ...[mask?: Expr, zeroX?: Expr, zeroW?: Expr, past?: Expr],
];

/** Attention of the numbers that x and the weights represent. */
export const QAttention = onIntegers<Integers>(node => {
  const [x, weights, bias, scaleX, scaleW, mask, zeroX, zeroW, past] = node.inputs;
  if (node.attrs.int('do_rotary', 0)) node.unsupported("'do_rotary'");
  const product = dequantized(x, scaleX, zeroX).matmul(dequantized(weights, scaleW, zeroW, 1));
  return fused(node, product, { bias, mask, past }).flatMap(e => e ?? []);
});

/** Attention of a product with queries, keys and values side by side, and the cache with these keys and values. */
function fused(
  node: View & Pick<NodeView, 'has'>,
  product: Expr,
  { bias, mask, past, attentionBias }: { bias?: Expr; mask?: Expr; past?: Expr; attentionBias?: Expr },
): [Expr, Expr?] {
  const { attrs, g } = node;
  const projected = bias ? product.add(bias) : product;
  const heads = attrs.int('num_heads', 1);
  const [q, k, v] = thirds(projected, attrs.ints('qkv_hidden_sizes')).map(e => splitHeads(e, heads)) as Three;
  const at = (i: number) => past?.gather(g.scalar(i, 'int64'));
  const [key, value] = [after(at(0), k), after(at(1), v)];
  const y = attention(node, [q, key, value], { mask, attentionBias, past: at(0) });
  return [y, node.has(1) ? key.unsqueeze([0]).concat([value.unsqueeze([0])], 0) : undefined];
}

type Three = [Expr, Expr, Expr];

type MultiHead = readonly [
  q: Expr,
  k?: Expr,
  v?: Expr,
  bias?: Expr,
  mask?: Expr,
  attentionBias?: Expr,
  pastKey?: Expr,
  pastValue?: Expr,
  pastLength?: Expr,
  beams?: Expr,
];

/** Packed forms, [B, S, N, 3, H] or [B, S, N, 2, H] for keys and values, have kernels on other devices only. */
const isPacked = (node: Node) => !node.inputs[1] || !node.inputs[2];

/**
 * Attention of projected queries, keys and values [B, S, N * H]; keys and values of another sequence may be [B, N, S,
 * H].
 */
export const MultiHeadAttention = expansionWithForms<MultiHead>(isPacked, node => {
  const [, , , bias, mask, attentionBias, pastKey, pastValue, pastLength, beams] = node.inputs;
  const [q, k, v] = partsOf(node.inputs);
  if (node.has(3)) node.unsupported("its output 'qk'");
  if (pastLength) node.unsupported('a past that shares its buffer');
  if (beams) node.unsupported("'cache_indirection'");
  const heads = node.attrs.int('num_heads', 1);
  const biases = bias && biasParts(bias, [q, k, v]);
  const split = (x: Expr, i: number) =>
    x.rank === 4 ? x : splitHeads(biases ? x.add(biases[i]!) : x, heads);
  const [key, value] = [after(pastKey, split(k, 1)), after(pastValue, split(v, 2))];
  const y = attention(node, [split(q, 0), key, value], { mask, attentionBias, past: pastKey });
  return [y, key, value];
});

/** Queries, keys and values, of which the last two or all may be packed. */
function partsOf([q, k, v]: MultiHead): Three {
  const part = (x: Expr, i: number) => x.gather(x.g.scalar(i, 'int64'), 3).reshape([0, 0, -1]);
  if (!k) return [part(q, 0), part(q, 1), part(q, 2)];
  return v ? [q, k, v] : [q, part(k, 0), part(k, 1)];
}

type Rotary = readonly [x: Expr, positions: Expr, cos: Expr, sin: Expr];

/** Features rotated by the angles of their positions, of which only the first may be given. */
export const RotaryEmbedding = expansion<Rotary>(node => {
  const [x, given, cos, sin] = node.inputs;
  const { attrs, g } = node;
  if (attrs.int('is_packed_batching', 0)) node.unsupported("'is_packed_batching'");
  const merged = x.rank === 3;
  const heads = attrs.int('num_heads', 0);
  const shape = heads ? [0, 0, heads, -1] : g.vector([0, 0, -1, cos.dims(-1).mul(2)]);
  const spread = merged ? x.reshape(shape) : x.transpose([0, 2, 1, 3]);
  const positions = given.rank === 1 ? spread.dims(1, 2).iota().add(given).unsqueeze([0]) : given;
  const turned = rotate(spread, [cos, sin, positions], {
    width: attrs.int('rotary_embedding_dim', 0),
    interleaved: attrs.int('interleaved', 0) === 1,
  });
  return [merged ? turned.reshapeLike(x) : turned.transpose([0, 2, 1, 3])];
});

const after = (past: Expr | undefined, x: Expr) => (past ? past.concat([x], 2) : x);

type Masks = { mask?: Expr; attentionBias?: Expr; past?: Expr };

function attention(node: View, [q, k, v]: Three, { mask, attentionBias, past }: Masks): Expr {
  const { attrs } = node;
  const scale = attrs.float('scale', 0);
  const biases: Expr[] = [];
  if (mask) biases.push(filterBias(node, mask, q, k));
  if (attrs.int('unidirectional', 0)) biases.push(causalBias(q, k, past?.dims(2, 3)));
  if (attentionBias) biases.push(attentionBias);
  const { y } = attend(q, k, v, { scale: scale === 0 ? defaultScale(q) : scale, biases, mayMaskAll: false });
  return mergeHeads(y);
}

/**
 * A bias with a large negative number at masked keys. The mask contains numbers of keys [B], or 0 and 1: [B, T] or [B,
 * S, T].
 */
function filterBias(node: View, mask: Expr, q: Expr, k: Expr): Expr {
  const filter = node.attrs.float('mask_filter_value', -10000);
  if (mask.rank > 3) node.unsupported(`a mask of ${mask.rank} axes`);
  if (mask.rank > 1) {
    const seen = mask.greater(0).unsqueeze(mask.rank === 2 ? [1, 2] : [1]);
    return seen.where(q.g.scalar(0, q.dtype), filter);
  }
  if (typeof mask.extent(0) === 'number' && typeof q.extent(0) === 'number' && mask.extent(0) !== q.extent(0))
    node.unsupported('a mask of first and last keys');
  return lengthBias(k, mask, filter);
}

/** The last axis in three parts: of these sizes, or equal ones. */
function thirds(x: Expr, sizes: readonly number[] | undefined): Expr[] {
  const last = x.rank - 1;
  const attrs = { axis: last, num_outputs: sizes ? undefined : 3 };
  const lead = x.shape?.slice(0, -1);
  const size = x.extent(-1);
  const each = sizes ?? Array(3).fill(typeof size === 'number' ? size / 3 : null);
  const types = each.map(n => ({ kind: 'tensor', dtype: x.dtype, shape: lead && [...lead, n] }) as const);
  return x.g.emit('Split', [x, sizes && x.g.ints(sizes)], attrs, { outputs: 3, types });
}

/** The bias of queries, keys and values: the first two are as wide as the queries. */
function biasParts(bias: Expr, [q]: readonly Expr[]): Expr[] {
  const { g } = bias;
  const [width, twice] = [q!.dims(-1), q!.dims(-1).mul(2)];
  const end = g.ints([Number.MAX_SAFE_INTEGER]);
  const cut = (from: Expr, to: Expr) => bias.slice(from, to, [0]);
  return [cut(g.ints([0]), width), cut(width, twice), cut(twice, end)];
}
