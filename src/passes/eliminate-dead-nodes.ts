import { allGraphs, type Model, type Node, type Value } from '../graph/ir.js';

/**
 * Removes the nodes and the initializers of the main graph that no graph output depends on. Graph inputs, and
 * initializers that are their defaults, stay. Returns whether anything was removed.
 */
export function eliminateDeadNodes({ graph }: Model): boolean {
  const live = new Set<Value>(graph.outputs);
  const kept: Node[] = [];
  for (const node of [...graph.nodes].reverse()) {
    if (!node.outputs.some(o => o && live.has(o))) continue;
    kept.push(node);
    for (const v of node.inputs) if (v) live.add(v);
    for (const sub of node.subgraphs()) for (const v of sub.captures()) live.add(v);
  }
  const before = graph.nodes.length + graph.initializers.size;
  graph.nodes.splice(0, graph.nodes.length, ...kept.reverse());
  const inputs = new Set(graph.inputs);
  for (const value of [...graph.initializers.keys()])
    if (!live.has(value) && !inputs.has(value)) graph.initializers.delete(value);
  return graph.nodes.length + graph.initializers.size < before;
}

/** Number of nodes, subgraphs included. */
export function countNodes(model: Model): number {
  let count = 0;
  for (const graph of allGraphs(model.graph)) count += graph.nodes.length;
  return count;
}
