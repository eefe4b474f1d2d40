import { reads } from './dependents.js';
import { type Graph, hasSubgraphs, type Node, type Value } from './ir.js';

/**
 * Removes the nodes, including those of subgraphs, that no graph output depends on. Returns the values that some
 * output depends on, including outer ones.
 */
export function prune(graph: Graph): Set<Value> {
  const live = new Set<Value>(graph.outputs);
  const kept: Node[] = [];
  const isLive = (v: Value | null) => v !== null && live.has(v);
  const read = (v: Value | null) => v && live.add(v);
  const { nodes } = graph;
  for (let i = nodes.length - 1; i >= 0; i--) {
    const node = nodes[i]!;
    if (!node.outputs.some(isLive)) continue;
    kept.push(node);
    node.inputs.forEach(read);
    if (hasSubgraphs(node))
      for (const sub of node.subgraphs()) {
        prune(sub);
        for (const v of sub.captures()) live.add(v);
      }
  }
  if (kept.length < nodes.length) graph.nodes = kept.reverse();
  return live;
}

/** The values of the graph and of outer graphs that these depend on, including these. */
export function dependencies(graph: Graph, values: readonly Value[]): Set<Value> {
  const needed = new Set<Value>(values);
  const isNeeded = (v: Value | null) => v !== null && needed.has(v);
  const read = (v: Value) => needed.add(v);
  const { nodes } = graph;
  for (let i = nodes.length - 1; i >= 0; i--) {
    const node = nodes[i]!;
    if (node.outputs.some(isNeeded)) reads(node).forEach(read);
  }
  return needed;
}

/** The inputs without a default that these values depend on; a caller must feed them. */
export function neededInputs(graph: Graph, values: readonly Value[]): Value[] {
  const needed = dependencies(graph, values);
  return graph.inputs.filter(v => needed.has(v) && !graph.initializers.has(v));
}
