/** Finds the head of a model: its last linear layer, which maps features to outputs. */
import { constantOf } from '../../graph/constants.js';
import { isFloat } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import type { Graph, Model, Node, Value } from '../../graph/ir.js';
import { record } from '../../graph/record.js';
import type { Tensor } from '../../graph/tensor.js';
import { layerNames } from './layer-names.js';

/** A constant that a node reads, directly or through nodes that only change its layout or type. */
export type Stored = {
  /** The initializer, or the output of a Constant node. */
  value: Value;
  tensor: Tensor;
  /** The nodes between the constant and its reader, in order. */
  through: readonly Node[];
  /** Whether the matrix is transposed where it is read. */
  isTransposed: boolean;
};

export type LinearLayer = {
  /** Its name in errors and in `--head`: the module of its weight, or the name of its node. */
  name: string;
  /** The node of the product; the last one, if the product is several nodes. */
  node: Node;
  /** The features. */
  input: Value;
  weight: Stored;
  /** Axis of the outputs in the weight, as the node reads it. */
  outAxis: number;
  bias?: Stored & { node: Node; index: number };
  /** Its output, including the bias. */
  output: Value;
  /** Axis of the outputs in its output; negative axes count from the end. */
  classAxis: number;
  /** The quantizing operator; undefined for floating-point weights. */
  quantized?: string;
};

export type Head = LinearLayer & {
  /** The outputs of the model that it leads to. */
  outputs: Value[];
  /** The nodes between it and these outputs. */
  tail: Node[];
};

/** Metadata key of the names of an adapted model's head parameters, a JSON list. */
export const HEAD_KEY = 'agd.head';

/** Positions of weight and bias among the inputs of linear operators, and the output axis of the weight. */
type Operator = { weight: number; bias?: number; outAxis(node: Node): number; classAxis: number };

const flagged = (node: Node, name: string) => {
  const attr = node.attrs.get(name);
  return attr?.type === 'int' && Number(attr.value) === 1;
};
const gemm: Operator = { weight: 1, bias: 2, outAxis: n => (flagged(n, 'transB') ? 0 : 1), classAxis: -1 };
const conv: Operator = { weight: 1, bias: 2, outAxis: () => 0, classAxis: 1 };

const LINEAR = record<Operator>({
  Gemm: gemm,
  FusedGemm: gemm,
  MatMul: { weight: 1, outAxis: () => 1, classAxis: -1 },
  FusedMatMul: { weight: 1, outAxis: n => (flagged(n, 'transB') ? 0 : 1), classAxis: -1 },
  Conv: conv,
  FusedConv: conv,
});

/** Whether an operator multiplies floats with weights in blocks of a few bits each: K inputs, N outputs, scales third. */
export const isBlockwise = (opType: string | undefined) =>
  opType === 'MatMulNBits' || opType === 'MatMulBnb4';

/** Linear operators on integers, which are rejected by name. */
const QUANTIZED = new Set(
  'QGemm QLinearMatMul QLinearConv ConvInteger MatMulInteger MatMulIntegerToFloat DynamicQuantizeMatMul'.split(
    ' ',
  ),
);

/** Operators through which the search continues along the first input: they preserve the meaning of the classes. */
const TAIL = new Set(
  (
    'Softmax LogSoftmax Sigmoid HardSigmoid Relu Clip Dropout Identity Cast Reshape Flatten Squeeze Unsqueeze Transpose ' +
    'ReduceMean ReduceMax GlobalAveragePool GlobalMaxPool AveragePool MaxPool Resize Upsample Slice Gather GatherND ' +
    'ArgMax TopK QuantizeLinear DequantizeLinear'
  ).split(' '),
);
const SCALED = new Set('Add Sub Mul Div'.split(' '));

/** The initializer that a value is in a graph, or in one around it. */
function initializerOf(graph: Graph, value: Value): Tensor | undefined {
  for (let at: Graph | undefined = graph; at; at = at.owner?.graph) {
    const tensor = at.initializers.get(value);
    if (tensor) return tensor;
  }
  return undefined;
}

/**
 * Finds a constant through nodes that only change its layout. `quantized`: it consists of integers behind
 * DequantizeLinear, or is rounded to such in training.
 */
