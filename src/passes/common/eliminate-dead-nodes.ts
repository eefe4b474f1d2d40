import type { Graph, Model, Value } from '../../graph/ir.js';
import { prune } from '../../graph/prune.js';

/**
 * Removes nodes, including those of subgraphs, and initializers of the main graph that no graph output depends on.
 * Graph inputs and their default values stay. Returns whether anything was removed.
 */
export function eliminateDeadNodes(model: Model): boolean {
  const { graph } = model;
  const size = () => countNodes(model) + graph.initializers.size;
  const before = size();
  const live = isLive(graph) ? undefined : prune(graph);
  const inputs = new Set(graph.inputs);
  for (const value of graph.initializers.keys())
    if (!(live ? live.has(value) : value.isUsed) && !inputs.has(value)) graph.initializers.delete(value);
  return size() < before;
}

/** Whether every node writes a value that is used, as a rule: links tell that sooner than a walk from the outputs. */
function isLive({ isView, nodes, owners }: Graph): boolean {
  if (isView) return false;
  for (let i = 0; i < nodes.length; i++) if (!nodes[i]!.outputs.some(isUsed)) return false;
  return owners.every(node => node.subgraphs().every(isLive));
}

const isUsed = (v: Value | null) => v?.isUsed;

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
