/** Quantization-aware training of files that are quantized already. */
import { AgdError } from '../../graph/errors.js';
import { type Graph, type Model, Node, Value } from '../../graph/ir.js';
import { record } from '../../graph/record.js';
import { Tensor } from '../../graph/tensor.js';
import { isAttachedNode } from '../normalize/attached.js';
import type { QatSpec } from '../options/quantization.js';
import { methodOf } from './plan-quantization.js';
import { FOUR_BITS, type FourBits, REDUCED, writeQuantizers } from './quantization-record.js';
import { eightBits, integers, QuantizerNodes } from './quantizer-nodes.js';

const ROUNDING = /^(QuantizeLinear|DequantizeLinear|DynamicQuantizeLinear|QLinear\w+|QGemm|\w*Integer\w*)$/;

/** Whether a graph rounds already, apart from a teacher. */
export const isQuantized = ({ nodes }: Graph): boolean =>
  nodes.some(n => ROUNDING.test(n.opType) && !isAttachedNode(n));

/**
 * Makes a quantized model one in quantization-aware training, in place: integers before DequantizeLinear become the
 * numbers that they stand for, which are rounded with the scale that they had, and scales train or follow the data as
 * `method` says. Operators on integers become what they compute, between DequantizeLinear and QuantizeLinear. Zero points
 * stay. Integers in blocks, and those of types other than 4 and 8 bits, stay as they are.
 *
 * Throws `unsupported-op` for dynamically quantized models and for other operators on integers, and `bad-option` for
 * settings that the file decides.
 */
export function liftQuantized(model: Model, spec: QatSpec): void {
  const decided = (['activations', 'perChannel', 'reduceRange', 'skip'] as const).find(
    name => spec[name] !== undefined,
  );
  if (decided)
    throw new AgdError(
      'bad-option',
      `--qat: '${decided}' is decided by the model, which is quantized already; only 'method' applies.`,
    );
  const write = new QuantizerNodes(model, methodOf(spec));
  expandOperators(model.graph, write);
  liftConstants(model.graph, write);
  const lifted = write.quantizers.length;
  if (!lifted)
    throw new AgdError(
      'unsupported-op',
      '--qat: the model is quantized, but has no integers of 4 or 8 bits before DequantizeLinear to train.',
    );
  liftActivations(model.graph, write);
  model.graph.prepend(...write.first);
  writeQuantizers(model, write.quantizers);
}

const TRAINED = /^u?int[48]$/;

