/** Clips the gradients of single samples without computing them, by their norms (ghost clipping). */
import { dependentValues, reads } from '../../graph/dependents.js';
import type { Node, Value } from '../../graph/ir.js';
import { record } from '../../graph/record.js';
import type { Builder } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import { range } from '../../ops/core/rule.js';
import { type BackwardOptions, backward } from './backward.js';
import { clipFactor, normOf, type SampleInputs } from './separate-samples.js';

/** How a layer reads a trained parameter: the node, and the position among its inputs. */
export type Layer = { param: Value; node: Node; index: number };

/**
 * The squared 2-norm of the gradient by a parameter for each sample [batch], from the layer's inputs and the cotangent of
 * its output, both of which have a row for each sample: `dy` of the sum of the samples' losses. The gradients themselves
 * are not computed: ghost clipping (Li, Tramer, Liang, Hashimoto: Large Language Models Can Be Strong Differentially
 * Private Learners, 2022; Goodfellow: Efficient Per-Example Gradient Computations, 2015).
 */
type NormRule = (dy: Expr, inputs: readonly Expr[], index: number, node: Node) => Expr;

/** Sums of the elements of each sample. */
const perSample = (x: Expr) => (x.rank > 1 ? x.sum(range(1, x.rank)) : x);

/** y = x + b  =>  db = the sum of dy over the axes that b lacks. */
const shift: NormRule = (dy, inputs, index) => {
  const b = inputs[index]!;
  const lead = dy.rank - b.rank;
  const spread = range(1, dy.rank).filter(a => a < lead || b.shape![a - lead] === 1);
  return perSample(dy.sum(spread, { keepdims: true }).square());
};

/**
 * Y = X W with positions t of a sample: dW = sum_t x_t dy_t^T, and |dW|^2 = sum_{t,u} (x_t . x_u) (dy_t . dy_u), which is
 * |x|^2 |dy|^2 for one position.
 */
const product: NormRule = (dy, [x]) => gram(dy, x!);

function gram(dy: Expr, x: Expr): Expr {
  if (dy.rank === 2) return perSample(x.square()).mul(perSample(dy.square()));
  const flat = (e: Expr) => (e.rank === 3 ? e : e.reshape(positions(e)));
  const [a, d] = [flat(x), flat(dy)];
  return perSample(a.matmul(a.mT).mul(d.matmul(d.mT)));
}

/** [batch, positions, features] */
const positions = (e: Expr) => e.g.vector([0, -1, e.op('Shape', [], { start: -1 })]);

const RULES = record<NormRule>({
  MatMul: product,
  Gemm(dy, inputs, index, node) {
    const factor = (name: string) => {
      const attr = node.attrs.get(name);
      return attr?.type === 'float' ? attr.value : 1;
    };
    const [norm, scale] =
      index === 1
        ? [product(dy, inputs, index, node), factor('alpha')]
        : [shift(dy, inputs, index, node), factor('beta')];
    return scale === 1 ? norm : norm.mul(scale ** 2);
  },
  Add: shift,
  /** y = x s  =>  ds = the sum of dy x over the axes that s lacks. */
  Mul: (dy, inputs, index, node) => shift(dy.mul(inputs[1 - index]!), inputs, index, node),
  /** Row i of the table is the sum of dy_t over the positions t that look it up. */
  Gather(dy, [, ids]) {
    const rows = ids!.rank === 1 ? ids!.unsqueeze([1]) : ids!.reshape(ids!.g.ints([0, -1]));
    const d = ids!.rank === 1 ? dy.unsqueeze([1]) : dy.rank === 3 ? dy : dy.reshape(positions(dy));
    const same = rows
      .unsqueeze([2])
      .equal(rows.unsqueeze([1]))
      .cast(d.dtype);
    return perSample(same.mul(d.matmul(d.mT)));
  },
  /** y = n s + b with the normalized input n  =>  ds = sum of dy n, db = sum of dy. */
  LayerNormalization(dy, inputs, index, node) {
    if (index === 2) return shift(dy, inputs, index, node);
    const axis = -1;
    const x = inputs[0]!;
    const wide = x.dtype === 'float64' ? x : x.cast('float32');
    const centered = wide.sub(wide.mean([axis], { keepdims: true }));
    const attr = node.attrs.get('epsilon');
    const epsilon = attr?.type === 'float' ? attr.value : 1e-5;
    const deviation = centered.square().mean([axis], { keepdims: true }).add(epsilon).sqrt();
    return shift(dy.mul(centered.div(deviation).cast(dy.dtype)), inputs, index, node);
  },
});