export function storedAt(graph: Graph, value: Value): (Stored & { quantized?: string }) | undefined {
  const through: Node[] = [];
  let isTransposed = false;
  let quantized: string | undefined;
  for (let at = value; ; ) {
    const tensor = initializerOf(graph, at) ?? (at.producer && constantOf(at.producer)?.tensor);
    if (tensor) {
      // Without a permutation, a Transpose reverses all axes.
      const isMatrix = tensor.dims.length === 2 || !through.some(n => n.opType === 'Transpose');
      return isMatrix ? { value: at, tensor, through, isTransposed, quantized } : undefined;
    }
    const { producer } = at;
    const next = producer?.inputs[0];
    if (!producer || !next) return undefined;
    if (!/^(Transpose|Identity|Cast|QuantizeLinear|DequantizeLinear)$/.test(producer.opType))
      return undefined;
    if (producer.opType === 'Transpose' && !isSwap(producer)) return undefined;
    if (producer.opType === 'Transpose') isTransposed = !isTransposed;
    if (producer.opType === 'DequantizeLinear') quantized = 'DequantizeLinear';
    through.unshift(producer);
    at = next;
  }
}

function isSwap(node: Node): boolean {
  const perm = node.attrs.get('perm');
  return perm?.type !== 'ints' || `${perm.value}` === '1,0';
}

/** The linear layer whose product this node computes, without a bias that another node adds. */
function layerAt(graph: Graph, node: Node): LinearLayer | undefined {
  if (node.domain !== '' && node.domain !== 'ai.onnx' && node.domain !== 'com.microsoft') return undefined;
  const [input, output] = [node.inputs[0], node.outputs[0]];
  if (!output) return undefined;
  if (isBlockwise(node.opType) && input) return blockwise(graph, node, input, output);
  if (QUANTIZED.has(node.opType) && input) return onIntegers(graph, node, input, output);
  const product = dynamicallyQuantized(graph, node, output);
  if (product) return product;
  const operator = LINEAR[node.opType];
  const read = operator && node.inputs[operator.weight];
  const weight = read && storedAt(graph, read);
  if (!operator || !input || !weight || weight.tensor.dims.length < 2) return undefined;
  if (!weight.quantized && !isFloat(weight.tensor.dtype)) return undefined;
  if (operator === gemm && flagged(node, 'transA')) return undefined;
  if (operator !== conv && weight.tensor.dims.length !== 2) return undefined;
  const read2 = operator.bias === undefined ? undefined : node.inputs[operator.bias];
  const bias = read2 && storedAt(graph, read2);
  if (read2 && !bias) return undefined;
  return {
    ...{
      name: layerNames(weight.value, node).module,
      node,
      input,
      weight,
      output,
      outAxis: operator.outAxis(node),
    },
    ...{ classAxis: operator.classAxis, quantized: weight.quantized },
    ...(bias ? { bias: { ...bias, node, index: operator.bias! } } : {}),
  };
}

/** x W with W in blocks of a few bits each. */
function blockwise(graph: Graph, node: Node, input: Value, output: Value): LinearLayer | undefined {
  const packed = node.inputs[1] && storedAt(graph, node.inputs[1]);
  if (!packed) return undefined;
  const read = node.inputs[5];
  const bias = read ? storedAt(graph, read) : undefined;
  return {
    ...{
      name: layerNames(packed.value, node).module,
      node,
      input,
      weight: packed,
      outAxis: 0,
      output,
      classAxis: -1,
    },
    ...(bias ? { bias: { ...bias, node, index: 5 } } : {}),
    quantized: node.opType,
  };
}

/** For operators on integers, which are rejected, only a name is needed. */
function onIntegers(graph: Graph, node: Node, input: Value, output: Value): LinearLayer | undefined {
  const value = node.inputs.find(v => v && (initializerOf(graph, v)?.size ?? 0) > 1);
  const tensor = value && initializerOf(graph, value);
  if (!value || !tensor) return undefined;
  const weight: Stored = { value, tensor, through: [], isTransposed: false };
  return {
    ...{ name: node.name || output.name, node, input, weight, outAxis: 1, output, classAxis: -1 },
    quantized: node.opType,
  };
}

