/** The layers of a graph that can have a low-rank adapter. */
import { dtypeOf, type FloatDType, isFloat } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import type { Graph, Node, Value } from '../../graph/ir.js';
import { isAttachedNode } from '../normalize/attached.js';
import { isBlockwise, type LinearLayer, linearLayers, type Stored, storedAt } from '../select/find-head.js';
import { layerNames } from '../select/layer-names.js';

export type AdapterKind = 'linear' | 'conv' | 'embedding';

export type AdaptedLayer = {
  kind: AdapterKind;
  /** The module that it is in PyTorch, as far as names tell. */
  module: string;
  /** The name of its weight, of the module's where the exporter made that up. */
  name: string;
  node: Node;
  /** What the adapter reads: the features, or the indices of an embedding. */
  input: Value;
  weight: Stored;
  /** What it returns, with the bias that a node of its own may add. */
  output: Value;
  bias?: LinearLayer['bias'];
  /** Extents of the weight as the layer uses it, a convolution's in PyTorch's order: [out, in, ...kernel]. */
  inputs: number;
  outputs: number;
  kernel: readonly number[];
  /** Axis of the outputs in the weight as its node reads it; an embedding's is 1. */
  outAxis: number;
  /** Element type of what the layer returns. */
  dtype: FloatDType;
  quantized?: string;
  /** It is a projection inside an operator that computes more: an adapter is added to its weight, [inputs, outputs]. */
  isInner?: boolean;
  /** It is some of the outputs of another layer, from this one on, of so many: queries, keys or values. */
  part?: { from: number; all: number };
};

/**
 * Layers that multiply with a constant, or look up its rows, in the order of the graph. Those of branches follow, as far as
 * their weights are the main graph's, such as those of a decoder with a branch for its first tokens.
 */
export function adaptedLayers(graph: Graph): AdaptedLayer[] {
  const linear = linearLayers(graph).map(layer => fromLinear(graph, layer));
  const embeddings = graph.nodes.flatMap(node => embeddingAt(graph, node) ?? []);
  const order = new Map(graph.nodes.map((node, i) => [node, i]));
  const projections = graph.nodes.flatMap(node => projectionAt(graph, node) ?? []);
  const own = [...linear, ...embeddings, ...projections].filter(({ node }) => !isAttachedNode(node));
  own.sort((a, b) => order.get(a.node)! - order.get(b.node)!);
  const branches = graph.nodes.flatMap(node => (node.opType === 'If' ? node.subgraphs() : []));
  const inner = branches.flatMap(adaptedLayers);
  return [...own, ...inner.filter(({ weight }) => !branches.some(b => isOf(b, weight)))];
}

/** Whether a constant is in this graph. */
const isOf = (graph: Graph, { value }: Stored) =>
  graph.initializers.has(value) || value.producer?.graph === graph;

function fromLinear(graph: Graph, layer: LinearLayer): AdaptedLayer {
  const { node, weight, quantized } = layer;
  const dims = weight.isTransposed ? [...weight.tensor.dims].reverse() : weight.tensor.dims;
  const int = (name: string) => {
    const attr = node.attrs.get(name);
    return attr?.type === 'int' ? Number(attr.value) : 0;
  };
  const isConv = /Conv/.test(node.opType);
  const sizes = isBlockwise(quantized)
    ? { inputs: int('K'), outputs: int('N') }
    : { inputs: dims[isConv ? 1 : 1 - layer.outAxis]!, outputs: dims[layer.outAxis]! };
  return {
    ...{ kind: isConv ? 'conv' : 'linear', node, input: layer.input, weight, outAxis: layer.outAxis },
    ...{ output: layer.output, bias: layer.bias },
    ...{
      ...layerNames(weight.value, node, layer.bias?.value),
      ...sizes,
      kernel: isConv ? dims.slice(2) : [],
    },
    ...{ dtype: dtypeAt(graph, node, weight), quantized },
  };
}

/** Rows of a constant table, looked up along its first axis. */
function embeddingAt(graph: Graph, node: Node): AdaptedLayer | undefined {
  const isPacked = node.opType === 'GatherBlockQuantized' && node.domain === 'com.microsoft';
  if (!isPacked && (node.opType !== 'Gather' || node.domain !== '')) return undefined;
  const axis = node.attrs.get(isPacked ? 'gather_axis' : 'axis');
  if (axis?.type === 'int' && Number(axis.value) !== 0) return undefined;
  const [table, input] = node.inputs;
  // The weight of a tied head has its blocks on an axis of their own: [rows, blocks, bytes].
  const reshape = isPacked && table?.producer?.opType === 'Reshape' ? table.producer : undefined;
  const source = reshape ? reshape.inputs[0] : table;
  const weight = source && storedAt(graph, source);
  if (!weight || !input || (weight.tensor.dims.length !== 2 && !reshape)) return undefined;
  if (!isPacked && !weight.quantized && !isFloat(weight.tensor.dtype)) return undefined;
  // What is looked up by constant indices is no table of embeddings.
  if (storedAt(graph, input)) return undefined;
  const { dims } = weight.tensor;
  const [rows, columns] = (
    reshape ? [dims[0], weight.tensor.size / dims[0]!] : weight.isTransposed ? [...dims].reverse() : dims
  ) as [number, number];
  const bits = node.attrs.get('bits');
  const perByte =
    isPacked && weight.tensor.dtype === 'uint8' ? 8 / (bits?.type === 'int' ? Number(bits.value) : 4) : 1;
  return {
    ...{
      kind: 'embedding',
      ...(reshape ? namesOfNode(node) : layerNames(weight.value, node)),
      node,
      input,
      weight,
      kernel: [],
    },
    ...{
      output: node.outputs[0]!,
      inputs: rows,
      outputs: columns * perByte,
      outAxis: 1,
      dtype: dtypeAt(graph, node, weight),
    },
    quantized: isPacked ? node.opType : weight.quantized,
  };
}

