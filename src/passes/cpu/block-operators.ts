import type { Graph, Node, Value } from '../../graph/ir.js';
import type { Tensor } from '../../graph/tensor.js';
import type { Expr } from '../../ops/core/expr.js';
import { Attributes } from '../../ops/core/rule.js';
import { transposed } from './block-transposed.js';
import { type Blocks, type InBlocks, isImage, isReorder, type Sum } from './blocks.js';

/** Eight such nodes of a batch normalization and its gradient save what one reordering takes. */
const GAIN = 1 / 8;

/** Operators of one element each. */
const ELEMENTWISE = new Set(
  'Relu HardSigmoid HardSwish Sigmoid Tanh Clip LeakyRelu Elu Selu Celu Softplus Softsign Erf Gelu Mish Neg Abs Sign Exp Log Sqrt Reciprocal Identity Add Sub Mul Div Max Min Sum'.split(
    ' ',
  ),
);

/** The nodes of a graph that can run in blocks of channels. */
export function blockOperators(
  graph: Graph,
  block: number,
  constant: (value: Value) => Tensor | undefined,
): Map<Node, InBlocks> {
  const found = new Map<Node, InBlocks>();
  for (const node of graph.nodes) {
    const made =
      node.domain === ''
        ? (normalized(node, block) ??
          affine(node, block) ??
          reduced(node, block, constant) ??
          dots(node, block) ??
          transposed(node, block) ??
          elementwise(node, block))
        : reordered(node, block);
    if (made) found.set(node, made);
  }
  return found;
}

function reordered(node: Node, block: number): InBlocks | undefined {
  const [x] = node.inputs;
  if (!isReorder(node) || !isImage(x, block)) return undefined;
  return { isFixed: true, reads: [x], write: b => b.g.identity(b.of(x).value, node.outputs[0]!) };
}

const isSame = (a: Value, b: Value) => `${a.shape}` === `${b.shape}`;

/** Of images of the same extents, and of single numbers. */
function elementwise(node: Node, block: number): InBlocks | undefined {
  const [y] = node.outputs;
  if (!ELEMENTWISE.has(node.opType) || !isImage(y, block) || node.outputs.length > 1) return undefined;
  const reads = node.inputs.filter(v => isImage(v, block) && isSame(v, y)) as Value[];
  const isSingle = (v: Value | null) => !v || (v.shape && v.shape.length < 5 && v.shape.every(d => d === 1));
  if (!reads.length || !node.inputs.every(v => reads.includes(v!) || isSingle(v))) return undefined;
  const adds = node.opType === 'Relu' || (node.opType === 'Add' && reads.length === 2);
  return {
    reads,
    image: y,
    adds,
    write(b) {
      if (node.opType === 'Relu') return b.put(y, only(b.written(b.sumOf(reads[0]!), y.type, true)));
      if (adds) {
        const [first, second] = reads.map(v => b.sumOf(v)) as [Sum, Sum];
        return b.put(y, {
          ready: [...first.ready, ...second.ready],
          convolutions: [...first.convolutions, ...second.convolutions],
          biases: [...first.biases, ...second.biases],
        });
      }
      const inputs = node.inputs.map(v => (v ? (reads.includes(v) ? b.of(v) : b.g.of(v)) : undefined));
      const options = { types: [y.type] };
      const [made] =
        node.opType === 'Identity'
          ? inputs
          : b.g.emit(node.opType, inputs, Object.fromEntries(node.attrs), options);
      b.put(y, only(made!));
    },
  };
}

const only = (e: Expr): Sum => ({ ready: [e], convolutions: [], biases: [] });

/** Whether a value has a number for each channel of an image, along the axis of the channels. */
function isPerChannel(v: Value | null | undefined, image: Value): v is Value {
  const shape = v?.shape ?? [];
  const c = image.shape![1];
  return v?.dtype === 'float32' && [`${c},1,1`, `1,${c},1,1`].includes(`${shape}`);
}

/** Sums, differences and products of images and a number per channel. */
function affine(node: Node, block: number): InBlocks | undefined {
  const [a, b] = node.inputs;
  const [y] = node.outputs;
  if (!['Add', 'Sub', 'Mul'].includes(node.opType) || !isImage(y, block)) return undefined;
  const isSwapped = node.opType !== 'Sub' && isImage(b, block) && isPerChannel(a, b);
  const [x, k] = isSwapped ? [b, a] : [a, b];
  if (!isImage(x, block) || !isSame(x, y) || !isPerChannel(k, x)) return undefined;
  return {
    reads: [x],
    image: y,
    gain: GAIN,
    adds: node.opType !== 'Mul',
    write(blocks) {
      const factor = blocks.g.of(k);
      if (node.opType === 'Mul') return blocks.put(y, product(blocks, x, factor));
      const sum = blocks.sumOf(x);
      const bias = vector(node.opType === 'Sub' ? factor.neg() : factor, x);
      blocks.put(y, { ...sum, biases: [...sum.biases, bias] });
    },
  };
}

