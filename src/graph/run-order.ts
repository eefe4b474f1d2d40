import type { Node, Value } from './ir.js';

/**
 * The order in which ONNX Runtime runs the nodes of a graph that lists them in this one: depth first from the nodes that no
 * other one reads, the last one first, and from each to the last one listed of those that it reads (`Graph::ReverseDFSFrom`).
 * Of a list that is such an order itself, the list that the runtime runs in that order. For few nodes: it recurs.
 */
export function runOrder(nodes: readonly Node[]): Node[] {
  // Of the list, as its nodes may not be in a graph yet.
  const places = new Map<Value | null, number>();
  for (const [i, node] of nodes.entries()) for (const value of node.outputs) places.set(value, i);
  const sources = nodes.map(node =>
    node.inputs.flatMap(v => (v && places.get(v)) ?? []).sort((a, b) => b - a),
  );
  const read = new Set(sources.flat());
  const seen = new Set<number>();
  const order: Node[] = [];
  const visit = (i: number): void => {
    if (seen.has(i)) return;
    seen.add(i);
    sources[i]!.forEach(visit);
    order.push(nodes[i]!);
  };
  for (const i of [...nodes.keys()].reverse()) if (!read.has(i)) visit(i);
  return order;
}
