/** Detects quantized models: which operators round, which weights are integers, and what cannot train for that reason. */
import { isQuantized } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import { allGraphs, type Graph, hasSubgraphs, type Node, type Value } from '../../graph/ir.js';
import { record } from '../../graph/record.js';
import type { Tensor } from '../../graph/tensor.js';
import { ON_INTEGERS } from '../../ops/core/surrogate.js';
import { opDef } from '../../ops/index.js';
import type { SelectOptions } from '../options.js';
import type { ParameterChoice } from './parameter-choice.js';

/** The reason of a weight whose gradient would have to pass rounding. */
export const ROUNDED = 'its gradient stops where the model rounds: --straight-through trains it';

/**
 * Whether a node rounds its inputs to integers or computes on such integers. If a scale is computed from the data,
 * the gradient of the scale alone says nothing about the product that it belongs to.
 */
export function rounds(node: Node): boolean {
  if (node.opType === 'QuantizeLinear' || node.opType === 'DynamicQuantizeLinear') return true;
  const def = opDef(node);
  return def?.kind === 'zero' && def.why === ON_INTEGERS;
}

/** The nodes of the graph that round, or have a subgraph with such a node. */
export function roundingNodes(graph: Graph): Node[] {
  const any = (node: Node): boolean =>
    rounds(node) || (hasSubgraphs(node) && node.subgraphs().some(body => body.nodes.some(any)));
  return graph.nodes.filter(any);
}

/** Scales computed when weights were quantized, which stay fixed with the integers. */
export function quantizationScales(graph: Graph): Set<Value> {
  const nodes = [...allGraphs(graph)].flatMap(g => g.nodes);
  const measuring = nodes.filter(n => n.opType === 'DynamicQuantizeLinear');
  const measured = new Set(measuring.map(n => n.outputs[1] ?? null));
  const ofProducts = nodes
    .filter(n => measuring.length > 0 && n.opType === 'Mul' && n.inputs.some(v => v && measured.has(v)))
    .flatMap(n => n.inputs);
  const ofOperators = nodes
    .filter(rounds)
    .flatMap(n => n.inputs.filter((_, i) => SCALES[n.opType]?.includes(i)));
  return new Set([...ofProducts, ...ofOperators].flatMap(v => v ?? []));
}

/** Inputs of operators on integers for scales with more than one element. */
const SCALES = record<readonly number[]>({
  QLinearConv: [1, 4, 6],
  QLinearMatMul: [1, 4, 6],
  QLinearAdd: [1, 4, 6],
  QLinearMul: [1, 4, 6],
  QGemm: [1, 4, 7],
  DynamicQuantizeMatMul: [2],
  MatMulIntegerToFloat: [2, 3],
});

/** Weights stored as integers, and why they do not train. */
export function integerWeights(graph: Graph): ParameterChoice[] {
  if (![...graph.initializers.values()].some(isData)) return [];
  const places = new Map<Value, Value>();
  const found = new Map<Value, string>();
  for (const node of [...allGraphs(graph)].flatMap(g => g.nodes)) {
    // A shared table is transposed or reshaped for each use.
    if (/^(Reshape|Transpose|Identity)$/.test(node.opType) && node.inputs[0] && node.outputs[0])
      places.set(node.outputs[0], places.get(node.inputs[0]) ?? node.inputs[0]);
    for (const input of node.inputs) {
      const value = input && (places.get(input) ?? input);
      const tensor = value && graph.initializers.get(value);
      if (tensor && holdsWeights(node, tensor)) found.set(value, reason(node, tensor));
    }
  }
  return [...found].map(([value, why]) => ({ value, trains: false, why, by: 'file' }));
}

/** Zero points are smaller than the tensors that they belong to. */
const isData = ({ dtype, dims, size }: Tensor) => isQuantized(dtype) && dims.length > 1 && size > 1;

function holdsWeights(node: Node, tensor: Tensor): boolean {
  return isData(tensor) && (node.opType === 'DequantizeLinear' || rounds(node) || isBlockwise(node));
}

const isBlockwise = ({ opType, domain }: Node) =>
  domain === 'com.microsoft' && /^(MatMulNBits|MatMulBnb4|GatherBlockQuantized)$/.test(opType);

function reason(node: Node, { dtype }: Tensor): string {
  const attr = node.attrs.get('bits');
  const given = attr?.type === 'int' ? Number(attr.value) : undefined;
  const bits = isBlockwise(node) && dtype === 'uint8' ? (given ?? 4) : Number(/\d+/.exec(dtype)?.[0]);
  const where = node.opType === 'DequantizeLinear' ? 'behind' : 'in';
  return `${bits}-bit ${/^float/.test(dtype) ? 'numbers' : 'integers'} ${where} ${node.opType}`;
}

/**
 * Throws `no-gradient` if weights would train without rounding, unless `--train` names parameters that train anyway.
 * The error describes the file and the alternatives.
 */
export function refuseRounded(
  graph: Graph,
  choices: readonly ParameterChoice[],
  { train, straightThrough }: SelectOptions,
): void {
  const lost = choices.filter(c => c.why === ROUNDED);
  const exact = choices.filter(c => c.trains);
  if (straightThrough || !lost.length || (train?.length && exact.length)) return;
  throw new AgdError('no-gradient', explain(graph, lost, exact));
}

/**
 * A one-line description of a quantized file and the alternatives; `lost` are the parameters that rounding prevents
 * from training, `exact` those that train.
 */
export function explain(
  graph: Graph,
  lost: readonly ParameterChoice[],
  exact: readonly ParameterChoice[],
): string {
  const nodes = [...allGraphs(graph)].flatMap(g => g.nodes);
  const operators = [...new Set(nodes.filter(rounds).map(n => n.opType))];
  const integers = integerWeights(graph);
  const isDynamic = operators.some(op => op.startsWith('Dynamic'));
  const kind = `The model is ${isDynamic ? 'dynamically ' : ''}quantized`;
  const held = integers.length
    ? `${integers.length} of its weights, such as '${integers[0]!.value.name}', are stored as ${integers[0]!.why}, and`
    : 'it rounds its weights when it runs, and';
  const without = exact.length
    ? `without it only ${listed(exact)} can train: --train ${exact.length > 1 ? 'GLOB' : exact[0]!.value.name}`
    : 'without it nothing can train';
  const float = integers.length
    ? ' Weights stored as integers never train: for that, train the floating-point file that this one was made from, and quantize it afterwards.'
    : '';
  return (
    `${kind}: ${held} no gradient passes ${operators.join(', ')}. ` +
    `--straight-through lets it pass and trains ${listed(lost)}; ${without}.${float}`
  );
}

function listed(choices: readonly ParameterChoice[]): string {
  const names = choices.slice(0, 3).map(c => `'${c.value.name}'`);
  return names.join(', ') + (choices.length > 3 ? ` and ${choices.length - 3} more` : '');
}