/** The layer of each parameter, or the reason why one of them has none. */
export function ghostLayers(trained: readonly Value[]): Layer[] | string {
  const layers: Layer[] = [];
  for (const param of trained) {
    const [use, ...others] = param.uses;
    const inner = param.readers.some(node => node.inputs.every(v => v !== param));
    if (!use || others.length || inner) return `'${param.name}' is not read by one layer`;
    const { node, index } = use;
    const { opType, domain } = node;
    const fits =
      domain === '' &&
      (opType === 'MatMul'
        ? index === 1 && param.shape?.length === 2
        : opType === 'Gemm'
          ? index > 0 && (index === 1 || param.shape?.length === 1)
          : opType === 'Gather'
            ? index === 0 && axisOf(node, 0) === 0
            : opType === 'LayerNormalization'
              ? index > 0 && isLast(node) && param.shape?.length === 1
              : opType === 'Add' || opType === 'Mul');
    const output = node.outputs[0]!;
    const isSmaller =
      !['Add', 'Mul'].includes(opType) || (param.shape?.length ?? 9) < (output.shape?.length ?? 0);
    if (!fits || !isSmaller) return `no rule for ${node.label}, which reads '${param.name}'`;
    layers.push({ param, node, index });
  }
  return layers;
}

function axisOf(node: Node, otherwise: number): number {
  const attr = node.attrs.get('axis');
  return attr?.type === 'int' ? Number(attr.value) : otherwise;
}

function isLast(node: Node): boolean {
  const axis = axisOf(node, -1);
  return axis === -1 || axis === (node.inputs[0]!.shape?.length ?? 0) - 1;
}

/** The operators that compute each element from the elements at its place. */
const ELEMENTWISE = new Set(
  (
    'Abs Add And Cast Ceil Celu Clip Cos Div Dropout Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid ' +
    'HardSwish Identity IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Min Mish Mod Mul Neg Not Or Pow PRelu Reciprocal ' +
    'Relu Round Selu Sigmoid Sign Sin Softplus Softsign Sqrt Sub Sum Tanh ThresholdedRelu Where Xor'
  ).split(' '),
);

/** Those that compute each sample of their first input by itself, whatever their attributes. */
const BY_SAMPLE = new Set(
  'Conv ConvTranspose MaxPool AveragePool GlobalAveragePool GlobalMaxPool LpPool InstanceNormalization GroupNormalization'.split(
    ' ',
  ),
);

/** Those that keep an axis unless their attribute names it. */
const ALONG_AXIS = record<number>({
  Softmax: -1,
  LogSoftmax: -1,
  LayerNormalization: -1,
  Concat: 0,
  Split: 0,
  GatherElements: 0,
});

/**
 * The values that have a row for each sample which depends on that sample alone, if the rows of `losses` [batch] do, as
 * far as the operators in between are known to; else the operator that may mix samples.
 */
export function rowsOfSamples(
  g: Builder,
  { inputs, batch }: SampleInputs,
  losses: Value,
): ReadonlySet<Value | null> | string {
  const data = dependentValues(g.graph.nodes, inputs);
  const byRow = new Set<Value | null>(inputs);
  const first = (v: Value | null | undefined) => v?.shape?.[0];
  const needed = new Set<Value | null>([losses]);
  const nodes: Node[] = [];
  for (const node of g.graph.nodes.toReversed()) {
    if (!node.outputs.some(v => needed.has(v))) continue;
    for (const v of reads(node)) needed.add(v);
    if (reads(node).some(v => data.has(v))) nodes.unshift(node);
  }
  /** Values that depend on the batch only through its size. */
  const sizes = new Set<Value | null>();
  for (const node of nodes) {
    const read = reads(node).filter(v => data.has(v));
    if (['Shape', 'Size'].includes(node.opType) || read.every(v => sizes.has(v))) {
      for (const v of node.outputs) sizes.add(v);
      continue;
    }
    if (
      node.domain !== '' ||
      !keepsRows(
        node,
        byRow,
        v => data.has(v) && !sizes.has(v),
        g,
        v => first(v) === batch,
      )
    )
      return node.label;
    for (const v of node.outputs) byRow.add(v);
  }
  return byRow.has(losses) ? byRow : `'${losses.name}'`;
}