/** QuantizeLinear or DynamicQuantizeLinear, MatMulInteger, Cast and Mul by the scales: together a floating-point product. */
function dynamicallyQuantized(graph: Graph, node: Node, output: Value): LinearLayer | undefined {
  if (node.opType !== 'Mul') return undefined;
  const product = integerProduct(node);
  const rounding = product?.inputs[0]?.producer;
  if (product?.opType !== 'MatMulInteger' || !/^(Dynamic)?QuantizeLinear$/.test(rounding?.opType ?? ''))
    return undefined;
  const weight = product.inputs[1] && storedAt(graph, product.inputs[1]);
  const input = rounding?.inputs[0];
  if (!weight || !input || weight.tensor.dims.length !== 2) return undefined;
  return {
    ...{
      name: layerNames(weight.value, product).module,
      node,
      input,
      weight,
      outAxis: 1,
      output,
      classAxis: -1,
    },
    quantized: 'MatMulInteger',
  };
}

/** What the Mul by the scales of a dynamically quantized product reads. */
const integerProduct = (node: Node): Node | undefined =>
  node.inputs.find(v => v?.producer?.opType === 'Cast')?.producer?.inputs[0]?.producer;

/** A bias that a separate node adds to `product`. */
function withBias(graph: Graph, layer: LinearLayer, add: Node): LinearLayer | undefined {
  const index = add.inputs.findIndex(v => v !== layer.output);
  const read = add.inputs[index];
  const bias = read && storedAt(graph, read);
  if (!bias || layer.bias || !add.outputs[0] || bias.quantized) return undefined;
  return { ...layer, bias: { ...bias, node: add, index }, output: add.outputs[0] };
}

/** All linear layers of a graph, with biases added by separate nodes. */
export function linearLayers(graph: Graph): LinearLayer[] {
  const layers = graph.nodes.flatMap(node => layerAt(graph, node) ?? []);
  // The product inside a dynamically quantized layer is no layer of its own.
  const inner = new Set(
    layers.flatMap(({ node, quantized }) =>
      node.opType === 'Mul' && quantized ? (integerProduct(node) ?? []) : [],
    ),
  );
  return layers.flatMap(layer => {
    if (inner.has(layer.node)) return [];
    const [add, ...others] = layer.output.readers;
    const isAdded = add?.opType === 'Add' && !others.length && !layer.output.outputOf.length;
    return [(isAdded && isVector(graph, add, layer) && withBias(graph, layer, add)) || layer];
  });
}

/** Whether the other operand of an addition has one number for each output of the layer. */
function isVector(graph: Graph, add: Node, layer: LinearLayer): boolean {
  const other = add.inputs.find(v => v !== layer.output);
  const bias = other && storedAt(graph, other);
  return bias?.tensor.size === outputsOf(layer);
}

/** Number of outputs of a layer. */
export function outputsOf({ node, weight, outAxis, quantized }: LinearLayer): number {
  const columns = node.attrs.get('N');
  if (isBlockwise(quantized) && columns?.type === 'int') return Number(columns.value);
  return weight.tensor.dims[weight.isTransposed ? 1 - outAxis : outAxis]!;
}

/** The linear layer that computes `start`, with the nodes after it. */
function before(
  graph: Graph,
  start: Value,
  layers: ReadonlyMap<Value, LinearLayer>,
): { layer: LinearLayer; tail: Node[] } | undefined {
  const tail: Node[] = [];
  for (let value = start; ; ) {
    const layer = layers.get(value);
    if (layer) return { layer, tail };
    const node = value.producer;
    if (!node) return undefined;
    let next: Value | null | undefined = node.inputs[0];
    if (SCALED.has(node.opType)) {
      const data = node.inputs.filter(v => v && storedAt(graph, v)?.tensor.size !== 1);
      next = data.length === 1 ? data[0] : undefined;
    } else if (!TAIL.has(node.opType)) return undefined;
    if (!next) return undefined;
    tail.unshift(node);
    value = next;
  }
}