/** Integer constants become floating-point numbers that are rounded to them. */
function liftConstants(graph: Graph, write: QuantizerNodes): void {
  const { first, method } = write;
  const done = new Map<string, Value>();
  for (const node of [...graph.nodes]) {
    if (node.opType !== 'DequantizeLinear' || node.attrs.has('block_size') || isAttachedNode(node)) continue;
    const [levels, scale, zero] = node.inputs;
    const tensor = levels && graph.initializers.get(levels);
    const scales = scale && graph.initializers.get(scale);
    const zeros = zero ? graph.initializers.get(zero) : scales && Tensor.zeros(tensor!.dtype, scales.dims);
    if (!tensor || !scale || scales?.dtype !== 'float32' || !zeros) continue;
    const axis = scales.dims.length && scales.size > 1 ? axisOf(node, tensor) : undefined;
    const numbers = () => Tensor.ofNumbers('float32', tensor.dims, dequantize(tensor, scales, zeros, axis));
    const [output] = node.outputs;
    if (tensor.dtype === 'int32') {
      // Biases follow the scales of their product.
      graph.remove([node]);
      output!.type = { kind: 'tensor', dtype: 'float32', shape: tensor.dims };
      graph.initializers.set(output!, numbers());
      continue;
    }
    if (!TRAINED.test(tensor.dtype) || tensor.size < 2) continue;
    const key = `${levels.name} ${scale.name}`;
    const known = done.get(key);
    if (known) {
      node.inputs = [known, ...node.inputs.slice(1)];
      continue;
    }
    const { name } = levels;
    const base = name.replace(/_quantized$/, '');
    const master = write.constant(base === name ? `${name}_float` : base, numbers());
    const stored = Object.hasOwn(FOUR_BITS, tensor.dtype) ? (tensor.dtype as FourBits) : undefined;
    const zeroPoint = stored
      ? write.constant(`${base}_zero_point`, integers(eightBits(stored), zeros.dims, zeros.numbers()))
      : (zero ?? write.constant(`${base}_zero_point`, zeros));
    const isReduced = tensor.dtype === 'int8' && tensor.numbers().every(n => Math.abs(n) <= REDUCED + 1);
    const most = tensor.dtype === 'int4' ? 7 : isReduced && method === 'ema' ? REDUCED : 127;
    const isSymmetric = /^int/.test(tensor.dtype) && zeros.numbers().every(z => z === 0);
    const made =
      method === 'ema' && isSymmetric
        ? write.largest(master, tensor, zeroPoint, { axis, most, stored })
        : write.stored(scale, zeroPoint, { weight: master.name, axis, most, stored });
    graph.initializers.delete(levels);
    const rounded = new Value(name, stored ? undefined : levels.type);
    write.levels(first, master, made, rounded, axis === undefined ? {} : { axis });
    node.inputs = [rounded, made.scale, made.zero];
    done.set(key, rounded);
  }
}

/** Scales of activations train, or follow the data where they are of 8 bits. */
function liftActivations(graph: Graph, write: QuantizerNodes): void {
  const { method, first } = write;
  if (method === 'fixed') return;
  const own = new Set(first);
  const found = new Map<Value, Node[]>();
  for (const node of graph.nodes) {
    if (!/^(Quant|Dequant)izeLinear$/.test(node.opType) || own.has(node) || isAttachedNode(node)) continue;
    const scale = node.inputs[1];
    if (scale && graph.initializers.get(scale)?.size === 1)
      found.set(scale, [...(found.get(scale) ?? []), node]);
  }
  for (const [scale, nodes] of found) {
    const rounding = nodes.find(n => n.opType === 'QuantizeLinear');
    // Integers that no node of the graph rounds are fed, or stay as they are.
    if (!rounding || nodes.some(n => n.inputs[0] && graph.initializers.has(n.inputs[0]))) continue;
    const step = graph.initializers.get(scale)!;
    const zero = rounding.inputs[2];
    const zeros = zero ? graph.initializers.get(zero) : Tensor.filled('uint8', step.dims, 0);
    if (step.dtype !== 'float32' || !zeros) continue;
    const { dtype } = zeros;
    const name = scale.name.replace(/_scale$/, '');
    const isByte = dtype === 'uint8' || dtype === 'int8';
    const isProbability = rounding.inputs[0]?.producer?.opType === 'Softmax';
    if (isProbability || (method === 'ema' && (!isByte || step.dims.length > 0))) continue;
    const [s, z] = [step.numbers()[0]!, zeros.numbers()[0]!];
    const least = dtype === 'int8' ? -128 : 0;
    const made =
      method === 'ema'
        ? write.averaged(name, [(least - z) * s, (least + 255 - z) * s], dtype as 'uint8' | 'int8')
        : write.stored(scale, zero ?? write.constant(`${name}_zero_point`, zeros));
    for (const node of nodes) node.inputs = [node.inputs[0]!, made.scale, made.zero];
    if (method === 'ema' && z === least)
      for (const node of nodes) if (node.opType === 'QuantizeLinear') rectify(graph, write, node);
  }
}

/**
 * Writes out the Relu that quantizers leave to rounding with a range from zero up: an averaged range would follow the
 * negative numbers, so that the model loses it.
 */
