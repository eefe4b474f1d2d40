/** Attention in which query heads share a key head, with a cache of keys: the form that decoders are shipped in. */

import type { Node } from '../../graph/ir.js';
import { attend, defaultScale, maskBias, mergeHeads, repeatHeads, splitHeads } from '../core/attend.js';
import { float } from '../core/builder.js';
import type { Expr } from '../core/expr.js';
import type { Provider } from '../core/provider.js';
import { rotate } from '../core/rotate.js';
import { Attributes, expansionWithForms, type NodeView } from '../core/rule.js';

type Grouped = readonly [
  q: Expr,
  k: Expr | undefined,
  v: Expr | undefined,
  pastKey: Expr | undefined,
  pastValue: Expr | undefined,
  lengths: Expr,
  total: Expr,
  cos?: Expr,
  sin?: Expr,
  positions?: Expr,
  attentionBias?: Expr,
  sink?: Expr,
  keyScale?: Expr,
  valueScale?: Expr,
  queryNorm?: Expr,
  keyNorm?: Expr,
];

/**
 * On the CPU, heads are not normalized, and a cache of the last keys may not be shorter than the window. CUDA's kernel has
 * 16-bit types only, and lowering the precision keeps attention in float32.
 */
const lacksKernel = (node: Node, provider: Provider) =>
  provider === 'cuda' || !!node.inputs[14] || new Attributes(node).int('sliding_window_cache', 0) === 1;

/**
 * softmax(cap(q k^T scale) + bias) v, usually causal. `lengths` are the numbers of keys of each sample, less one, those
 * of its past included; keys beyond them are padding. A cache may be longer than what it holds.
 */
export const GroupQueryAttention = expansionWithForms<Grouped>(lacksKernel, node => {
  const [q, k, v, , , lengths, total, cos, sin, positions, attentionBias, sink] = node.inputs;
  const [, , , pastKey, pastValue, , , , , , , , keyScale, valueScale, queryNorm, keyNorm] = node.inputs;
  const { attrs } = node;
  if (keyScale || valueScale) node.unsupported('a quantized past');
  if (node.has(3)) node.unsupported("'qk_output'");
  const heads: Heads = [attrs.int('num_heads', 1), attrs.int('kv_num_heads', 1)];
  const [query0, key0, value] = split(k && v ? [q, k, v] : packed(q, heads), heads);
  const epsilon = attrs.float('qk_norm_epsilon', 1e-6);
  const [query1, key1] = [normalized(query0, queryNorm, epsilon), normalized(key0, keyNorm, epsilon)];
  const window = Math.max(0, attrs.int('local_window_size', -1));
  const isCausal = attrs.int('causal', 1) === 1;
  if (window && !isCausal) node.unsupported("'local_window_size' where it is not causal");
  const isRolling = attrs.int('sliding_window_cache', 0) === 1;
  const cache = cacheOf(query1, [pastKey, pastValue], { lengths: lengths.add(1), total, isRolling });
  const places = positions && placesOf(positions, cache);
  const turned = (x: Expr) => turn(node, x, [cos, sin], places ?? cache.places);
  const [query, key] = [turned(query1), turned(key1)];
  const seen = keysSeen(cache, isCausal ? window || Number.POSITIVE_INFINITY : undefined);
  const scale = attrs.float('scale', 0);
  const isSmooth = attrs.int('smooth_softmax', 0) === 1;
  const { y } = attend(query, ...repeated([cache.join(pastKey, key), cache.join(pastValue, value)], heads), {
    scale: scale === 0 ? defaultScale(query) : scale,
    softcap: attrs.float('softcap', 0),
    biases: [maskBias(seen, query), ...(attentionBias ? [attentionBias] : [])],
    mayMaskAll: false,
    sink: sink?.reshape([1, -1, 1, 1]) ?? (isSmooth ? query.g.scalar(0, query.dtype) : undefined),
  });
  return [mergeHeads(y), cache.present(pastKey, key), cache.present(pastValue, value)];
});

type Sparse = readonly [
  q: Expr,
  k: Expr | undefined,
  v: Expr | undefined,
  pastKey: Expr,
  pastValue: Expr,
  rows: Expr,
  columns: Expr,
  total: Expr,
  lengths: Expr,
  cos?: Expr,
  sin?: Expr,
];

/**
 * The same, where a query reads only some blocks of keys: those in the row of its own block, of a layout in compressed
 * rows. Layouts are used by the heads in turn. The kernel takes a cache only that is its output too, which no graph can tell.
 */
