import { cloneModel } from '../../graph/clone.js';
import { type DType, isFloat } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import { type Graph, type Model, Node, Value } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import { Tensor } from '../../graph/tensor.js';
import { transposed } from '../adapters/peft-layout.js';
import { eliminateDeadNodes } from '../common/eliminate-dead-nodes.js';
import {
  FOUR_BITS,
  namedIn,
  type Quantizer,
  REDUCED,
  readQuantizers,
  writeQuantizers,
} from './quantization-record.js';
import { integers, type Level } from './quantizer-nodes.js';

/**
 * A copy of a model in quantization-aware training as ONNX Runtime runs it with integer kernels: scales and zero points
 * are initializers, weights are stored as integers before DequantizeLinear, and biases of quantized products as int32 in
 * steps of the scale of the product. Rounds as QuantizeLinear does. A model that is not in training stays as it is.
 */
export function storeIntegers(source: Model): Model {
  const quantizers = readQuantizers(source);
  if (!quantizers.length) return source;
  const model = cloneModel(source);
  const { graph } = model;
  const values = namedIn(
    graph,
    new Set(quantizers.flatMap(q => [q.scale, q.zero, q.source, q.weight ?? ''])),
  );
  const find = (name: string) => {
    const value = values.get(name);
    if (value) return value;
    throw new AgdError(
      'invalid-model',
      `The model lacks '${name}' of its quantization: use the file as agd-onnx wrote it.`,
    );
  };
  untie(graph, values.values());
  // Weights come after the activations that they multiply, whose scales theirs may depend on.
  const activationsFirst = [...quantizers].sort((a, b) => Number(!!a.weight) - Number(!!b.weight));
  for (const quantizer of activationsFirst) {
    // The part that is exported may lack what only the loss reads.
    if (!values.has(quantizer.scale)) continue;
    const scale = find(quantizer.scale);
    const zero = find(quantizer.zero);
    const source = graph.initializers.get(find(quantizer.source))!;
    const node = scale.readers.find(n => n.opType === 'QuantizeLinear');
    if (!node) continue;
    const numbers = numbersOf(quantizer, source, graph.initializers.get(zero), node);
    const clip = quantizer.stored && node.outputs[0]!.readers.find(n => n.opType === 'Clip');
    const levels = (clip ?? node).outputs[0]!;
    if (quantizer.weight !== undefined) numbers.scale = leavingRoom(graph, numbers.scale, node, levels);
    if (quantizer.stored)
      numbers.zero = integers(quantizer.stored, numbers.zero.dims, numbers.zero.numbers());
    settle(graph, scale, numbers.scale);
    settle(graph, zero, numbers.zero);
    if (quantizer.weight !== undefined) {
      const weight = graph.initializers.get(find(quantizer.weight))!;
      graph.remove(clip ? [node, clip] : [node]);
      levels.name = levels.name.replace('_QuantizeLinear_Output', '_quantized');
      graph.initializers.set(levels, levelsOf(weight, numbers, quantizer));
    }
    if (quantizer.kind === 'learned') {
      const trained = find(quantizer.source);
      scale.name = trained.name;
      graph.initializers.delete(trained);
    }
  }
  storeBiases(model);
  eliminateDeadNodes(model);
  writeQuantizers(model, []);
  return model;
}

/** Weights that are another's transpose have integers of their own. */
function untie(graph: Graph, values: Iterable<Value>): void {
  for (const value of values) {
    const table = value.producer?.opType === 'Transpose' && value.producer.inputs[0];
    const tensor = table && graph.initializers.get(table);
    if (tensor) settle(graph, value, transposed(tensor));
  }
}

/** Makes a computed value an initializer. */
function settle(graph: Graph, value: Value, tensor: Tensor): void {
  if (value.producer) graph.remove([value.producer]);
  value.type = { kind: 'tensor', dtype: tensor.dtype, shape: tensor.dims };
  graph.initializers.set(value, tensor);
}

/** What the graph computes, in its precision. */
function numbersOf(
  { kind, axis, most = 127 }: Quantizer,
  source: Tensor,
  zero: Tensor | undefined,
  node: Node,
): { scale: Tensor; zero: Tensor } {
  const LEAST = Math.fround(1e-8);
  const { fround } = Math;
  if (kind === 'learned' || kind === 'fixed')
    return { scale: Tensor.ofNumbers('float32', source.dims, source.numbers().map(Math.abs)), zero: zero! };
  if (kind === 'largest') {
    const scales = largestOf(source, axis).map(x => Math.max(fround(x / most), LEAST));
    return { scale: Tensor.ofNumbers('float32', zero!.dims, scales), zero: zero! };
  }
  const [low, high] = source.numbers() as [number, number];
  const scale = Math.max(fround(fround(high - low) / 255), LEAST);
  const to = node.inputs[2]?.producer?.attrs.get('to');
  const dtype = to?.type === 'int' && Number(to.value) === 3 ? 'int8' : 'uint8';
  const least = dtype === 'int8' ? -128 : 0;
  const level = roundHalfEven(fround(least - fround(low / scale)));
  return { scale: Tensor.filled('float32', [], scale), zero: Tensor.filled(dtype, [], level) };
}

const RANGES: Partial<Record<DType, readonly [number, number]>> = {
  int8: [-128, 127],
  uint8: [0, 255],
  ...FOUR_BITS,
};

