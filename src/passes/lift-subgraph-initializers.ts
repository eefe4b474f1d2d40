import { allGraphs, type Model } from '../graph/ir.js';
import { Names } from '../graph/names.js';

/**
 * Makes the initializers of subgraphs initializers of the main graph, which subgraphs can read: there they can
 * train. A name that the main graph has already gets a number. Returns whether there were any.
 */
export function liftSubgraphInitializers(model: Model): boolean {
  const { graph } = model;
  const taken = new Set([...graph.initializers.keys(), ...graph.inputs].map(v => v.name));
  let names: Names | undefined;
  let changed = false;
  for (const sub of allGraphs(graph)) {
    if (sub === graph) continue;
    for (const [value, tensor] of sub.initializers) {
      if (taken.has(value.name)) {
        names ??= Names.of(model);
        value.name = names.fresh(value.name);
      }
      taken.add(value.name);
      value.type ??= { kind: 'tensor', dtype: tensor.dtype, shape: tensor.dims };
      graph.initializers.set(value, tensor);
      changed = true;
    }
    sub.initializers.clear();
  }
  return changed;
}
