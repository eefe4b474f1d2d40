import { Graph, Model, Node, Value } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';

/** The same model with an empty sequence as its first output, which `Session.runInto` asks for. Nodes are shared. */
export function withUnreadOutput(model: Model): { model: Model; unread: string } {
  const unread = new Value(Names.of(model).fresh('unread'), {
    kind: 'sequence',
    elem: { kind: 'tensor', dtype: 'float32' },
  });
  const { nodes, outputs } = model.graph;
  const graph = Graph.view(model.graph, {
    nodes: [new Node('SequenceEmpty', [], [unread]), ...nodes],
    outputs: [unread, ...outputs],
  });
  return { model: Object.assign(new Model(graph), model, { graph }), unread: unread.name };
}