const vector = (e: Expr, image: Value) => e.reshape([image.shape![1] as number]);

const product = (blocks: Blocks, x: Value, k: Expr, biases: readonly Expr[] = []): Sum => ({
  ready: [],
  convolutions: [blocks.scaled(blocks.of(x), k)],
  biases,
});

/** Batch normalization by given statistics. */
function normalized(node: Node, block: number): InBlocks | undefined {
  const [x, ...vectors] = node.inputs;
  const [y] = node.outputs;
  const attrs = new Attributes(node);
  const isOf =
    node.opType === 'BatchNormalization' && !attrs.int('training_mode', 0) && node.outputs.length === 1;
  if (!isOf || !isImage(x, block) || !isImage(y, block)) return undefined;
  if (vectors.some(v => v?.dtype !== 'float32')) return undefined;
  return {
    reads: [x],
    image: y,
    gain: GAIN,
    write(blocks) {
      const [scale, bias, mean, variance] = vectors.map(v => blocks.g.of(v!)) as [Expr, Expr, Expr, Expr];
      const k = scale.mul(variance.add(attrs.float('epsilon', 1e-5)).sqrt().reciprocal());
      blocks.put(y, product(blocks, x, k, [bias.sub(mean.mul(k))]));
    },
  };
}

/** The mean of each channel of each image. */
function means(blocks: Blocks, x: Expr): Expr {
  const shape = [...x.shape!.slice(0, 2), 1, 1];
  return blocks.emit('GlobalAveragePool', [x], {}, { kind: 'tensor', dtype: 'float32', shape });
}

const pixelsOf = (image: Value) => (image.shape![2] as number) * (image.shape![3] as number);

/** Sums and means of each channel. */
function reduced(
  node: Node,
  block: number,
  constant: (value: Value) => Tensor | undefined,
): InBlocks | undefined {
  const [x, given] = node.inputs;
  if (!['ReduceSum', 'ReduceMean'].includes(node.opType) || !isImage(x, block)) return undefined;
  const attrs = new Attributes(node);
  const axes = given ? constant(given)?.numbers() : attrs.ints('axes');
  if (`${axes}` !== '0,2,3') return undefined;
  const keepdims = attrs.int('keepdims', 1);
  return {
    reads: [x],
    gain: GAIN,
    write(blocks) {
      const of = means(blocks, blocks.of(x));
      const keep = { keepdims: true };
      const all = node.opType === 'ReduceSum' ? of.sum([0], keep).mul(pixelsOf(x)) : of.mean([0], keep);
      blocks.g.identity((keepdims ? all : vector(all, x)).value, node.outputs[0]!);
    },
  };
}

/** Products of the rows of two images, one for each channel: see `channelDots`. */
function dots(node: Node, block: number): InBlocks | undefined {
  if (node.opType !== 'MatMul') return undefined;
  const [row, column] = node.inputs.map(v => v?.producer);
  const other = column?.inputs[0]?.producer;
  const isTransposed =
    column?.opType === 'Transpose' && `${new Attributes(column).ints('perm')}` === '0,1,3,2';
  if (!isTransposed || row?.opType !== 'Reshape' || other?.opType !== 'Reshape') return undefined;
  const [a, b] = [row.inputs[0], other.inputs[0]];
  const isRow = (x: Value, reshape: Node) =>
    `${reshape.outputs[0]!.shape}` === `${[...x.shape!.slice(0, 2), 1, pixelsOf(x)]}`;
  if (!isImage(a, block) || !isImage(b, block) || !isSame(a, b) || !isRow(a, row) || !isRow(b, other))
    return undefined;
  const inner = [row, column!, other];
  if (inner.some(n => n.outputs[0]!.readers.length > 1 || n.outputs[0]!.outputOf.length)) return undefined;
  return {
    reads: [a, b],
    inner,
    write(blocks) {
      const of = means(blocks, blocks.of(a).op('Mul', [blocks.of(b)], {}, { types: [a.type] }));
      blocks.g.identity(of.mul(pixelsOf(a)).value, node.outputs[0]!);
    },
  };
}
