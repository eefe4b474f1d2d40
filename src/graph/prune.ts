import { reads } from './dependents.js';
import type { Graph, Node, Value } from './ir.js';

/**
 * Removes the nodes, including those of subgraphs, that no graph output depends on. Returns the values that some
 * output depends on, including outer ones.
 */
export function prune(graph: Graph): Set<Value> {
  const live = new Set<Value>(graph.outputs);
  const kept: Node[] = [];
  for (const node of [...graph.nodes].reverse()) {
    if (!node.outputs.some(o => o && live.has(o))) continue;
    kept.push(node);
    for (const v of node.inputs) if (v) live.add(v);
    for (const sub of node.subgraphs()) {
      prune(sub);
      for (const v of sub.captures()) live.add(v);
    }
  }
  if (kept.length < graph.nodes.length) graph.nodes = kept.reverse();
  return live;
}

/** The values of the graph and of outer graphs that these depend on, including these. */
export function dependencies(graph: Graph, values: readonly Value[]): Set<Value> {
  const needed = new Set<Value>(values);
  for (const node of [...graph.nodes].reverse()) {
    if (!node.outputs.some(o => o && needed.has(o))) continue;
    for (const v of reads(node)) needed.add(v);
  }
  return needed;
}

/** The inputs without a default that these values depend on; a caller must feed them. */
export function neededInputs(graph: Graph, values: readonly Value[]): Value[] {
  const needed = dependencies(graph, values);
  return graph.inputs.filter(v => needed.has(v) && !graph.initializers.has(v));
}
