/** ONNX Runtime's fused operators, expanded into the standard operators that its optimizer fuses. */
import type { AttrInit } from '../core/builder.js';
import { float } from '../core/builder.js';
import type { Expr } from '../core/expr.js';
import { geluSlope } from '../core/gelu.js';
import {
  type Binary,
  expansion,
  type NodeView,
  normalizeAxis,
  type Rule,
  range,
  type Unary,
} from '../core/rule.js';

// Operators with the same definition as standard ones.
export { Gelu } from '../activation.js';
export { GatherND } from '../indexing.js';
export { Pad, Trilu, Unsqueeze as ExpandDims } from '../movement.js';
export { DequantizeLinear, QuantizeLinear } from '../quantization.js';
export { GridSample } from '../resampling.js';

// ---- activations ----

type Biased = Rule<readonly [Expr, Expr?], readonly [Expr]>;

const biasedGelu =
  (byTanh: boolean): Biased =>
  ([dy], { inputs: [x, bias] }) => {
    const dx = () => dy.mul(geluSlope(bias ? x.add(bias) : x, byTanh));
    return [dx, bias ? () => dx().sumTo(bias) : null];
  };

/** y = gelu(x + bias), by tanh. */
export const FastGelu = biasedGelu(true);

/** y = gelu(x + bias). */
export const BiasGelu = biasedGelu(false);

/** y = x * s with s = sigmoid(alpha x)  =>  dx = dy * (s + alpha y (1 - s)). */
export const QuickGelu: Unary = ([dy], node) => {
  const alpha = node.attrs.float('alpha', 1.702);
  const gate = () => node.inputs[0].mul(alpha).sigmoid();
  return [() => dy.mul(gate().add(node.output().mul(alpha).mul(gate().rsub(1))))];
};

// ---- products with what follows them ----

/** y = alpha op(a) @ op(b), where op may move the first axis before the last, and then may swap the last two axes. */
export const FusedMatMul = expansion<readonly [Expr, Expr]>(({ inputs: [a, b], attrs }) => {
  const operand = (x: Expr, name: string) => {
    if (x.rank < 2) return x;
    const batched = attrs.int(`transBatch${name}`, 0) ? batchFirst(x) : x;
    return attrs.int(`trans${name}`, 0) ? batched.mT : batched;
  };
  const alpha = attrs.float('alpha', 1);
  const y = operand(a, 'A').matmul(operand(b, 'B'));
  return [alpha === 1 ? y : y.mul(alpha)];
});

/** The same under its older name. */
export const TransposeMatMul = FusedMatMul;

/** [M, ..., K] to [..., M, K]. */
const batchFirst = (x: Expr) => x.transpose([...range(1, x.rank - 1), 0, x.rank - 1]);

/** y = activation(Gemm(a, b, c)). */
export const FusedGemm = expansion<readonly [Expr, Expr, Expr?]>(node => {
  const { inputs, attrs } = node;
  const [a, b, c] = inputs;
  const y = a.op('Gemm', [b, c], attributes(node, ['alpha', 'beta', 'transA', 'transB']));
  const given = { alpha: 'activation_alpha', beta: 'activation_beta', gamma: 'activation_gamma' };
  const options = Object.entries(given).flatMap(([name, from]) =>
    attrs.has(from) ? [[name, float(attrs.float(from, 0))]] : [],
  );
  return [y.op(attrs.string('activation', 'Identity'), [], Object.fromEntries(options))];
});

const CONV = ['auto_pad', 'dilations', 'group', 'kernel_shape', 'pads', 'strides'];

/** y = activation(Conv(x, w, b) + z). */
export const FusedConv = expansion<readonly [Expr, Expr, Expr?, Expr?]>(node => {
  const [x, w, b, z] = node.inputs;
  const y = x.op('Conv', [w, b], attributes(node, CONV), { types: [node.output().type] });
  return [activated(z ? y.add(z) : y, node)];
});

