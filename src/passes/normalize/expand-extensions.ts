import { withGraph } from '../../graph/clone.js';
import { reads } from '../../graph/dependents.js';
import { Graph, type Model, type Node, type Value } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import { bodyInputTypes } from '../../ops/core/bodies.js';
import { Builder } from '../../ops/core/builder.js';
import type { Provider } from '../../ops/core/provider.js';
import { expansionWithoutKernel } from '../../ops/index.js';
import { expandNode } from '../common/expand-node.js';
import { bodyModel, inferShapes, type ShapeOracle } from './infer-shapes.js';

/**
 * Replaces operators for which an extension defines an expansion, and forms of others that no kernel of the provider
 * computes, in the main graph and in subgraphs, so that the runtime needs no kernel for them. An expansion may depend on the
 * types of its inputs, which can follow from other expansions: each round infers the types of what no remaining one affects,
 * and replaces the operators that read only this. Returns whether there were any.
 */
export async function expandExtensions(
  model: Model,
  oracle: ShapeOracle,
  provider: Provider = 'cpu',
): Promise<boolean> {
  const { graph } = model;
  let changed = false;
  while (graph.nodes.some(node => holdsExtension(node, provider))) {
    for (const [value, tensor] of graph.initializers)
      value.type ??= { kind: 'tensor', dtype: tensor.dtype, shape: tensor.dims };
    const g = new Builder(graph, { names: Names.of(model), opsets: model.opsetImports, provider });
    await expandReady(model, g, oracle);
    changed = true;
  }
  return changed;
}

/** One round in the graph of `g`. `model` is the graph as a model of its own, for its types. */
async function expandReady(model: Model, g: Builder, oracle: ShapeOracle): Promise<void> {
  const { graph, provider } = g;
  const unknown = unknownValues(g);
  const known = graph.nodes.filter(node => !node.outputs.some(v => v && unknown.has(v)));
  const outputs = known.at(-1)?.outputs.filter(v => v !== null);
  if (outputs && model.graph.inputs.every(v => v.type))
    await inferShapes(withGraph(model, Graph.view(model.graph, { nodes: known, outputs })), oracle);
  const nodes: Node[] = [];
  for (const node of graph.nodes) {
    const def = expansionWithoutKernel(node, provider);
    const isReady = holdsExtension(node, provider) && !reads(node).some(v => unknown.has(v));
    if (isReady && def) nodes.push(...expandNode(g, node, def));
    else nodes.push(node);
    if (isReady && !def) await expandInSubgraphs(model, g, node, oracle);
  }
  graph.nodes = nodes;
}

async function expandInSubgraphs(model: Model, g: Builder, node: Node, oracle: ShapeOracle): Promise<void> {
  const types = bodyInputTypes(node);
  for (const sub of node.subgraphs()) {
    if (!sub.nodes.some(inner => holdsExtension(inner, g.provider))) continue;
    sub.inputs.forEach((value, i) => {
      const type = types[i];
      // Iterations may change the extents of what a Loop carries.
      if (node.opType !== 'Loop' || i < 2 || type?.kind !== 'tensor') value.type = type ?? value.type;
      else if (!value.shape) value.type = { ...type, shape: type.shape?.map(() => null) };
    });
    await expandReady(bodyModel(model, sub), new Builder(sub, g.scope, g), oracle);
  }
}

/** The values that depend on an operator of an extension. */
function unknownValues({ graph: { nodes }, provider }: Builder): Set<Value> {
  const unknown = new Set<Value>();
  for (const node of nodes)
    if (holdsExtension(node, provider) || reads(node).some(v => unknown.has(v)))
      for (const output of node.outputs) if (output) unknown.add(output);
  return unknown;
}

const holdsExtension = (node: Node, provider: Provider): boolean =>
  expansionWithoutKernel(node, provider) !== undefined ||
  node.subgraphs().some(sub => sub.nodes.some(inner => holdsExtension(inner, provider)));
