/** Replaces the last linear layer of a model by one with another number of outputs. */
import { dtypeOf, type FloatDType, isFloat } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import { type Graph, type Model, Node, Value } from '../../graph/ir.js';
import type { Names } from '../../graph/names.js';
import { type AttrInit, toAttrs } from '../../ops/core/builder.js';
import { isBlockwise, type LinearLayer, outputsOf, type Stored, storedAt } from '../select/find-head.js';
import { type Draw, fromRows, readRow, uniformByFanIn } from './initial-values.js';

export type NewHead = {
  outputs: number;
  /** Sizes of hidden layers before it. */
  hidden: readonly number[];
  /** Gives the numbers of an output's row of the weight, and of its bias, by what they were before. */
  row: Row;
  /** Numbers for the hidden layer of this index. */
  draw: (layer: number) => Draw;
  /** The weight is replaced elsewhere: it is also an embedding. */
  isTied?: boolean;
};

/** `old` reads a row of the tensor as it was; `fanIn` is the number of inputs of one output. */
export type Row = (
  index: number,
  what: 'weight' | 'bias',
  fanIn: number,
  old: (row: number) => number[],
) => ArrayLike<number>;

/**
 * Replaces weight and bias of a linear layer by others for another number of outputs, and puts hidden layers with ReLU before
 * it, initialized as PyTorch initializes them. Of a quantized layer the product becomes one in floating point. Returns the
 * names of the parameters of the new layers. Throws `unsupported-op` for a layer whose form does not allow it.
 */
export function replaceHead({ graph }: Model, names: Names, head: LinearLayer, to: NewHead): string[] {
  checkForm(head);
  const layer = inFloat(graph, names, head);
  const parameters: string[] = [];
  to.hidden.forEach((size, i) => {
    const inputs = i ? to.hidden[i - 1]! : layer.inputs;
    parameters.push(...addHidden(graph, names, layer, inputs, size, i, to.draw(i)));
  });
  const inputs = to.hidden.at(-1) ?? layer.inputs;
  const { dims, outAxis } = layer;
  const fanIn = (dims.reduce((n, d, i) => (i === outAxis ? n : n * d), 1) / layer.inputs) * inputs;
  const weight = (dims: readonly number[], axis: number, dtype: FloatDType) => {
    const { stored, old } = layer.weight;
    const shape = dims.map((d, i) => (i === inAxisOf(dims, axis) ? inputs : d));
    const values = old ? stored.tensor.floats() : undefined;
    const before = (row: number) =>
      readRow(values ?? refuseRows(head), stored.tensor.dims, storedAxis(stored, outAxis), row);
    return fromRows(dtype, shape, axis, to.outputs, row => to.row(row, 'weight', fanIn, before));
  };
  const place = { dims, outAxis, name: `${layer.name}.weight` };
  parameters.push(to.isTied ? head.weight.value.name : put(graph, names, layer.weight, place, weight));
  if (layer.bias) {
    const { stored, old } = layer.bias;
    const values = old ? stored.tensor.floats() : undefined;
    const before = (row: number) => {
      const numbers = values ?? refuseRows(head);
      return [numbers[numbers.length === 1 ? 0 : row]!];
    };
    const place = { dims: [1], outAxis: 0, name: `${layer.name}.bias` };
    // A separate bias has the axes of the output from that of the classes on; others before them are of extent 1.
    const isSeparate = layer.bias.node !== layer.node && head.classAxis >= 0;
    const axes = isSeparate ? dims.length - head.classAxis : 1;
    const rank = Math.max(axes, stored.tensor.dims.length);
    const classes = stored.tensor.size === 1 ? rank - axes : stored.tensor.dims.findIndex(d => d !== 1);
    const shape = Array(rank).fill(1);
    const bias = (_dims: readonly number[], _axis: number, dtype: FloatDType) =>
      fromRows(dtype, shape, classes, to.outputs, row => to.row(row, 'bias', fanIn, before));
    parameters.push(put(graph, names, layer.bias, place, bias));
  }
  return parameters;
}

