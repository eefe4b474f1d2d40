/** What files have in common in which the state of a training step is plain inputs and outputs. */
import { type Binding, Graph, Model, Node, Value } from '../../graph/ir.js';

/** Writes the output with the next value of each state into the metadata entry `agd.updates`, as JSON. */
export function recordUpdates(model: Model, updates: readonly Binding[]): void {
  model.metadata.set('agd.updates', JSON.stringify(Object.fromEntries(updates.map(u => [u.state, u.value]))));
}

/** A model whose outputs are these initializers. */
export function constantsOf(model: Model, names: ReadonlySet<string>): Model {
  const graph = new Graph('state');
  for (const [value, tensor] of model.graph.initializers) {
    if (!names.has(value.name)) continue;
    const stored = new Value(`${value.name}_first`, value.type);
    graph.initializers.set(stored, tensor);
    const first = new Value(value.name, value.type);
    graph.addOutputs(first);
    graph.append(new Node('Identity', [stored], [first]));
  }
  return like(model, graph);
}

/** A model with another graph, and nothing of what the file says of training. */
export function like(model: Model, graph: Graph): Model {
  const { extra, functions, metadata, trainingInfo, ...rest } = model;
  return Object.assign(new Model(graph), rest, { graph });
}