function keepsRows(
  node: Node,
  byRow: ReadonlySet<Value | null>,
  varies: (v: Value) => boolean,
  g: Builder,
  isBatch: (v: Value | null | undefined) => boolean,
): boolean {
  const { opType, inputs, outputs } = node;
  const [output] = outputs;
  const rank = output?.shape?.length;
  const [x, y] = inputs;
  const constants = inputs.slice(1).every(v => !v || !varies(v));
  if (!inputs.every(v => !v || byRow.has(v) || !varies(v)) || !rank || node.subgraphs().length) return false;
  if (ELEMENTWISE.has(opType)) return inputs.every(v => !v || !byRow.has(v) || v.shape?.length === rank);
  if (BY_SAMPLE.has(opType)) return byRow.has(x!) && constants;
  if (opType in ALONG_AXIS) {
    const axis = axisOf(node, ALONG_AXIS[opType]!);
    const own = opType === 'LayerNormalization' ? rank : (x?.shape?.length ?? rank);
    const isAligned = inputs.every(v => !v || !byRow.has(v) || v.shape?.length === own);
    return axis !== 0 && axis !== -own && byRow.has(x!) && isAligned;
  }
  switch (opType) {
    case 'MatMul':
      return (
        byRow.has(x!) &&
        rank >= 2 &&
        x!.shape?.length === rank &&
        (byRow.has(y!) ? y!.shape?.length === rank && rank > 2 : y!.shape?.length === 2)
      );
    case 'Gemm': {
      const transA = node.attrs.get('transA');
      return (
        byRow.has(x!) &&
        constants &&
        !(transA?.type === 'int' && Number(transA.value)) &&
        (inputs[2]?.shape?.length ?? 0) < 2
      );
    }
    case 'Gather':
      return byRow.has(x!) ? constants && axisOf(node, 0) > 0 : byRow.has(y!) && axisOf(node, 0) === 0;
    case 'Transpose': {
      const perm = node.attrs.get('perm');
      return perm?.type === 'ints' && Number(perm.value[0]) === 0;
    }
    case 'Flatten':
      return axisOf(node, 1) === 1;
    case 'Reshape':
      // The first extents being the same, the elements of a sample stay together.
      return isBatch(x) && isBatch(output);
    case 'Squeeze':
    case 'Unsqueeze':
      return isBatch(x) && isBatch(output);
    case 'ReduceSum':
    case 'ReduceMean':
    case 'ReduceMax':
    case 'ReduceMin':
    case 'ReduceL2':
    case 'ReduceSumSquare': {
      const axes = y && g.constant(y)?.numbers();
      const own = x?.shape?.length;
      return !!axes?.length && own !== undefined && axes.every(a => a !== 0 && a !== -own);
    }
    case 'Slice': {
      const axes = inputs[3] && g.constant(inputs[3])?.numbers();
      return !!axes && constants && axes.every(a => a > 0);
    }
    default:
      return false;
  }
}

/**
 * Adds two backward passes over the whole batch: one for the norms of the samples' gradients by all layers together, one
 * of the losses weighted such that each sample's gradient is clipped. Returns the sums over the samples.
 */
export function clipByGhostNorms(
  g: Builder,
  losses: Value,
  layers: readonly Layer[],
  trained: readonly Value[],
  clip: number,
  options: BackwardOptions,
): (Expr | undefined)[] {
  const outputs = [...new Set(layers.map(({ node }) => node.outputs[0]!))];
  const dys = backward(g, new Map([[losses, g.of(losses).ones()]]), outputs, options);
  const squares = layers.flatMap(({ node, index }) => {
    const dy = dys[outputs.indexOf(node.outputs[0]!)];
    if (!dy) return [];
    const inputs = node.inputs.map(v => g.of(v!).wide());
    return [RULES[node.opType]!(dy.wide(), inputs, index, node)];
  });
  const norm = normOf(squares);
  if (!norm) return trained.map(() => undefined);
  const { factor } = clipFactor(norm, clip);
  return backward(g, new Map([[losses, factor.cast(losses.dtype!)]]), trained, options);
}
