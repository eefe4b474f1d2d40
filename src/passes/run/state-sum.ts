import { type Binding, Graph, Model, Node, Value } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';

/** Of fewer elements, a node takes longer than reading them from JavaScript. */
const LEAST = 2 ** 14;

/** `output` is finite only where all elements of the next values of these states are. */
export type StateSum = { output: string; states: ReadonlySet<string> };

/** The same model with the sum of its large float32 states as one more output. Nodes are shared. */
export function withStateSum(
  model: Model,
  updates: readonly Binding[],
): { model: Model; sum: StateSum | undefined } {
  const names = Names.of(model);
  const outputs = new Map(model.graph.outputs.map(v => [v.name, v]));
  const large = updates.filter(u => isLarge(outputs.get(u.value)!));
  if (!large.length) return { model, sum: undefined };
  const scalar = () => new Value(names.fresh('state_sum'), { kind: 'tensor', dtype: 'float32', shape: [] });
  const sums = large.map(({ value }) => {
    const node = new Node('ReduceSum', [outputs.get(value)!], [scalar()]);
    node.setAttr('keepdims', { type: 'int', value: 0 });
    return node;
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