/** The last linear layers before these values, each once. */
export function headsOf(graph: Graph, outputs: readonly Value[]): Head[] {
  const layers = new Map(linearLayers(graph).map(layer => [layer.output, layer]));
  const heads = new Map<LinearLayer, Head>();
  for (const output of outputs) {
    const found = before(graph, output, layers);
    if (!found) continue;
    const { layer, tail } = found;
    const head = heads.get(layer) ?? { ...layer, outputs: [], tail: [] };
    head.outputs.push(output);
    head.tail.push(...tail.filter(node => !head.tail.includes(node)));
    heads.set(layer, head);
  }
  return [...heads.values()];
}

/**
 * The head that leads to `outputs`: the last linear layer before them, through activations, pooling and changes of
 * shape only; or the linear layer that `name` identifies by module, node, weight, or the output that it leads to.
 * Throws `no-such-value` if there is none, and `bad-option` if there are several.
 */
export function findHead(graph: Graph, outputs: readonly Value[], name?: string): Head {
  const heads = headsOf(graph, outputs);
  if (name !== undefined) return headNamed(graph, heads, name);
  if (heads.length === 1) return heads[0]!;
  if (heads.length)
    throw new AgdError(
      'bad-option',
      `The model has ${heads.length} heads: choose one with --head: ${listed(heads)}.`,
    );
  const layers = linearLayers(graph);
  const last = layers.slice(-3).reverse();
  throw new AgdError(
    'no-such-value',
    `No linear layer leads to ${outputs.map(v => `'${v.name}'`).join(', ') || 'an output'} through activations, pooling and changes of shape` +
      (last.length ? `: name one with --head, such as ${listed(last)}.` : '.'),
  );
}

function headNamed(graph: Graph, heads: readonly Head[], name: string): Head {
  const isNamed = (l: LinearLayer) => [l.name, l.node.name, l.weight.value.name].includes(name);
  const found = [
    ...heads.filter(h => isNamed(h) || h.outputs.some(v => v.name === name)),
    ...linearLayers(graph)
      .filter(l => isNamed(l) && !heads.some(h => h.node === l.node))
      .map(l => ({ ...l, outputs: [], tail: [] })),
  ];
  if (found.length === 1) return found[0]!;
  const others = heads.length ? heads : linearLayers(graph).slice(-5).reverse();
  throw new AgdError(
    found.length ? 'bad-option' : 'no-such-value',
    found.length
      ? `--head '${name}' names ${found.length} layers: ${listed(found)}.`
      : `--head '${name}' names no linear layer; there are ${listed(others) || 'none'}.`,
  );
}

const listed = (layers: readonly (LinearLayer & { outputs?: Value[] })[]) =>
  layers
    .slice(0, 10)
    .map(l => {
      const leads = l.outputs?.length ? ` before ${l.outputs.map(v => `'${v.name}'`).join(', ')}` : '';
      return `'${l.name}' (${l.node.opType}, ${outputsOf(l)} outputs${leads})`;
    })
    .join(', ');

/**
 * The names of the parameters of a model's head: those in the model's metadata, as written by `adapt`, or else weight
 * and bias of the last linear layer before these outputs.
 */
export function headParameters(
  { graph, metadata }: Pick<Model, 'graph' | 'metadata'>,
  outputs: readonly Value[],
): string[] {
  const recorded = newHead({ graph, metadata });
  if (recorded.length) return recorded;
  const { weight, bias } = findHead(graph, outputs);
  return [weight.value.name, ...(bias ? [bias.value.name] : [])];
}

/** The names of the parameters of the head that `adapt` gave a model; none in other models. */
export function newHead({ graph, metadata }: Pick<Model, 'graph' | 'metadata'>): string[] {
  const recorded = readRecorded(metadata.get(HEAD_KEY));
  const names = new Set([...graph.initializers.keys()].map(v => v.name));
  return recorded.some(name => names.has(name)) ? recorded : [];
}

function readRecorded(text: string | undefined): string[] {
  if (text === undefined) return [];
  try {
    const names: unknown = JSON.parse(text);
    return Array.isArray(names) ? names.filter(name => typeof name === 'string') : [];
  } catch {
    return [];
  }
}