/** The activation of a fused convolution, whose parameters have no names. */
function activated(y: Expr, { attrs }: Pick<NodeView, 'attrs'>): Expr {
  const activation = attrs.string('activation', 'Identity');
  const [p = 0, q = 0] = attrs.floats('activation_params') ?? [];
  switch (activation) {
    case 'LeakyRelu':
      return y.op(activation, [], { alpha: float(p) });
    case 'HardSigmoid':
      return y.op(activation, [], { alpha: float(p), beta: float(q) });
    case 'Clip':
      return y.op(activation, [p, q]);
    default:
      return y.op(activation);
  }
}

function attributes({ node }: Pick<NodeView, 'node'>, names: readonly string[]): AttrInit {
  return Object.fromEntries([...node.attrs].filter(([name]) => names.includes(name)));
}

/** The input, preceded by its past, convolved channel by channel; and the past for the next input. */
export const CausalConvWithState = expansion<readonly [Expr, Expr, Expr?, Expr?]>(node => {
  const [given, w, b, before] = node.inputs;
  const { attrs, g } = node;
  const isLast = attrs.int('channels_last', 0) === 1;
  const channelsFirst = (e: Expr) => (isLast ? e.reshape(g.vector([e.dims(0, 2), -1])).mT : e);
  const channelsBack = (e: Expr) => (isLast ? e.mT.reshape(g.vector([0, 0, given.dims(2)])) : e);
  const [x, past] = [channelsFirst(given), before && channelsFirst(before)];
  if (attrs.int('state_window', 0)) node.unsupported("'state_window'");
  if (attrs.int('ndim', 1) !== 1) node.unsupported('several spatial axes');
  const [dilation, taps, group] = [attrs.int('dilation', 1), w.extent(2), w.extent(0)];
  if (typeof taps !== 'number' || typeof group !== 'number')
    return node.unsupported('a kernel whose extents are not known before the run');
  const reach = (taps - 1) * dilation;
  const all = past ? past.concat([x], 2) : x.pad(g.ints([reach, 0]), g.ints([2]));
  const y = all.op(
    'Conv',
    [w, b],
    { dilations: [dilation], group, kernel_shape: [taps] },
    { types: [x.type] },
  );
  const isGated = /silu|swish/.test(attrs.string('activation', 'none'));
  const state = all.slice(all.dims(2).sub(reach), all.dims(2), [2]);
  return [channelsBack(isGated ? y.mul(y.sigmoid()) : y), channelsBack(state)];
});

// ---- sums and norms with gates ----

/** x + y * gate, with one gate per row. */
export const GatedAdd = expansion<readonly [Expr, Expr, Expr]>(({ inputs: [x, y, gate] }) => [
  x.add(y.mul(gate)),
]);

/** RMSNormalization over groups, whose size is the number of scales, times silu(gate). */
export const GatedRMSNorm = expansion<readonly [Expr, Expr, Expr]>(
  ({ inputs: [x, scale, gate], attrs, g }) => {
    const groups = x.reshape(g.vector([x.dims(0, -1), -1, scale.dims()]));
    const epsilon = float(attrs.float('epsilon', 1e-5));
    const y = groups.op('SimplifiedLayerNormalization', [scale], { axis: -1, epsilon }).reshapeLike(x);
    return [y.mul(gate).mul(gate.sigmoid())];
  },
);

// ---- products ----

/** Y = X^-1 of each matrix  =>  dX = -Y^T dY Y^T. */
export const Inverse: Unary = ([dy], node) => {
  const turned = () => node.output().mT;
  return [() => turned().matmul(dy).matmul(turned()).neg()];
};

/**
 * c[i,j] = |a[i] - b[j]|, or its square  =>  with s = dc / c, or 2 dc: da[i] = sum over j of s[i,j] (a[i] - b[j]),
 * db[j] = sum over i of s[i,j] (b[j] - a[i]). Where c = 0 they are 0.
 */
