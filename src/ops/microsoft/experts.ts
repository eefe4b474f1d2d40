/** Mixtures of experts: for each row of the input, a router selects the experts with the largest weights. */
import type { Node } from '../../graph/ir.js';
import type { Expr } from '../core/expr.js';
import { unpacked } from '../core/levels.js';
import { Attributes, expansionWithForms, type NodeView } from '../core/rule.js';
import { scan } from '../core/scan.js';

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

/** Whether gates are not interleaved with what they gate, which is the only form of kernels for the CPU. */
const isGatedApart = (third: number) => (node: Node) => {
  const attrs = new Attributes(node);
  const isGated = attrs.string('activation_type', 'relu') === 'swiglu';
  return !!node.inputs[third] || (isGated && attrs.int('swiglu_fusion', 0) !== 1);
};

/**
 * y = sum over the k largest weights of weight * (w2 activation(w1 x + b1) + b2), where the weights are the softmax of
 * the router's scores; w3 x + b3 multiplies the activation where there are such weights. All experts compute all rows,
 * and the weights of those that are not selected are 0: more work by a factor of experts / k, but in a few large products.
 */
export const MoE = expansionWithForms<Experts>(isGatedApart(6), node => {
  const [x, router, w1, b1, w2, b2, w3, b3] = node.inputs;
  const hidden = w2.extent(1);
  if (typeof hidden !== 'number' || hidden !== w1.extent(2))
    node.unsupported('weights other than [experts, outputs, inputs] of known extents');
  const rows = x.reshape([1, -1, hidden as number]);
  const linear = (w: Expr, b: Expr | undefined) => (e: Expr) => {
    const product = e.matmul(w.mT);
    return b ? product.add(b.unsqueeze([1])) : product;
  };
  const [up, down] = [linear(w1, b1), linear(w2, b2)];
  const outer = down(activated(rows, [up, w3 && linear(w3, b3)], node));
  return [
    outer
      .mul(perExpert(chosen(router, node)))
      .sum([0])
      .reshapeLike(x),
  ];
});

type Quantized = readonly [
  ...[x: Expr, router: Expr],
  ...[w1: Expr, s1: Expr | undefined, b1: Expr | undefined],
  ...[w2: Expr, s2: Expr | undefined, b2: Expr | undefined],
  ...[w3: Expr | undefined, s3: Expr | undefined, b3: Expr | undefined],
  ...[z1?: Expr, z2?: Expr, z3?: Expr, weights?: Expr],
];

/**
 * The same with weights of a few bits, in rows or blocks that share scale and zero point. One expert after the other is
 * dequantized while the graph runs: the runtime would keep what depends on constants only as floating-point numbers. As in
 * the runtime's kernel for the CPU, weights are their share in those of the k experts.
 */
export const QMoE = expansionWithForms<Quantized>(isGatedApart(8), node => {
  const [x, router, w1, s1, b1, w2, s2, b2, w3, s3, b3, z1, z2, z3, weights] = node.inputs;
  const { attrs, g } = node;
  const type = attrs.string('quant_type', 'int');
  if (type !== 'int') node.unsupported(`quant_type '${type}'`);
  if (attrs.int('weights_prepacked', -1) === 1) node.unsupported("'weights_prepacked'");
  const bits = attrs.int('expert_weight_bits', 4);
  const hidden = w2.extent(1);
  const isKnown = [w1, w2, w3].every(w => !w || w.staticShape);
  if (typeof hidden !== 'number' || !isKnown)
    return node.unsupported('weights other than [experts, outputs, inputs] of known extents');
  const rows = x.reshape([-1, hidden]);
  const layers = [
    [w1, s1, b1, z1],
    [w2, s2, b2, z2],
    [w3, s3, b3, z3],
  ];
  const gates = perExpert(chosen(router, node, { isShared: !weights, weights }));
  const { outputs } = scan(g, {
    states: [],
    inputs: [gates, ...layers.flat().filter(e => e !== undefined)],
    body: (b, _, [gate, ...slices]) => {
      const own = layers.map(layer => layer.map(e => e && slices.shift()!));
      const linear = ([w, scale, bias, zero]: (Expr | undefined)[]) => {
        if (!w) return undefined;
        const number = numbersOf(w, [scale, zero], { bits, dtype: x.dtype });
        return (e: Expr) => (bias ? e.matmul(number.mT).add(bias) : e.matmul(number.mT));
      };
      const [up, down, gating] = own.map(linear);
      return { states: [], outputs: [down!(activated(b.of(rows.value), [up!, gating], node)).mul(gate!)] };
    },
  });
  return [outputs[0]!.sum([0]).reshapeLike(x)];
});

