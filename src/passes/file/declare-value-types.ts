import { allGraphs, type Graph, type Model, type Node, type Value } from '../../graph/ir.js';
import { listTypes } from '../../graph/proto/codec.js';

/**
 * Has the file say the types of values whose extents follow from integers that the graph computes, as those of a Reshape
 * to the shape of another value: a runtime does not infer them, and where it can't tell that two values are of one size, it
 * does not compute one in the place of the other. Returns whether there are any.
 */
export function declareValueTypes(model: Model): boolean {
  let changed = false;
  for (const graph of allGraphs(model.graph)) {
    const outputs = new Set<Value | null>(graph.outputs);
    const open = graph.nodes.filter(node => isShaped(node, model.graph, graph)).flatMap(node => node.outputs);
    const listed = open.flatMap(v =>
      v?.shape?.some(d => typeof d === 'string') && !outputs.has(v) ? [v] : [],
    );
    listTypes(graph, listed);
    changed ||= listed.length > 0;
  }
  return changed;
}

const isShaped = (node: Node, ...graphs: readonly Graph[]) =>
  node.inputs.some(v => v?.dtype === 'int64' && !graphs.some(g => g.initializers.has(v)));