export const CDist: Binary = ([dc], node) => {
  const [a, b] = node.inputs;
  const metric = node.attrs.string('metric', 'sqeuclidean');
  if (!/^(sq)?euclidean$/.test(metric)) node.unsupported(`metric '${metric}'`);
  const c = node.output();
  const s = () => (metric === 'euclidean' ? dc.div(c.equal(0).where(1, c)) : dc.mul(2));
  return [
    () => a.mul(s().sum([1], { keepdims: true })).sub(s().matmul(b)),
    () => b.mul(s().sum([0]).unsqueeze([1])).sub(s().transpose([1, 0]).matmul(a)),
  ];
};

/** All slices of `size` elements along an axis, `step` apart, with their elements on a new last axis. */
export const UnfoldTensor = expansion<readonly [Expr]>(({ inputs: [x], attrs }) => {
  const axis = normalizeAxis(attrs.int('dim', -1), x);
  const [size, step] = [attrs.int('size', 1), attrs.int('step', 1)];
  const extent = x.dims(axis, axis + 1);
  const starts = extent.sub(size).div(step).add(1).iota().mul(step);
  const slices = x.gather(starts.unsqueeze([1]).add(x.g.ints(range(0, size))), axis);
  const perm = range(0, x.rank + 1).filter(i => i !== axis + 1);
  return [slices.transpose([...perm, axis + 1])];
});

// ---- normalizations with what precedes them ----

type Skip = readonly [x: Expr, skip: Expr, gamma: Expr, beta?: Expr, bias?: Expr];

/** y = LayerNormalization(x + skip + bias), with its mean and reciprocal deviation, and the sum. */
export const SkipLayerNormalization = expansion<Skip>(({ inputs, attrs, g }) => {
  const [x, skip, gamma, beta, bias] = inputs;
  const sum = skipped(x, skip, bias);
  const options = { epsilon: float(attrs.float('epsilon', 1e-12)) };
  const types = [sum.type, statistic(sum), statistic(sum)];
  return [...g.emit('LayerNormalization', [sum, gamma, beta], options, { outputs: 3, types }), sum];
});

/** y = SimplifiedLayerNormalization(x + skip + bias), with the mean and the reciprocal norm, and the sum. */
export const SkipSimplifiedLayerNormalization = expansion<readonly [Expr, Expr, Expr, Expr?]>(
  ({ inputs: [x, skip, gamma, bias], attrs, g }) => {
    const sum = skipped(x, skip, bias);
    const options = { epsilon: float(attrs.float('epsilon', 1e-5)) };
    const types = [sum.type, statistic(sum)];
    const [y, inv] = g.emit('SimplifiedLayerNormalization', [sum, gamma], options, { outputs: 2, types });
    return [y, sum.mean([-1], { keepdims: true }), inv, sum];
  },
);

const skipped = (x: Expr, skip: Expr, bias: Expr | undefined) => (bias ? x.add(skip).add(bias) : x.add(skip));

/** The type of a statistic with one number per row. */
const statistic = (x: Expr) =>
  ({ kind: 'tensor', dtype: 'float32', shape: x.shape && [...x.shape.slice(0, -1), 1] }) as const;

type Embed = readonly [
  ids: Expr,
  segments: Expr | undefined,
  words: Expr,
  positions: Expr,
  segmentTable: Expr | undefined,
  gamma: Expr,
  beta: Expr,
  mask?: Expr,
  positionIds?: Expr,
];

/**
 * y = LayerNormalization of the sum of the embeddings of words, positions and segments; and the count of the mask per
 * row.
 */
export const EmbedLayerNormalization = expansion<Embed>(({ inputs, attrs }) => {
  const [ids, segments, words, positions, segmentTable, gamma, beta, mask, positionIds] = inputs;
  const places = positionIds ?? ids.dims(1, 2).iota().unsqueeze([0]);
  const base = words.gather(ids).add(positions.gather(places));
  const sum = segments && segmentTable ? base.add(segmentTable.gather(segments)) : base;
  const epsilon = float(attrs.float('epsilon', 1e-12));
  const counts = mask ? mask.sum([1]) : ids.zeros().sum([1]);
  return [sum.op('LayerNormalization', [gamma, beta], { epsilon }), counts.cast('int32'), sum];
});
