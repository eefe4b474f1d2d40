import { Graph, Model, type Node, type Value } from '../graph/ir.js';
import { Names } from '../graph/names.js';
import { Builder } from '../ops/core/builder.js';
import { extensionOf } from '../ops/index.js';
import { expandNode } from './differentiate/expand-nodes.js';
import { inferShapes, type ShapeOracle } from './normalize/infer-shapes.js';

/**
 * Writes the operators that extensions expand as others, before anything runs: the runtime need have no kernel for them.
 * An expansion may ask for the types of its inputs, so that what comes before it is typed first. Only the main graph's
 * nodes are expanded. Returns whether there were any.
 */
export async function expandExtensions(model: Model, oracle: ShapeOracle): Promise<boolean> {
  const { graph } = model;
  let changed = false;
  while (graph.nodes.some(extensionOf)) {
    const before = nodesBefore(graph);
    if (before.length) {
      const view = Graph.view(graph, {
        nodes: before,
        outputs: before.at(-1)!.outputs.filter(v => v !== null),
      });
      await inferShapes(Object.assign(new Model(view), model, { graph: view }), oracle);
    }
    for (const [value, tensor] of graph.initializers)
      value.type ??= { kind: 'tensor', dtype: tensor.dtype, shape: tensor.dims };
    const known = new Set<Value | null>(before.flatMap(node => node.outputs));
    const g = new Builder(graph, { names: Names.of(model), opsets: model.opsetImports });
    const unknown = unknownValues(graph);
    graph.nodes = graph.nodes.flatMap(node => {
      const def = extensionOf(node);
      const ready = def && node.inputs.every(v => known.has(v) || !unknown.has(v));
      return ready ? expandNode(g, node, def) : [node];
    });
    changed = true;
  }
  return changed;
}

/** The values that an extension's operator has a part in. */
function unknownValues({ nodes }: Graph): Set<Value | null> {
  const unknown = new Set<Value | null>();
  for (const node of nodes)
    if (extensionOf(node) || operands(node).some(v => unknown.has(v)))
      for (const output of node.outputs) if (output) unknown.add(output);
  return unknown;
}

function nodesBefore(graph: Graph): Node[] {
  const unknown = unknownValues(graph);
  return graph.nodes.filter(node => !node.outputs.some(v => v && unknown.has(v)));
}

const operands = (node: Node) => [...node.inputs, ...node.subgraphs().flatMap(sub => sub.captures())];
