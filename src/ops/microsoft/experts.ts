/** Mixtures of experts: for each row of the input, a router selects the experts with the largest weights. */
import type { Expr } from '../core/expr.js';
import { expansion, type NodeView } from '../core/rule.js';

type Experts = readonly [
  x: Expr,
  router: Expr,
  w1: Expr,
  b1: Expr | undefined,
  w2: Expr,
  b2?: Expr,
  w3?: Expr,
  b3?: Expr,
];

/**
 * y = sum over the k largest weights of weight * (w2 activation(w1 x + b1) + b2), where the weights are the softmax of
 * the router's scores. All experts compute all rows, and the weights of those that are not selected are 0: more work by
 * a factor of experts / k, but in a few large products.
 */
export const MoE = expansion<Experts>(node => {
  const { attrs, inputs } = node;
  const [x, router, w1, b1, w2, b2, w3, b3] = inputs;
  if (w3 || b3) node.unsupported("'fc3_experts_weights'");
  if (attrs.int('use_sparse_mixer', 0)) node.unsupported("'use_sparse_mixer'");
  const hidden = w2.extent(1);
  if (typeof hidden !== 'number' || hidden !== w1.extent(2))
    node.unsupported('weights other than [experts, outputs, inputs] of known extents');
  const rows = x.reshape([1, -1, hidden as number]);
  const biased = (e: Expr, bias: Expr | undefined) => (bias ? e.add(bias.unsqueeze([1])) : e);
  const inner = activated(biased(rows.matmul(w1.mT), b1), node);
  const outer = biased(inner.matmul(w2.mT), b2);
  const gates = chosen(router, node).transpose([1, 0]).unsqueeze([2]);
  const y = outer.mul(gates).sum([0]);
  return [y.reshapeLike(x)];
});

/** The weights of the k largest scores, and 0 elsewhere. */
function chosen(router: Expr, { g, attrs }: NodeView<Experts>): Expr {
  const [largest, places] = g.emit(
    'TopK',
    [router.op('Softmax', [], { axis: 1 }), g.ints([attrs.int('k', 1)])],
    { axis: 1 },
    { outputs: 2 },
  );
  const isShared = attrs.int('normalize_routing_weights', 0) === 1;
  const weights = isShared ? largest!.div(largest!.sum([1], { keepdims: true })) : largest!;
  return router.zeros().scatterElements(places!, weights, 1);
}

function activated(h: Expr, node: NodeView<Experts>): Expr {
  const { attrs } = node;
  const type = attrs.string('activation_type', 'relu');
  switch (type) {
    case 'identity':
      return h;
    case 'relu':
      return h.relu();
    case 'silu':
      return h.mul(h.sigmoid());
    case 'gelu':
      return node.g.emit('FastGelu', [h], {}, { domain: 'com.microsoft', types: [h.type] })[0]!;
    case 'swiglu':
      return gated(h, node);
    default:
      return node.unsupported(`activation_type '${type}'`);
  }
}

/** Gates and gated values are interleaved along the last axis, the only form that the runtime loads on the CPU. */
function gated(h: Expr, { attrs }: NodeView<Experts>): Expr {
  const every = (start: number) => h.slice([start], [Number.MAX_SAFE_INTEGER], [-1], [2]);
  const limit = attrs.float('swiglu_limit', Infinity);
  const [gate, passed] =
    limit < Infinity
      ? [every(0).minimum(limit), every(1).minimum(limit).maximum(-limit)]
      : [every(0), every(1)];
  const open = gate.mul(attrs.float('activation_alpha', 1)).sigmoid();
  return gate.mul(open).mul(passed.add(attrs.float('activation_beta', 0)));
}
