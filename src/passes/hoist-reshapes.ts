import { reads } from '../graph/dependents.js';
import { type Graph, Node, Value, type ValueType } from '../graph/ir.js';
import type { Names } from '../graph/names.js';

/**
 * A state of a Scan that its body reshapes to work on, and reshapes back, has the shape of the work from step to step
 * instead: what is reshaped to leave a body is copied each time. `scan` is a node of `graph`, whose first inputs,
 * as many as `count`, are states.
 */
export function hoistReshapes(graph: Graph, scan: Node, body: Graph, count: number, names: Names): void {
  const writers = new Map(body.nodes.flatMap(node => node.outputs.map(out => [out, node] as const)));
  const isReshape = (node: Node | undefined): node is Node =>
    node?.opType === 'Reshape' && node.domain === '' && graph.initializers.has(node.inputs[1]!);
  // The nearest: where a gradient is computed, the state may be reshaped otherwise.
  const entrance = (state: Value, result: Value) => {
    const found = new Set([result]);
    for (const value of found) {
      const node = writers.get(value);
      if (isReshape(node) && node.inputs[0] === state) return node;
      for (const read of node ? reads(node) : []) found.add(read);
    }
    return undefined;
  };
  const [before, after]: Node[][] = [[], []];
  for (let i = 0; i < count; i++) {
    const [state, next] = [body.inputs[i]!, body.outputs[i]!];
    const leave = writers.get(next);
    const enter = isReshape(leave) ? entrance(state, leave.inputs[0]!) : undefined;
    if (!enter || !isReshape(leave)) continue;
    const worked = enter.outputs[0]!;
    body.inputs[i] = worked;
    body.outputs[i] = leave.inputs[0]!;
    // A file need not say the types of inner values; the runtime wants those of what a body gives.
    worked.type ??= reshaped(state, graph.initializers.get(enter.inputs[1]!)!.numbers());
    body.outputs[i]!.type ??= worked.type;
    const others = new Set(body.nodes.flatMap(node => (node === enter ? [] : reads(node))));
    body.nodes = body.nodes.filter(node => node !== enter && (node !== leave || others.has(next)));
    if (others.has(state)) body.nodes.unshift(new Node('Reshape', [worked, leave.inputs[1]!], [state]));
    const [start, end] = [scan.inputs[i]!, scan.outputs[i]!];
    scan.inputs[i] = new Value(names.fresh(`${start.name}_tiles`), worked.type);
    scan.outputs[i] = new Value(names.fresh(`${end.name}_tiles`), worked.type);
    before.push(new Node('Reshape', [start, enter.inputs[1]!], [scan.inputs[i]!]));
    after.push(new Node('Reshape', [scan.outputs[i]!, leave.inputs[1]!], [end]));
  }
  graph.nodes = [...before, ...graph.nodes, ...after];
}

/** The type of a value of known extents in other extents, of which one may be -1. */
function reshaped({ dtype, shape }: Value, extents: readonly number[]): ValueType | undefined {
  if (!dtype || !shape?.every(d => typeof d === 'number') || extents.includes(0)) return undefined;
  const product = (dims: readonly number[]) => dims.reduce((n, d) => n * d, 1);
  const rest = product(shape as number[]) / -product(extents);
  return { kind: 'tensor', dtype, shape: extents.map(d => (d === -1 ? rest : d)) };
}
