import type { Graph, Model } from '../../graph/ir.js';
import { prune } from '../../graph/prune.js';

/**
 * Removes nodes, including those of subgraphs, and initializers of the main graph that no graph output depends on.
 * Graph inputs and their default values stay. Returns whether anything was removed.
 */
export function eliminateDeadNodes(model: Model): boolean {
  const { graph } = model;
  const size = () => countNodes(model) + graph.initializers.size;
  const before = size();
  const live = prune(graph);
  const inputs = new Set(graph.inputs);
  for (const value of [...graph.initializers.keys()])
    if (!live.has(value) && !inputs.has(value)) graph.initializers.delete(value);
  return size() < before;
}

/** Removes inputs without a default that no node reads and no graph returns. Returns whether there were any. */
export function dropUnreadInputs({ graph }: Model): boolean {
  const kept = graph.inputs.filter(v => v.isUsed || graph.initializers.has(v));
  const changed = kept.length < graph.inputs.length;
  graph.inputs = kept;
  return changed;
}

/** Number of nodes, including those of subgraphs. */
export function countNodes(model: Model): number {
  return countIn(model.graph);
}

function countIn({ nodes, owners }: Graph): number {
  let count = nodes.length;
  for (const node of owners) for (const sub of node.subgraphs()) count += countIn(sub);
  return count;
}
