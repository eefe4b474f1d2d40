import { type Binding, Graph, Model, Node, Value } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import { Attributes } from '../../ops/core/rule.js';

/** Of fewer elements, a node takes longer than reading them from JavaScript. */
const LEAST = 2 ** 14;

/** Where an element of an operand is not finite, the result has one that is not either. Of a quotient, the first operand alone. */
const PASS_ON = new Set(['Add', 'Sub', 'Mul', 'Div', 'Neg', 'Identity', 'Reshape']);

/** `output` is finite only where all elements of the next values of these states are. */
export type StateSum = { output: string; states: ReadonlySet<string> };

/**
 * The same model with the sum of its large float32 states as one more output, without those from which another one of them is
 * computed: that is finite only where they are. Nodes are shared.
 */
export function withStateSum(
  model: Model,
  updates: readonly Binding[],
): { model: Model; sum: StateSum | undefined } {
  const names = Names.of(model);
  const outputs = new Map(model.graph.outputs.map(v => [v.name, v]));
  const large = updates.filter(u => isLarge(outputs.get(u.value)!));
  if (!large.length) return { model, sum: undefined };
  const made = new Map(large.map(({ value }) => [value, writtenAs(outputs.get(value)!)]));
  const implied = new Set([...made.values()].flatMap(v => [...operandsOf(v)]));
  const scalar = () => new Value(names.fresh('state_sum'), { kind: 'tensor', dtype: 'float32', shape: [] });
  const sums = large.flatMap(({ value }) => {
    if (implied.has(made.get(value)!)) return [];
    const node = new Node('ReduceSum', [outputs.get(value)!], [scalar()]);
    node.setAttr('keepdims', { type: 'int', value: 0 });
    return [node];
  });
  const terms = sums.map(node => node.outputs[0]!);
  const sum = scalar();
  const graph = Graph.view(model.graph, {
    nodes: [...model.graph.nodes, ...sums, new Node('Sum', terms, [sum])],
    outputs: [...model.graph.outputs, sum],
  });
  return {
    model: Object.assign(new Model(graph), model, { graph }),
    sum: { output: sum.name, states: new Set(large.map(u => u.state)) },
  };
}

function isLarge({ dtype, shape }: Value): boolean {
  const isKnown = dtype === 'float32' && shape?.every(d => typeof d === 'number');
  return !!isKnown && (shape as number[]).reduce((n, d) => n * d, 1) >= LEAST;
}

/**
 * The value that this one has the elements of, in the body of the Scan over tiles that writes it. All of them are of the last step
 * of the Scan over steps, whose states they are, and of all tiles.
 */
function writtenAs(value: Value, isState = true): Value {
  const node = value.producer;
  if (!node || node.domain) return value;
  if (node.opType === 'Reshape' || node.opType === 'Identity') return writtenAs(node.inputs[0]!, isState);
  if (node.opType !== 'Scan') return value;
  const states = node.inputs.length - new Attributes(node).int('num_scan_inputs', 0);
  const at = node.outputs.indexOf(value);
  if (isState ? at >= states : states > 0) return value;
  return writtenAs(node.subgraphs()[0]!.outputs[at]!, false);
}

/** The values of which each element that is not finite makes one of this value so, without the value itself. */
function operandsOf(value: Value): Set<Value> {
  const found = new Set([value]);
  for (const { producer } of found) {
    if (!producer || producer.domain || !PASS_ON.has(producer.opType)) continue;
    const { opType, inputs } = producer;
    for (const operand of opType === 'Div' || opType === 'Reshape' ? inputs.slice(0, 1) : inputs)
      if (operand) found.add(operand);
  }
  found.delete(value);
  return found;
}
