/** Which values of a graph ONNX Runtime's quantizer rounds. */

import { reads } from '../../graph/dependents.js';
import { AgdError } from '../../graph/errors.js';
import type { Graph, Node, Value } from '../../graph/ir.js';
import { record } from '../../graph/record.js';
import { globTest } from '../common/match-names.js';
import { isAttached, isAttachedNode } from '../normalize/attached.js';
import type { QatSpec, Ranges } from '../options/quantization.js';
import type { LossSpec } from '../options.js';

/** A constant operand, and the axis with a scale for each index; a `weight` is one factor of a product. */
export type QuantizedConstant = {
  node: Node;
  index: number;
  value: Value;
  isWeight: boolean;
  axis?: number;
};

export type QuantizationPlan = {
  constants: QuantizedConstant[];
  /** Values that the graph computes or is fed, each with the value whose scale it shares, which may be itself. */
  activations: Map<Value, Value>;
  /** All values whose type and range decide what is quantized. */
  observed: Set<Value>;
};

/** Operators with a kernel on integers: the inputs that are rounded; their first output is rounded too. */
const COMPUTES = record<readonly number[] | 'all'>({
  Conv: [0, 1],
  ConvTranspose: [0, 1],
  Gemm: [0, 1],
  MatMul: [0, 1],
  Add: [0, 1],
  Mul: [0, 1],
  Concat: 'all',
  Where: [1, 2],
  ...Object.fromEntries(
    'Sigmoid LeakyRelu Softmax GlobalAveragePool LayerNormalization InstanceNormalization'
      .split(' ')
      .map(op => [op, [0]]),
  ),
});

/** Operators whose outputs have the scale of their input. */
const MOVES = new Set(
  (
    'MaxPool AveragePool Reshape Flatten Transpose Squeeze Unsqueeze Slice Split Gather GatherElements ' +
    'Resize Pad'
  ).split(' '),
);
/** Activations that the rounding of their output does too. */
const CLIPS = new Set(['Relu', 'Clip']);
/** Operators without effect in the trained model. */
const NOTHING = new Set(['Dropout', 'Identity']);
/** The axis of output channels in the weights of products. */
const AXES = record<(node: Node) => number>({
  Conv: () => 0,
  ConvTranspose: () => 1,
  Gemm: node => (intOf(node, 'transB') ? 0 : 1),
  MatMul: () => 1,
});

/**
 * What `quantize_static` of ONNX Runtime quantizes with its defaults, in a graph without functions: operands and results
 * of the operators above, of float32. With `ranges`, only values that have one. Embeddings, scales and biases of
 * normalizations, what is in the bodies of other operators, a teacher, and what computes nothing but the loss stay as they are. Throws `no-such-value` for a glob of
 * `skip` that matches nothing, `bad-dtype` for weights of another type, and `unsupported-op` where there is nothing.
 */
export function planQuantization(
  graph: Graph,
  spec: QatSpec,
  { ranges, loss }: { ranges?: Ranges; loss?: LossSpec } = {},
): QuantizationPlan {
  const ofLoss = lossNodes(graph, loss);
  const isSkipped = skipTest(graph, spec);
  const plan: QuantizationPlan = { constants: [], activations: new Map(), observed: new Set() };
  const { constants, activations, observed } = plan;
  const onlyWeights = activationsOf(spec) === 'none';
  const isFine = (v: Value) => {
    const tensor = graph.initializers.get(v);
    if (!tensor) {
      observed.add(v);
      return !ranges || ranges.has(v.name);
    }
    return tensor.dtype === 'float32' && tensor.size > 0 && isOrdinary(tensor.floats());
  };
  for (const node of graph.nodes) {
    if (node.domain !== '' || isAttachedNode(node) || ofLoss.has(node) || isSkipped(node)) continue;
    const [first] = node.inputs;
    const [output] = node.outputs;
    if (!output) continue;
    const products = operandsOf(node);
    const weights = products.filter(
      ({ value, index }) => isWeight(node, index) && graph.initializers.has(value),
    );
    for (const { value } of weights) refuseOtherTypes(graph, node, value);
    if (onlyWeights) {
      if (weights.length !== products.length)
        for (const weight of weights)
          if (isFine(weight.value)) constants.push(withAxis(graph, node, weight, spec));
      continue;
    }
    if (products.length) {
      const operands = products.map(({ value, index }) => ({ value: behind(value), index }));
      const computed = operands.filter(({ value }) => !graph.initializers.has(value));
      if (!computed.length || ![...operands.map(o => o.value), output].every(isFine)) continue;
      for (const { value } of computed) if (!activations.has(value)) activations.set(value, value);
      for (const operand of operands)
        if (graph.initializers.has(operand.value)) constants.push(withAxis(graph, node, operand, spec));
      activations.set(output, output);
    } else if (first && MOVES.has(node.opType)) {
      const shared = activations.get(behind(first));
      if (shared) for (const v of node.outputs) if (v && isFine(v)) activations.set(v, shared);
    } else if (first && CLIPS.has(node.opType) && activations.has(first) && isFine(output)) {
      const isOnly = first.readers.length === 1 && !first.outputOf.length && first.producer;
      if (isOnly && activations.get(first) === first) activations.delete(first);
      activations.set(output, output);
    }
  }
  if (!constants.some(c => c.isWeight)) {
    const hasWeight = (node: Node) =>
      operandsOf(node).some(({ value, index }) => isWeight(node, index) && graph.initializers.has(value));
    const left = graph.nodes.filter(node => node.domain === '' && isSkipped(node) && hasWeight(node));
    throw new AgdError(
      'unsupported-op',
      left.length
        ? `Nothing to quantize: 'skip' leaves out all layers that could be, ${listed(left)}.`
        : 'Nothing to quantize: no Conv, ConvTranspose, Gemm or MatMul has a constant float32 weight.',
    );
  }
  return plan;
}

