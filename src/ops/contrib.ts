/** ONNX Runtime's own operators: what its optimizer makes of standard ones, written as these again. */
import type { AttrInit } from './core/builder.js';
import { float } from './core/builder.js';
import type { Expr } from './core/expr.js';
import { geluSlope } from './core/gelu.js';
import { expansion, type NodeView, type Rule, range, type Unary } from './core/rule.js';

export { Gelu } from './activation.js';

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

/** y = alpha op(a) @ op(b), where op may swap the last two axes, and before that may put the first axis before the last. */
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
  const y = x.op('Conv', [w, b], attributes(node, CONV));
  return [activated(z ? y.add(z) : y, node)];
});

/** The activation of a convolution, whose parameters come without their names. */
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

// ---- normalizations with what precedes them ----

type Skip = readonly [x: Expr, skip: Expr, gamma: Expr, beta?: Expr, bias?: Expr];

/** y = LayerNormalization(x + skip + bias), its mean and reciprocal deviation, and that sum. */
export const SkipLayerNormalization = expansion<Skip>(({ inputs, attrs, g }) => {
  const [x, skip, gamma, beta, bias] = inputs;
  const sum = skipped(x, skip, bias);
  const options = { epsilon: float(attrs.float('epsilon', 1e-12)) };
  const types = [sum.type, statistic(sum), statistic(sum)];
  return [...g.emit('LayerNormalization', [sum, gamma, beta], options, { outputs: 3, types }), sum];
});

/** y = SimplifiedLayerNormalization(x + skip + bias), the mean and the reciprocal norm, and that sum. */
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

/** The type of what is told of each row. */
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

/** y = LayerNormalization of the sum of the embeddings of words, positions and segments; the mask's count per row. */
export const EmbedLayerNormalization = expansion<Embed>(({ inputs, attrs }) => {
  const [ids, segments, words, positions, segmentTable, gamma, beta, mask, positionIds] = inputs;
  const places = positionIds ?? ids.dims(1, 2).iota().unsqueeze([0]);
  const base = words.gather(ids).add(positions.gather(places));
  const sum = segments && segmentTable ? base.add(segmentTable.gather(segments)) : base;
  const epsilon = float(attrs.float('epsilon', 1e-12));
  const counts = mask ? mask.sum([1]) : ids.zeros().sum([1]);
  return [sum.op('LayerNormalization', [gamma, beta], { epsilon }), counts.cast('int32'), sum];
});
