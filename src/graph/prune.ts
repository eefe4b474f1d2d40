import type { Graph, Node, Value } from './ir.js';
import { refill } from './refill.js';

/**
 * Removes the nodes that none of the graph's outputs depends on, those of subgraphs too. Returns the values that some
 * output depends on, outer ones included.
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
  refill(graph.nodes, kept.reverse());
  return live;
}
