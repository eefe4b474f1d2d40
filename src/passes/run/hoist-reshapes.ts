import { reads } from '../../graph/dependents.js';
import { type Graph, Node, type TensorType, Value } from '../../graph/ir.js';

/**
 * If the body of a Scan reshapes a state at its start and back at its end, gives the state the inner shape
 * throughout, as input and output of the graph too, since a Reshape at the boundary of a graph copies. The first
 * `count` inputs of `scan` are states, and inputs of `graph`; those that change lose their initializers. Returns
 * their new extents, by name.
 */
export function hoistReshapes(
  graph: Graph,
  scan: Node,
  body: Graph,
  count: number,
): Map<string, readonly number[]> {
  const isReshape = (node: Node | undefined): node is Node =>
    node?.opType === 'Reshape' && node.domain === '' && graph.initializers.has(node.inputs[1]!);
  // The nearest one, as the state may be reshaped differently where a gradient is computed.
  const entrance = (state: Value, result: Value) => {
    const found = new Set([result]);
    for (const value of found) {
      const node = value.producer;
      if (isReshape(node) && node.inputs[0] === state) return node;
      for (const read of node ? reads(node) : []) found.add(read);
    }
    return undefined;
  };
  const hoisted = new Map<string, readonly number[]>();
  for (let i = 0; i < count; i++) {
    const [state, next] = [body.inputs[i]!, body.outputs[i]!];
    const leave = next.producer;
    const enter = isReshape(leave) ? entrance(state, leave.inputs[0]!) : undefined;
    if (!enter || !isReshape(leave)) continue;
    const type = reshaped(state, graph.initializers.get(enter.inputs[1]!)!.numbers());
    if (!type) continue;
    reshapeState(body, i, enter, leave, type);
    scan.outputs[i]!.type = type;
    const [start, fed] = [scan.inputs[i]!, new Value(scan.inputs[i]!.name, type)];
    scan.setInput(i, fed);
    graph.inputs = graph.inputs.map(v => (v === start ? fed : v));
    graph.initializers.delete(start);
    hoisted.set(start.name, type.shape);
  }
  return hoisted;
}

/** Gives a state of a Scan's body the type to which `enter` reshapes it, and from which `leave` reshapes its next value. */
export function reshapeState(body: Graph, i: number, enter: Node, leave: Node, type: TensorType): void {
  const [state, next] = [body.inputs[i]!, body.outputs[i]!];
  const [worked, result] = [enter.outputs[0]!, leave.inputs[0]!];
  body.inputs[i] = worked;
  body.outputs = body.outputs.with(i, result);
  worked.type = type;
  result.type = type;
  const others = new Set(body.nodes.flatMap(node => (node === enter ? [] : reads(node))));
  body.nodes = body.nodes.filter(node => node !== enter && (node !== leave || others.has(next)));
  if (others.has(state)) body.prepend(new Node('Reshape', [worked, leave.inputs[1]!], [state]));
}

/** The type of a value with known extents, reshaped to other extents, of which one may be -1. */
function reshaped({ dtype, shape }: Value, extents: readonly number[]) {
  if (!dtype || !shape?.every(d => typeof d === 'number') || extents.includes(0)) return undefined;
  const product = (dims: readonly number[]) => dims.reduce((n, d) => n * d, 1);
  const rest = product(shape as number[]) / -product(extents);
  return { kind: 'tensor', dtype, shape: extents.map(d => (d === -1 ? rest : d)) } as const;
}