/** The numbers [outputs, inputs] that the weight of an expert stands for. */
function numbersOf(
  w: Expr,
  [scale, zero]: readonly [Expr | undefined, Expr | undefined],
  { bits, dtype }: { bits: number; dtype: Expr['dtype'] },
): Expr {
  const [outputs, bytes] = w.staticShape as [number, number];
  const inputs = (bytes * 8) / bits;
  const byBlock = (e: Expr) => e.reshape([outputs, -1, 1]);
  const levels = unpacked(w, bits).cast(dtype);
  const center = zero ? byBlock(unpacked(zero, bits).cast(dtype)) : 2 ** (bits - 1);
  if (!scale) return levels.reshape([outputs, inputs]).sub(2 ** (bits - 1));
  const blocks = scale.rank === 1 ? 1 : (scale.extent(1) as number);
  const spread = levels.reshape([outputs, blocks, inputs / blocks]);
  return spread.sub(center).mul(byBlock(scale)).reshape([outputs, inputs]);
}

/** [rows, experts] to [experts, rows, 1]. */
const perExpert = (gates: Expr) => gates.transpose([1, 0]).unsqueeze([2]);

type Choice = {
  /** Whether weights are divided by their sum. */
  isShared?: boolean;
  /** Weights of the experts that are not the softmax of the scores. */
  weights?: Expr;
};

/** The weights of the experts with the k largest scores, and 0 elsewhere. */
function chosen(router: Expr, { g, attrs }: Pick<NodeView, 'g' | 'attrs'>, choice: Choice = {}): Expr {
  const scores = router.op('Softmax', [], { axis: 1 });
  const [largest, places] = g.emit(
    'TopK',
    [scores, g.ints([attrs.int('k', 1)])],
    { axis: 1 },
    { outputs: 2 },
  );
  const own = choice.weights ? choice.weights.gatherElements(places!, 1) : largest!;
  const isShared = choice.isShared || attrs.int('normalize_routing_weights', 0) === 1;
  const weights = isShared ? own.div(own.sum([1], { keepdims: true })) : own;
  return router.zeros().scatterElements(places!, weights, 1);
}

type Linear = (x: Expr) => Expr;
type View = Pick<NodeView, 'attrs' | 'unsupported'>;

/** What the second layer reads. */
function activated(x: Expr, [up, gating]: readonly [Linear, Linear | undefined], node: View): Expr {
  const { attrs } = node;
  if (attrs.int('use_sparse_mixer', 0)) node.unsupported("'use_sparse_mixer'");
  const type = attrs.string('activation_type', 'relu');
  const h = up(x);
  if (type === 'swiglu') return gated(gating ? [h, gating(x)] : parts(h, node), node);
  const y = activation(h, type, node);
  return gating ? y.mul(gating(x)) : y;
}

function activation(h: Expr, type: string, node: View): Expr {
  switch (type) {
    case 'identity':
      return h;
    case 'relu':
      return h.relu();
    case 'silu':
      return h.mul(h.sigmoid());
    case 'gelu':
      return h.op('FastGelu', [], {}, { domain: 'com.microsoft', types: [h.type] });
    default:
      return node.unsupported(`activation_type '${type}'`);
  }
}

/** Gates and what they gate: one after the other along the last axis, or interleaved. */
function parts(h: Expr, { attrs }: View): readonly [Expr, Expr] {
  const last = [h.rank - 1];
  const end = [Number.MAX_SAFE_INTEGER];
  if (attrs.int('swiglu_fusion', 0) === 2) {
    const half = h.dims(-1).div(2);
    return [h.slice([0], half, last), h.slice(half, end, last)];
  }
  return [h.slice([0], end, last, [2]), h.slice([1], end, last, [2])];
}

/** gate sigmoid(alpha gate) (value + beta), both limited. */
function gated([gate, value]: readonly [Expr, Expr], { attrs }: View): Expr {
  const limit = attrs.float('swiglu_limit', Infinity);
  const isLimited = limit < Infinity;
  const open = isLimited ? gate.minimum(limit) : gate;
  const passed = isLimited ? value.minimum(limit).maximum(-limit) : value;
  return open
    .mul(open.mul(attrs.float('activation_alpha', 1)).sigmoid())
    .mul(passed.add(attrs.float('activation_beta', 0)));
}