function rectify(graph: Graph, { names }: QuantizerNodes, rounding: Node): void {
  const x = rounding.inputs[0]!;
  if (!x.producer || MOVES.has(x.producer.opType) || /^(Relu|Clip)$/.test(x.producer.opType)) return;
  const y = new Value(names.fresh(`${x.name}_rectified`), x.type);
  const relu = new Node('Relu', [x], [y]);
  relu.name = names.fresh(`${x.name}_Relu`);
  rounding.setInput(0, y);
  graph.nodes = graph.nodes.flatMap(node => (node === rounding ? [relu, node] : [node]));
}

function axisOf(node: Node, { dims }: Tensor): number {
  const attr = node.attrs.get('axis');
  const axis = attr?.type === 'int' ? Number(attr.value) : 1;
  return axis < 0 ? axis + dims.length : axis;
}

function dequantize(x: Tensor, scale: Tensor, zero: Tensor, axis: number | undefined): number[] {
  const inner = axis === undefined ? 1 : x.dims.slice(axis + 1).reduce((n, d) => n * d, 1);
  const channel = (i: number) => (axis === undefined ? 0 : Math.floor(i / inner) % x.dims[axis]!);
  const [scales, zeros] = [scale.numbers(), zero.numbers()];
  return x.numbers().map((level, i) => Math.fround((level - zeros[channel(i)]!) * scales[channel(i)]!));
}

// ---- operators on integers ----

/** Where an operator on integers has its operands, and what it computes. */
type OnIntegers = {
  to: string;
  /** Positions of value, scale and zero point. */
  operands: readonly (readonly [number, number, number])[];
  /** Position of the scale and, after it, the zero point of the result. */
  result: number;
  /** Position of the bias, in steps of the product of the operands' scales. */
  bias?: number;
  /** Axis of the channels of the second operand. */
  axis?: (node: Node) => number;
};

const BINARY = {
  operands: [
    [0, 1, 2],
    [3, 4, 5],
  ],
  result: 6,
} as const;
const UNARY = { operands: [[0, 1, 2]], result: 3 } as const;

const OPERATORS = record<OnIntegers>({
  QLinearConv: { ...BINARY, to: 'Conv', bias: 8, axis: () => 0 },
  QLinearMatMul: { ...BINARY, to: 'MatMul', axis: () => 1 },
  QGemm: { ...BINARY, to: 'Gemm', result: 7, bias: 6, axis: node => (intOf(node, 'transB') ? 0 : 1) },
  QLinearAdd: { ...BINARY, to: 'Add' },
  QLinearMul: { ...BINARY, to: 'Mul' },
  QLinearSigmoid: { ...UNARY, to: 'Sigmoid' },
  QLinearLeakyRelu: { ...UNARY, to: 'LeakyRelu' },
  QLinearSoftmax: { ...UNARY, to: 'Softmax' },
  QLinearGlobalAveragePool: { ...UNARY, to: 'GlobalAveragePool' },
  QLinearAveragePool: { ...UNARY, to: 'AveragePool' },
});

const intOf = (node: Node, name: string) => {
  const attr = node.attrs.get(name);
  return attr?.type === 'int' ? Number(attr.value) : 0;
};

/** Operators that pass integers on, whose gradients are those of floating-point numbers. */
const MOVES = new Set('MaxPool Reshape Flatten Transpose Squeeze Unsqueeze Slice Pad'.split(' '));

