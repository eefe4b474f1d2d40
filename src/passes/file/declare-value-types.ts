import { allGraphs, type Model, type Value } from '../../graph/ir.js';
import { listTypes } from '../../graph/proto/codec.js';

/**
 * Declares in the file the types of values whose extents follow from integers that the graph computes, such as a
 * Reshape to the shape of another value. A runtime does not infer these, and without them it cannot tell that two
 * values have equal sizes and share memory; a resumed run would be laid out otherwise, and round so. Returns whether there are any.
 */
export function declareValueTypes(model: Model): boolean {
  let changed = false;
  for (const graph of allGraphs(model.graph)) {
    const outputs = new Set<Value | null>(graph.outputs);
    const isInteger = (v: Value | null) =>
      v?.dtype === 'int64' && !model.graph.initializers.has(v) && !graph.initializers.has(v);
    const open = graph.nodes.filter(node => node.inputs.some(isInteger)).flatMap(node => node.outputs);
    const listed = open.flatMap(v =>
      v?.shape?.some(d => typeof d !== 'number') && v.shape.some(d => d !== null) && !outputs.has(v)
        ? [v]
        : [],
    );
    listTypes(graph, listed);
    changed ||= listed.length > 0;
  }
  return changed;
}