/** The product that ONNX Runtime's Attention and QAttention begin with. Adapters may be added to its weight already. */
function projectionAt(graph: Graph, node: Node): AdaptedLayer | undefined {
  if (!/^Q?Attention$/.test(node.opType) || node.domain !== 'com.microsoft') return undefined;
  const [input, read, bias] = node.inputs;
  const sums: Node[] = [];
  let at = read;
  for (; at?.producer?.opType === 'Add'; at = at.producer.inputs[0]) sums.unshift(at.producer);
  const weight = at && storedAt(graph, at);
  if (!input || !weight || weight.tensor.dims.length !== 2) return undefined;
  const { tensor, isTransposed, through, quantized } = weight;
  const [inputs, outputs] = (isTransposed ? [...tensor.dims].reverse() : tensor.dims) as [number, number];
  const names = layerNames(weight.value, node, bias ?? undefined);
  return {
    ...{ kind: 'linear', node, input, output: node.outputs[0]!, inputs, outputs, outAxis: 1, kernel: [] },
    weight: { ...weight, through: [...through, ...sums] },
    name: names.name,
    // Where ONNX Runtime fused three weights, it made up the name of the result.
    module: /qkv_weights?\w*$/.test(names.module) ? namesOfNode(node).module : names.module,
    ...(node.opType === 'QAttention'
      ? { dtype: floatOf(graph, node.inputs[3]), quantized: 'MatMulInteger' }
      : { dtype: dtypeAt(graph, node, weight), quantized, isInner: true }),
  };
}

/** The element type that a layer computes in. */
function dtypeAt(graph: Graph, node: Node, { through, tensor }: Stored): FloatDType {
  for (const each of [...through].reverse()) {
    const to = each.attrs.get('to');
    if (each.opType === 'Cast' && to?.type === 'int') return dtypeOf(Number(to.value)) as FloatDType;
    if (each.opType === 'DequantizeLinear') return floatOf(graph, each.inputs[1]);
  }
  if (isFloat(tensor.dtype)) return tensor.dtype;
  const hasScales = isBlockwise(node.opType) || node.opType === 'GatherBlockQuantized';
  return hasScales ? floatOf(graph, node.inputs[2]) : 'float32';
}

function floatOf(graph: Graph, value: Value | null | undefined): FloatDType {
  const dtype = value && (storedAt(graph, value)?.tensor.dtype ?? value.dtype);
  return dtype && isFloat(dtype) ? dtype : 'float32';
}

/** Those of a node whose weight does not tell them. */
function namesOfNode({ name, outputs }: Node): { module: string; name: string } {
  const module = (name || outputs[0]!.name)
    .replace(/^\//, '')
    .replace(/\/[^/]*$/, '')
    .replaceAll('/', '.');
  return { module, name: `${module}.weight` };
}

/** How messages list a layer. */
export const describeLayer = ({ module, node, inputs, outputs }: AdaptedLayer) =>
  `'${module}' (${node.opType}${Number.isInteger(outputs) ? `, ${inputs} to ${outputs}` : ''})`;

/** Operators that compute more than a product, or a product of integers only. */
const REFUSED =
  /^(FusedGemm|FusedConv|QGemm|QLinearMatMul|QLinearConv|ConvInteger|MatMulInteger|MatMulIntegerToFloat|DynamicQuantizeMatMul)$/;

/** Throws `unsupported-op` for a layer whose operator takes no adapter. */
export function checkAdaptable(layer: AdaptedLayer): void {
  const { node, kind } = layer;
  const refuse = (why: string) => {
    throw new AgdError('unsupported-op', `No adapter for layer ${describeLayer(layer)}: ${why}.`);
  };
  if (REFUSED.test(node.opType))
    refuse(
      node.opType.startsWith('Fused')
        ? 'ONNX Runtime has fused its activation; use the model as exported, not as optimized'
        : `${node.opType} multiplies quantized numbers; use the model before it was quantized`,
    );
  const group = node.attrs.get('group');
  if (kind === 'conv' && group?.type === 'int' && Number(group.value) !== 1)
    refuse(`a convolution in ${group.value} groups`);
  const trans = node.attrs.get('transA');
  if (trans?.type === 'int' && Number(trans.value) === 1) refuse('transA is 1');
}
