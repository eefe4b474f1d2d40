/** What a model uses its parameters as, for optimizers that treat hidden matrices in a way of their own. */
import type { Graph, Value } from '../../graph/ir.js';
import type { ParameterUse } from '../../ops/optimizers/optimizer.js';
import { usesIn } from '../common/readers.js';
import { headsOf, type LinearLayer, linearLayers } from './find-head.js';

/** The use of each parameter; heads are the last linear layers before `outputs`. */
export function parameterUses(
  graph: Graph,
  parameters: readonly Value[],
  outputs: readonly Value[],
): ParameterUse[] {
  const follow = usesIn(graph);
  const heads = new Set(headsOf(graph, outputs).map(head => head.weight.value));
  const layers = new Map<Value, LinearLayer>();
  // Gradients that the graph already computes read the weight later, and transposed.
  for (const layer of linearLayers(graph))
    if (!layers.has(layer.weight.value)) layers.set(layer.weight.value, layer);
  return parameters.map(value => {
    const uses = follow(value);
    const layer = layers.get(value);
    return {
      isTable: uses.length > 0 && uses.every(u => u.node.opType === 'Gather' && u.index === 0),
      isHead: heads.has(value),
      isTransposed: layer !== undefined && layer.outAxis !== (layer.weight.isTransposed ? 1 : 0),
    };
  });
}
