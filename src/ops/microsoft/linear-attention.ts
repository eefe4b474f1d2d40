/** Attention without a softmax: each head carries a matrix from token to token. */
import { mergeHeads } from '../core/attend.js';
import type { Expr } from '../core/expr.js';
import { expansion } from '../core/rule.js';
import { scan } from '../core/scan.js';

type Linear = readonly [q: Expr, k: Expr, v: Expr, past?: Expr, decay?: Expr, beta?: Expr];

/**
 * y_t = scale q_t^T S_t, where S_t = D_t S_{t-1} + k_t v_t^T with D_t = exp(decay_t), or without decay D_t = 1; by the
 * delta rule beta_t k_t (v_t - (D_t S_{t-1})^T k_t)^T is added instead: Yang et al., «Gated Delta Networks»
 * (arXiv:2412.06464).
 */
export const LinearAttention = expansion<Linear>(node => {
  const [q, k, v, past, decay, beta] = node.inputs;
  const { attrs, g } = node;
  if (attrs.int('state_window', 0)) node.unsupported("'state_window'");
  const rule = attrs.string('update_rule', 'gated_delta');
  const isDelta = rule.endsWith('delta');
  const isGated = rule.startsWith('gated');
  if ((isGated && !decay) || (isDelta && !beta)) node.unsupported(`update_rule '${rule}' without its gates`);
  const [queries, keys] = [attrs.int('q_num_heads', 1), attrs.int('kv_num_heads', 1)];
  const heads = Math.max(queries, keys);
  /** [B, T, N * D] to [T, B, N, D]. */
  const byTime = (x: Expr, count: number) => x.reshape([0, 0, count, -1]).transpose([1, 0, 2, 3]);
  const [query, key, value] = [byTime(q, queries), byTime(k, keys), byTime(v, keys)];
  const state = past ?? stateOf(key, value);
  const wide = (x: Expr) => x.cast(state.dtype);
  // One number for each head, or for each of its features, or for all heads.
  const gates = (x: Expr | undefined, isUsed: boolean) =>
    x && isUsed ? [wide(x.extent(2) === 1 ? byTime(x, 1) : byTime(x, keys))] : [];
  const size = query.extent(3);
  const scale = attrs.float('scale', 0);
  const factor =
    scale !== 0
      ? scale
      : typeof size === 'number'
        ? 1 / Math.sqrt(size)
        : wide(query.count(q.dtype, [3]))
            .sqrt()
            .reciprocal();
  const { states, outputs } = scan(g, {
    states: [state],
    inputs: [wide(query), wide(key), wide(value), ...gates(decay, isGated), ...gates(beta, isDelta)],
    body: (_, [before], [qt, kt, vt, ...more]) => {
      const kept = isGated ? before!.mul(more.shift()!.exp().unsqueeze([3])) : before!;
      const column = kt!.unsqueeze([3]);
      const row = vt!.unsqueeze([2]);
      const change = isDelta ? row.sub(column.mT.matmul(kept)).mul(more.shift()!.unsqueeze([3])) : row;
      const after = kept.add(column.matmul(change)).typed(before!.type);
      const asked = shared(qt!, queries, heads).unsqueeze([2]);
      const read = asked
        .matmul(shared(after, keys, heads))
        .squeeze([2])
        .mul(factor);
      return { states: [after], outputs: [read] };
    },
  });
  const y = mergeHeads(outputs[0]!.transpose([1, 2, 0, 3])).cast(q.dtype);
  return [y, states[0]];
});

/** Zeros [B, N, K, V] for keys [T, B, N, K] and values [T, B, N, V]. */
function stateOf(key: Expr, value: Expr): Expr {
  const { g } = key;
  const shape = [key.extent(1), key.extent(2), key.extent(3), value.extent(3)];
  return g
    .scalar(0, key.dtype)
    .expand(g.vector([key.dims(1), value.dims(3)]))
    .typed({ kind: 'tensor', dtype: key.dtype, shape });
}

/** Heads on axis 1, each repeated where there are fewer than `heads`. */
function shared(x: Expr, own: number, heads: number): Expr {
  if (own === heads) return x;
  const { g } = x;
  const wide = x.unsqueeze([2]).expand(g.vector([1, 1, heads / own, ...Array(x.rank - 2).fill(1)]));
  return wide.reshape(g.vector([x.dims(0, 1), heads, x.dims(2)]));
}