/** x in whole steps, as QuantizeLinear computes them. */
function levelsOf(
  x: Tensor,
  { scale, zero }: { scale: Tensor; zero: Tensor },
  { axis, most: bound = 127 }: Quantizer,
): Tensor {
  const channelOf = channels(x, axis);
  const [scales, zeros] = [scale.numbers(), zero.numbers()];
  const [least, most] = RANGES[zero.dtype]!;
  const levels = x.numbers().map((value, i) => {
    const c = channelOf(i);
    const level = roundHalfEven(Math.fround(value / scales[c]!)) + zeros[c]!;
    const bounded = bound === REDUCED ? Math.min(Math.max(level, -bound), bound) : level;
    return Math.min(Math.max(bounded, least), most);
  });
  return integers(zero.dtype as Level, x.dims, levels);
}

/** The channel of each element. */
function channels({ dims }: Tensor, axis: number | undefined): (element: number) => number {
  if (axis === undefined) return () => 0;
  const inner = dims.slice(axis + 1).reduce((n, d) => n * d, 1);
  return i => Math.floor(i / inner) % dims[axis]!;
}

function largestOf(x: Tensor, axis: number | undefined): number[] {
  const channelOf = channels(x, axis);
  const most = new Array<number>(axis === undefined ? 1 : x.dims[axis]!).fill(0);
  x.floats().forEach((value: number, i: number) => {
    const c = channelOf(i);
    most[c] = Math.max(most[c]!, Math.abs(value));
  });
  return most;
}

function roundHalfEven(x: number): number {
  const floor = Math.floor(x);
  const rest = x - floor;
  if (rest !== 0.5) return Math.round(x);
  return floor % 2 ? floor + 1 : floor;
}

const BIASED = /^(Conv|ConvTranspose|Gemm)$/;

/** The bias of a product that becomes int32 if both factors are quantized. */
function biasOf(graph: Graph, { opType, inputs, attrs }: Node): Tensor | undefined {
  const tensor = inputs[2] ? graph.initializers.get(inputs[2]) : undefined;
  const isScaled = ['alpha', 'beta'].some(name => {
    const attr = attrs.get(name);
    return attr?.type === 'float' && attr.value !== 1;
  });
  const isVector = tensor && isFloat(tensor.dtype) && tensor.dims.length === 1;
  return BIASED.test(opType) && isVector && !isScaled ? tensor : undefined;
}

/** The largest stored bias: half of the range of int32, so that products can be added to it. */
const LARGEST_BIAS = 2 ** 30;

/**
 * The scales of a weight, so large that biases fit into int32 in steps of the scale of the product. Only weights that
 * are next to nothing beside the bias have smaller ones, so that the coarser steps change outputs by about 1e-7 of the
 * bias for each of the factors that are added up: training can do without.
 */
function leavingRoom(graph: Graph, scale: Tensor, rounding: Node, levels: Value): Tensor {
  const restored = levels.readers.filter(n => n.opType === 'DequantizeLinear');
  const scales = scale.numbers();
  const isShared = rounding.inputs[1]!.readers.some(n => n !== rounding && !restored.includes(n));
  const products = isShared ? [] : restored.flatMap(n => n.outputs[0]!.readers);
  for (const node of products) {
    const step = scaleBehind(graph, node.inputs[0])?.numbers()[0];
    const bias =
      node.inputs[1]?.producer && restored.includes(node.inputs[1].producer) && biasOf(graph, node);
    if (!bias || step === undefined || (scales.length > 1 && scales.length !== bias.size)) continue;
    bias.numbers().forEach((b, i) => {
      const c = scales.length > 1 ? i : 0;
      scales[c] = Math.max(scales[c]!, Math.abs(b) / step / LARGEST_BIAS);
    });
  }
  return Tensor.ofNumbers('float32', scale.dims, scales);
}

/** Biases of products of which both factors are quantized, with the scale that the product has. */
function storeBiases(model: Model): void {
  const { graph } = model;
  const names = Names.of(model);
  const added: Node[] = [];
  for (const node of graph.nodes) {
    const [x, w, bias] = node.inputs;
    const tensor = biasOf(graph, node);
    const ofInput = scaleBehind(graph, x);
    const ofWeight = scaleBehind(graph, w);
    if (!bias || !tensor || !ofInput || !ofWeight) continue;
    const product = ofWeight.numbers().map(s => Math.fround(s * ofInput.numbers()[0]!));
    const isPerChannel = product.length > 1;
    if (isPerChannel && product.length !== tensor.size) continue;
    const levels = tensor
      .numbers()
      .map((b, c) => roundHalfEven(Math.fround(b / product[isPerChannel ? c : 0]!)))
      .map(level => Math.min(Math.max(level, -(2 ** 31)), 2 ** 31 - 1));
    const dims = isPerChannel ? [product.length] : [];
    const constant = (hint: string, made: Tensor) => {
      const value = new Value(names.fresh(hint), { kind: 'tensor', dtype: made.dtype, shape: made.dims });
      graph.initializers.set(value, made);
      return value;
    };
    const { name } = bias;
    const inputs = [
      constant(`${name}_quantized`, Tensor.from('int32', tensor.dims, Int32Array.from(levels))),
      constant(`${name}_quantized_scale`, Tensor.ofNumbers('float32', dims, product)),
      constant(`${name}_quantized_zero_point`, Tensor.zeros('int32', dims)),
    ];
    const output = new Value(names.fresh(`${name}_DequantizeLinear_Output`));
    const made = new Node('DequantizeLinear', inputs, [output]);
    if (isPerChannel) made.setAttr('axis', { type: 'int', value: 0 });
    made.name = names.fresh(`${name}_DequantizeLinear`);
    added.push(made);
    node.setInput(2, output);
  }
  graph.prepend(...added);
}

function scaleBehind(graph: Graph, value: Value | null | undefined): Tensor | undefined {
  const node = value?.producer;
  const scale = node?.opType === 'DequantizeLinear' ? node.inputs[1] : undefined;
  return scale ? graph.initializers.get(scale) : undefined;
}