/** A constant of a layer, where it is read, and whether its numbers are those of the layer. */
type Place = { stored: Stored; node: Node; index: number; dtype: FloatDType; old: boolean };

/** A layer in floating point. `dims` are those of the weight as its node reads it. */
type FloatLayer = {
  name: string;
  node: Node;
  dims: readonly number[];
  outAxis: number;
  inputs: number;
  weight: Place;
  bias?: Place;
};

function checkForm({ name, node, quantized }: LinearLayer): void {
  const group = node.attrs.get('group');
  if (group?.type === 'int' && Number(group.value) !== 1)
    throw new AgdError(
      'unsupported-op',
      `Head '${name}' is a convolution in ${group.value} groups: the number of its outputs cannot change.`,
    );
  if (quantized && !REPLACED.has(quantized))
    throw new AgdError(
      'unsupported-op',
      `Head '${name}' is computed on integers by ${quantized}: adapt the model before it is quantized.`,
    );
}

const REPLACED = new Set(['DequantizeLinear', 'MatMulNBits', 'MatMulBnb4', 'MatMulInteger']);

function refuseRows({ name, quantized }: LinearLayer): never {
  throw new AgdError(
    'unsupported-op',
    `The weights of head '${name}' are quantized (${quantized}): its rows cannot be kept.`,
  );
}

/** The layer, of which a product of quantized numbers has become one in floating point. */
function inFloat(graph: Graph, names: Names, head: LinearLayer): FloatLayer {
  const { name, weight, outAxis, quantized, bias } = head;
  const dtype = dtypeOfFeatures(graph, head);
  const old = quantized === undefined;
  const biasPlace = bias && {
    stored: bias,
    ...{
      node: bias.node,
      index: bias.index,
      dtype,
      old: !bias.through.some(n => n.opType === 'DequantizeLinear'),
    },
  };
  if (!quantized || quantized === 'DequantizeLinear') {
    const dims = weight.isTransposed ? [...weight.tensor.dims].reverse() : weight.tensor.dims;
    const place = { stored: weight, node: head.node, index: 1, dtype, old };
    const inputs = dims[inAxisOf(dims, outAxis)]!;
    return { name, node: head.node, dims, outAxis, inputs, weight: place, bias: biasPlace };
  }
  const inputs = inputsOf(head);
  const node = inPlaceOf(graph, names, head);
  const place = { stored: weight, node, index: 1, dtype, old };
  return {
    ...{ name, node, dims: [inputs, outputsOf(head)], outAxis: 1, inputs, weight: place },
    bias:
      biasPlace &&
      (bias.node === head.node ? { ...biasPlace, node: node.outputs[0]!.readers[0]!, index: 1 } : biasPlace),
  };
}

/** A MatMul, and an Add of a bias that the quantized product had too, where that product was. */
function inPlaceOf(graph: Graph, names: Names, { node, input, name, bias, weight }: LinearLayer): Node {
  const output = node.outputs[0]!;
  node.outputs = [new Value(names.fresh('unused'))];
  const hasBias = bias?.node === node;
  const product = hasBias ? new Value(names.fresh(`${name}/MatMul_output`)) : output;
  const matmul = new Node('MatMul', [input, weight.value], [product]);
  matmul.name = names.fresh(`${name}/MatMul`);
  const add = hasBias ? [new Node('Add', [product, bias.value], [output])] : [];
  graph.insertBefore(node, matmul, ...add);
  graph.remove([node]);
  return matmul;
}

function inputsOf({ node, weight }: LinearLayer): number {
  const rows = node.attrs.get('K');
  return rows?.type === 'int' ? Number(rows.value) : weight.tensor.dims[0]!;
}