function expandOperators(graph: Graph, write: QuantizerNodes): void {
  const nodes: Node[] = [];
  const scales = new Map<Value, readonly Value[]>();
  for (const node of graph.nodes) {
    if (
      isAttachedNode(node) ||
      !ROUNDING.test(node.opType) ||
      /^(Quant|Dequant)izeLinear$/.test(node.opType)
    ) {
      const scale = scales.get(node.inputs[0]!);
      const moved = scale && MOVES.has(node.opType) ? movedFloats(write, node, scale) : [node];
      if (scale && moved.length > 1) scales.set(node.outputs[0]!, scale);
      if (node.opType === 'QuantizeLinear') scales.set(node.outputs[0]!, present(node.inputs.slice(1, 3)));
      nodes.push(...moved);
      continue;
    }
    const operator = OPERATORS[node.opType];
    if (!operator || intOf(node, 'channels_last'))
      throw new AgdError(
        'unsupported-op',
        `--qat: no rule makes ${node.label} trainable: start from the model before it was quantized.`,
      );
    nodes.push(...expanded(graph, write, node, operator));
    const { result } = operator;
    scales.set(node.outputs[0]!, present(node.inputs.slice(result, result + 2)));
  }
  graph.nodes = nodes;
}

const present = (values: readonly (Value | null | undefined)[]) => values.filter(v => !!v) as Value[];

/** A node that moves integers, on what they stand for. */
function movedFloats(write: QuantizerNodes, node: Node, scale: readonly Value[]): Node[] {
  const nodes: Node[] = [];
  const [x, ...others] = node.inputs;
  const [y] = node.outputs;
  const { names } = write;
  const read = write.emit(nodes, 'DequantizeLinear', [x!, ...scale], `${x!.name}_DequantizeLinear_Output`);
  const result = new Value(names.fresh(`${y!.name}_QuantizeLinear_Input`));
  const made = new Node(node.opType, [read, ...others], [result], node.attrs);
  made.name = names.fresh(node.name || y!.name);
  nodes.push(made);
  write.emit(nodes, 'QuantizeLinear', [result, ...scale], y!);
  return nodes;
}

/** DequantizeLinear of the operands, the operator in floating point, QuantizeLinear of its result. */
function expanded(graph: Graph, write: QuantizerNodes, node: Node, operator: OnIntegers): Node[] {
  const nodes: Node[] = [];
  const { names } = write;
  const { name } = node.outputs[0]!;
  const { to, operands, result, bias, axis } = operator;
  const inputs = operands.map(([x, scale, zero], i) => {
    const of = [x, scale, zero].map(at => node.inputs[at]);
    const scales = of[1] && graph.initializers.get(of[1]);
    const channels = i === 1 && axis && scales && scales.size > 1 ? { axis: axis(node) } : {};
    return write.emit(
      nodes,
      'DequantizeLinear',
      present(of),
      `${of[0]!.name}_DequantizeLinear_Output`,
      channels,
    );
  });
  const added = bias === undefined ? undefined : node.inputs[bias];
  if (added) inputs.push(write.constant(`${added.name}_float`, biasOf(graph, node, operator, added)));
  const attrs = new Map(node.attrs);
  for (const own of ['channels_last', 'opset']) attrs.delete(own);
  const scale = node.inputs[result];
  const output = scale ? new Value(names.fresh(`${name}_QuantizeLinear_Input`)) : node.outputs[0]!;
  const made = new Node(to, inputs, [output], attrs);
  made.name = names.fresh(node.name || `${name}_${to}`);
  nodes.push(made);
  if (scale) {
    write.emit(nodes, 'QuantizeLinear', present([output, scale, node.inputs[result + 1]]), node.outputs[0]!);
  }
  return nodes;
}

function biasOf(graph: Graph, node: Node, { operands }: OnIntegers, bias: Value): Tensor {
  const tensor = graph.initializers.get(bias);
  const [first, second] = operands.map(([, at]) => graph.initializers.get(node.inputs[at]!)?.numbers());
  if (!tensor || !first || !second)
    throw new AgdError(
      'unsupported-op',
      `--qat: the bias or a scale of ${node.label} is not a constant: start from the model before it was quantized.`,
    );
  const numbers = tensor
    .numbers()
    .map((level, c) => level * Math.fround(first[0]! * second[second.length > 1 ? c : 0]!));
  return Tensor.ofNumbers('float32', tensor.dims, numbers);
}
