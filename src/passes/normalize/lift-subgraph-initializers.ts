import { allGraphs, type Model, type Value } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import type { Tensor } from '../../graph/tensor.js';
import { weightOf } from './lift-constants.js';

/**
 * Moves the initializers of subgraphs, and the weights in their Constant nodes, to the main graph, where they can
 * train and subgraphs can read them. A name that the main graph already has gets a number. Those that are outputs of
 * a subgraph stay, as a subgraph must not return an outer value. Returns whether there were any.
 */
export function liftSubgraphInitializers(model: Model): boolean {
  const { graph } = model;
  const subgraphs = [...allGraphs(graph)].slice(1);
  // Few graphs have any, and the list of names is long.
  if (!subgraphs.length) return false;
  const written = graph.nodes.flatMap(n => n.outputs);
  const taken = new Set([...graph.initializers.keys(), ...graph.inputs, ...written].map(v => v?.name));
  let names: Names | undefined;
  let changed = false;
  const lift = (value: Value, tensor: Tensor) => {
    if (taken.has(value.name)) {
      names ??= Names.of(model);
      value.name = names.fresh(value.name);
    }
    taken.add(value.name);
    value.type ??= { kind: 'tensor', dtype: tensor.dtype, shape: tensor.dims };
    graph.initializers.set(value, tensor);
    changed = true;
  };
  for (const sub of subgraphs) {
    for (const [value, tensor] of sub.initializers) {
      if (sub.outputs.includes(value)) continue;
      lift(value, tensor);
      sub.initializers.delete(value);
    }
    sub.nodes = sub.nodes.filter(node => {
      const tensor = weightOf(node);
      const value = node.outputs[0]!;
      if (!tensor || sub.outputs.includes(value)) return true;
      lift(value, tensor);
      return false;
    });
  }
  return changed;
}