export const SparseAttention = expansionWithForms<Sparse>(
  () => true,
  node => {
    const [q, k, v, pastKey, pastValue, rows, columns, total, lengths, cos, sin] = node.inputs;
    const { attrs } = node;
    const heads: Heads = [attrs.int('num_heads', 1), attrs.int('kv_num_heads', 1)];
    const [query0, key0, value] = split(k && v ? [q, k, v] : packed(q, heads), heads);
    const cache = cacheOf(query0, [pastKey, pastValue], { lengths, total, isRolling: false });
    const turned = (x: Expr) => turn(node, x, [cos, sin], cache.places);
    const [query, key] = [turned(query0), turned(key0)];
    const size = attrs.int('sparse_block_size', 64);
    const seen = keysSeen(cache, Number.POSITIVE_INFINITY).and(
      blocksSeen(cache, [rows, columns], { size, heads: heads[0] }),
    );
    const scale = attrs.float('scale', 0);
    const { y } = attend(
      query,
      ...repeated([cache.join(pastKey, key), cache.join(pastValue, value)], heads),
      {
        scale: scale === 0 ? defaultScale(query) : scale,
        biases: [maskBias(seen, query)],
        mayMaskAll: false,
      },
    );
    return [mergeHeads(y), cache.present(pastKey, key), cache.present(pastValue, value)];
  },
);

type Heads = readonly [queries: number, keys: number];
type View = Pick<NodeView, 'attrs' | 'unsupported'>;

const split = (parts: readonly Expr[], [queries, keys]: Heads) =>
  parts.map((x, i) => splitHeads(x, i ? keys : queries)) as [Expr, Expr, Expr];

const repeated = (parts: readonly [Expr, Expr], [queries, keys]: Heads) =>
  parts.map(x => repeatHeads(x, queries / keys)) as [Expr, Expr];

/** Each head normalized by its root mean square. */
function normalized(x: Expr, scale: Expr | undefined, epsilon: number): Expr {
  if (!scale) return x;
  return x.op(
    'SimplifiedLayerNormalization',
    [scale],
    { axis: -1, epsilon: float(epsilon) },
    { types: [x.type] },
  );
}

/** Heads turned by the angles of their positions. */
function turn({ attrs }: View, x: Expr, [cos, sin]: readonly [Expr?, Expr?], places: Expr): Expr {
  if (!cos || !sin || !attrs.int('do_rotary', 0)) return x;
  const spread = x.transpose([0, 2, 1, 3]);
  const form = { width: rotaryWidth(cos, x), interleaved: attrs.int('rotary_interleaved', 0) === 1 };
  return rotate(spread, [cos, sin, places], form).transpose([0, 2, 1, 3]);
}

/** The number of features that the tables of angles cover; 0 for all. */
function rotaryWidth(cos: Expr, x: Expr): number {
  const half = cos.extent(-1);
  return typeof half === 'number' && half * 2 !== x.extent(-1) ? half * 2 : 0;
}

/**
 * The keys that queries can read: the slots of the past, of which each sample may have filled only the first, and the new
 * ones after them.
 */
type Cache = {
  /** Positions of the new tokens, [1, S] or [B, S]. */
  places: Expr;
  /** Whether this is the first call, with nothing in the cache: a scalar; undefined where there is no cache. */
  isFirst?: Expr;
  /** Positions of the keys, and whether their slots are filled: [T] or [B, 1, 1, T]. */
  keys: Expr;
  isFilled?: Expr;
  /** Positions of the queries, [S, 1] or [B, 1, S, 1]. */
  queries: Expr;
  /** Number of keys of each sample, [B, 1, 1, 1]. */
  lengths: Expr;
  join(past: Expr | undefined, x: Expr): Expr;
  present(past: Expr | undefined, x: Expr): Expr;
};

type Sizes = {
  lengths: Expr;
  total: Expr;
  /** Whether the cache keeps the last keys only. */
  isRolling: boolean;
};