/** The element type of what the layer computes with. */
function dtypeOfFeatures(graph: Graph, { node, weight, quantized }: LinearLayer): FloatDType {
  const cast = weight.through.findLast(n => n.opType === 'Cast')?.attrs.get('to');
  const to = cast?.type === 'int' ? dtypeOf(Number(cast.value)) : undefined;
  if (to && isFloat(to)) return to;
  if (!quantized && isFloat(weight.tensor.dtype)) return weight.tensor.dtype;
  const scale = isBlockwise(quantized)
    ? node.inputs[2]
    : weight.through.find(n => n.opType === 'DequantizeLinear')?.inputs[1];
  const found = scale ? storedAt(graph, scale)?.tensor.dtype : undefined;
  return isFloat(found) ? found : 'float32';
}

const inAxisOf = (dims: readonly number[], outAxis: number) => (dims.length === 2 ? 1 - outAxis : 1);
const storedAxis = ({ isTransposed }: Stored, outAxis: number) => (isTransposed ? 1 - outAxis : outAxis);

/**
 * Puts another tensor in the place of a constant: under its name and in its layout where nothing else reads it, else as a new
 * initializer beside it. Returns the name.
 */
function put(
  graph: Graph,
  names: Names,
  { stored, node, index, dtype, old }: Place,
  { dims, outAxis, name }: { dims: readonly number[]; outAxis: number; name: string },
  make: (dims: readonly number[], axis: number, dtype: FloatDType) => ReturnType<typeof fromRows>,
): string {
  const { value, tensor, through, isTransposed } = stored;
  const values = [value, ...through.map(n => n.outputs[0]!)];
  if (old && values.every(v => v.uses.length === 1 && !v.outputOf.length)) {
    const layout = isTransposed ? [...dims].reverse() : dims;
    const made = make(layout, storedAxis(stored, outAxis), isFloat(tensor.dtype) ? tensor.dtype : dtype);
    if (value.producer) graph.remove([value.producer]);
    graph.initializers.set(value, made);
    value.type = { kind: 'tensor', dtype: made.dtype, shape: made.dims };
    for (const v of values.slice(1)) v.type = undefined;
    return value.name;
  }
  const made = make(dims, outAxis, dtype);
  const fresh = new Value(names.fresh(name), { kind: 'tensor', dtype, shape: made.dims });
  graph.initializers.set(fresh, made);
  node.setInput(index, fresh);
  return fresh.name;
}

/** A linear layer with ReLU between the features and `layer`, of its kind. Returns the names of its parameters. */
function addHidden(
  graph: Graph,
  names: Names,
  { name, node, weight, dims }: FloatLayer,
  inputs: number,
  size: number,
  index: number,
  draw: Draw,
): string[] {
  const base = `${name}.hidden.${index}`;
  const features = node.inputs[0]!;
  const isConv = /Conv$/.test(node.opType);
  const isGemm = /Gemm$/.test(node.opType);
  const shape = isConv
    ? [size, inputs, ...dims.slice(2).map(() => 1)]
    : isGemm
      ? [size, inputs]
      : [inputs, size];
  const constant = (part: string, dims: readonly number[], axis: number) => {
    const rest = dims.reduce((n, d, i) => (i === axis ? n : n * d), 1);
    const tensor = fromRows(weight.dtype, dims, axis, dims[axis]!, () => uniformByFanIn(rest, inputs, draw));
    const value = new Value(names.fresh(`${base}.${part}`), {
      kind: 'tensor',
      dtype: weight.dtype,
      shape: dims,
    });
    graph.initializers.set(value, tensor);
    return value;
  };
  const [w, b] = [constant('weight', shape, isConv || isGemm ? 0 : 1), constant('bias', [size], 0)];
  const add = (opType: string, inputs: Value[], attrs: AttrInit = {}) => {
    const output = new Value(names.fresh(`${base}/${opType}_output`));
    const made = new Node(opType, inputs, [output], toAttrs(attrs));
    made.name = names.fresh(`${base}/${opType}`);
    graph.insertBefore(node, made);
    return output;
  };
  const product = isConv
    ? add('Conv', [features, w, b])
    : isGemm
      ? add('Gemm', [features, w, b], { transB: 1 })
      : add('Add', [add('MatMul', [features, w]), b]);
  node.setInput(0, add('Relu', [product]));
  return [w.name, b.name];
}