/** The nodes that no output but the loss depends on, if the graph computes it beside others. */
function lossNodes(graph: Graph, loss: LossSpec | undefined): Set<Node> {
  if (loss?.kind !== 'output' && loss?.kind !== 'mean') return new Set();
  const others = graph.outputs.filter(v => v.name !== loss.output && !isAttached(v.name));
  const needed = new Set<Node>();
  const visit = (v: Value | null | undefined) => {
    if (!v?.producer || needed.has(v.producer)) return;
    needed.add(v.producer);
    reads(v.producer).forEach(visit);
  };
  others.forEach(visit);
  return new Set(others.length ? graph.nodes.filter(node => !needed.has(node)) : []);
}

/** Where scales come from: 4 bits are too few for the largest weight to decide. */
export const methodOf = ({ weights, method }: QatSpec) => method ?? (weights === 'int4' ? 'lsq' : 'ema');

/** The type of rounded activations; weights of 4 bits have no integer kernels, and multiply activations as they are. */
export const activationsOf = ({ weights, activations }: QatSpec) =>
  activations ?? (weights === 'int4' ? 'none' : 'uint8');

function operandsOf(node: Node): { value: Value; index: number }[] {
  const indices = COMPUTES[node.opType];
  if (!indices) return [];
  return node.inputs.flatMap((value, index) =>
    value && (indices === 'all' || indices.includes(index)) ? [{ value, index }] : [],
  );
}

const isWeight = (node: Node, index: number) =>
  node.opType in AXES && (index === 1 || node.opType === 'MatMul');

function withAxis(
  graph: Graph,
  node: Node,
  { value, index }: { value: Value; index: number },
  { perChannel = true }: QatSpec,
): QuantizedConstant {
  const weighs = isWeight(node, index);
  const { dims } = graph.initializers.get(value)!;
  const isGrouped = node.opType === 'ConvTranspose' && intOf(node, 'group') > 1;
  const hasChannels = weighs && perChannel && index === 1 && !isGrouped;
  const hasAxis = hasChannels && (node.opType !== 'MatMul' || dims.length === 2);
  return { node, index, value, isWeight: weighs, ...(hasAxis ? { axis: AXES[node.opType]!(node) } : {}) };
}

/** The value before nodes that do nothing in the trained model. */
function behind(value: Value): Value {
  const { producer } = value;
  const before = producer && NOTHING.has(producer.opType) && producer.domain === '' && producer.inputs[0];
  return before && producer.outputs[0] === value ? behind(before) : value;
}

/** Masks hold numbers that no scale fits. */
const isOrdinary = (numbers: ArrayLike<number>) => {
  for (let i = 0; i < numbers.length; i++) if (!(Math.abs(numbers[i]!) < 1e30)) return false;
  return true;
};

function refuseOtherTypes(graph: Graph, node: Node, weight: Value): void {
  const { dtype } = graph.initializers.get(weight)!;
  if (/^(float16|bfloat16|float64)$/.test(dtype))
    throw new AgdError(
      'bad-dtype',
      `--qat takes float32 models: '${weight.name}' of ${node.label} is ${dtype}. Convert the model to float32 first.`,
    );
}

/** The names by which `skip` knows a node: its own, and those of its outputs and constants. */
const namesOf = (graph: Graph, node: Node) =>
  [
    node.name,
    ...node.outputs.map(v => v?.name),
    ...node.inputs.map(v => v && graph.initializers.has(v) && v.name),
  ].filter(name => !!name) as string[];

function skipTest(graph: Graph, { skip = [] }: QatSpec): (node: Node) => boolean {
  const tests = [skip].flat().map(glob => ({ glob, test: globTest(glob) }));
  const layers = graph.nodes.filter(
    node => node.opType in COMPUTES && node.domain === '' && !isAttachedNode(node),
  );
  for (const { glob, test } of tests)
    if (!layers.some(node => namesOf(graph, node).some(name => test(name))))
      throw new AgdError(
        'no-such-value',
        `--qat: skip '${glob}' matches no layer that is quantized; there are ${listed(layers)}.`,
      );
  return node => tests.some(({ test }) => namesOf(graph, node).some(name => test(name)));
}

const listed = (layers: readonly Node[]) =>
  layers
    .slice(0, 12)
    .map(node => node.label)
    .join(', ') + (layers.length > 12 ? ` and ${layers.length - 12} more` : '');

function intOf(node: Node, name: string): number {
  const attr = node.attrs.get(name);
  return attr?.type === 'int' ? Number(attr.value) : 0;
}