function cacheOf(
  query: Expr,
  [pastKey]: readonly [Expr | undefined, Expr | undefined],
  { lengths: given, total, isRolling }: Sizes,
): Cache {
  const { g } = query;
  const lengths = given.cast('int64').reshape([-1, 1, 1, 1]);
  const count = query.dims(2, 3);
  const own = count.iota();
  if (!pastKey || pastKey.extent(2) === 0)
    return {
      ...{ places: own.unsqueeze([0]), keys: own, queries: own.unsqueeze([1]), lengths },
      ...{ join: (_, x) => x, present: (_, x) => x },
    };
  const slots = pastKey.dims(2, 3);
  const isFirst = total.cast('int64').reshape([1]).equal(count);
  const before = isFirst.where(0, lengths.sub(count));
  const filled = isRolling ? before.minimum(slots) : before;
  const all = slots.add(count).iota();
  const isPast = all.less(slots);
  const keys = isPast.where(all.add(before.sub(filled)), all.sub(slots).add(before));
  const isFilled = isPast.not().or(all.less(filled));
  const compact = (past: Expr, x: Expr) => {
    const end = filled.add(count);
    const room = isRolling ? slots : slots.maximum(total.cast('int64').reshape([1]));
    const at = room.iota().add(isRolling ? end.sub(room).maximum(0) : g.scalar(0, 'int64'));
    const from = at.less(filled).where(at, at.sub(filled).add(slots)).minimum(slots.add(count).sub(1));
    const rows = past.concat([x], 2);
    const index = from.transpose([0, 1, 3, 2]).expand(g.vector([rows.dims(0, 2), room, rows.dims(3)]));
    return rows.gatherElements(index, 2).masked(at.less(end).transpose([0, 1, 3, 2]));
  };
  return {
    ...{ places: before.reshape([-1, 1]).add(own), isFirst, keys, isFilled },
    ...{ queries: before.add(own.unsqueeze([1])), lengths },
    join: (past, x) => past!.concat([x], 2),
    present: (past, x) => compact(past!, x),
  };
}

/** Positions that are given; for a first call, kernels read only the first of them. */
function placesOf(positions: Expr, { isFirst, places }: Cache): Expr {
  const first = positions.reshape([-1]).slice([0], [1], [0]).reshape([1, 1]).add(places);
  return isFirst ? isFirst.where(first, positions) : first;
}

/** The keys that each query reads: of the last `reach` ones up to its own, or all if that is undefined. */
function keysSeen({ keys, queries, lengths, isFilled }: Cache, reach: number | undefined): Expr {
  const terms = [keys.less(lengths)];
  const behind = queries.sub(keys);
  if (reach !== undefined) terms.push(behind.greaterOrEqual(0));
  if (reach !== undefined && reach < Number.POSITIVE_INFINITY) terms.push(behind.less(reach));
  if (isFilled) terms.push(isFilled);
  return terms.reduce((a, b) => a.and(b));
}

/** Whether the block of a key is in the row of the query's block: [1 or B, N, S, T]. */
function blocksSeen(
  { keys, queries }: Cache,
  [rows, columns]: readonly [Expr, Expr],
  { size, heads }: { size: number; heads: number },
): Expr {
  const { g } = rows;
  const wide = (e: Expr) => e.cast('int64');
  // A row of the layout owns the entries from its own start to that of the next one.
  const starts = wide(rows).unsqueeze([2]);
  const entries = wide(columns).dims(1, 2).iota();
  const owner = entries.greaterOrEqual(starts).cast('int64').sum([1]).sub(1);
  const layouts = rows.dims(0, 1);
  const blocks = rows.dims(1, 2).sub(1);
  const cell = owner.mul(blocks).add(wide(columns)).maximum(0);
  const isUsed = wide(columns)
    .greaterOrEqual(0)
    .and(entries.less(starts.slice([-1], [Number.MAX_SAFE_INTEGER], [1]).squeeze([2])));
  const table = g
    .scalar(0, 'int32')
    .expand(g.vector([layouts, blocks.mul(blocks)]))
    .scatterElements(cell, isUsed.cast('int32'), 1, 'max');
  const byHead = table.gather(g.vector([heads]).iota().op('Mod', [layouts]));
  const block = queries.div(size).mul(blocks).add(keys.div(size));
  const at = block.rank === 2 ? block.unsqueeze([0, 1]) : block;
  const shape = g.vector([at.dims(0, 1), heads, at.dims(2)]);
  const flat = at.expand(shape).transpose([1, 0, 2, 3]).reshape([heads, -1]);
  const found = byHead.gatherElements(flat, 1).reshape(g.vector([heads, at.dims(0, 1), at.dims(2)]));
  return found.transpose([1, 0, 2, 3]).greater(0);
}

/** Splits rows of concatenated queries, keys and values by their numbers of heads. */
function packed(x: Expr, [queries, keys]: Heads): Expr[] {
  const heads = [queries, keys, keys];
  const total = queries + 2 * keys;
  const size = x.extent(-1);
  const byHead = typeof size === 'number' ? x.g.ints(heads.map(n => (n * size) / total)) : undefined;
  const sizes = byHead ?? x.dims(-1).div(total).mul(x.g.ints(heads));
  const lead = x.shape?.slice(0, -1);
  const types = heads.map(n => {
    const own = typeof size === 'number' ? (n * size) / total : null;
    return { kind: 'tensor', dtype: x.dtype, shape: lead && [...lead, own] } as const;
  });
  return x.g.emit('Split', [x, sizes], { axis: x.rank - 1 }, { outputs: 3, types });
}
