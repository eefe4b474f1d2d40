/** Runs rewrites of single nodes over a model, subgraphs included. */
import { allGraphs, type Model, type Node, type Value } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import { prune } from '../../graph/prune.js';
import type { Tensor } from '../../graph/tensor.js';
import { Builder } from '../../ops/core/builder.js';

/** Writes what a node's first output is replaced by. */
export type Rewrite = (g: Builder) => Value;

/** The tensor of an initializer or of a Constant node. */
export type Constant = (value: Value | null | undefined) => Tensor | undefined;

export function constantsOf(model: Model): Constant {
  const initializers = new Map([...allGraphs(model.graph)].flatMap(graph => [...graph.initializers]));
  return value => {
    const held = value?.producer?.attrs.get('value');
    return held?.type === 'tensor' ? held.value : initializers.get(value!);
  };
}

/**
 * Replaces nodes, and removes what is no longer read then. `rewritesOf` is asked for each node, and gives those of nodes that
 * follow it. Returns whether there was anything to change.
 */
export function rewriteNodes(
  model: Model,
  rewritesOf: (node: Node, constant: Constant) => Iterable<readonly [Node, Rewrite]>,
): boolean {
  const names = Names.of(model);
  const constant = constantsOf(model);
  let changed = false;
  for (const graph of [...allGraphs(model.graph)]) {
    const rewrites = new Map(graph.nodes.flatMap(node => [...rewritesOf(node, constant)]));
    if (!rewrites.size) continue;
    changed = true;
    const { nodes } = graph;
    graph.nodes = [];
    const g = new Builder(graph, { names, opsets: model.opsetImports });
    for (const node of nodes) {
      const rewrite = rewrites.get(node);
      if (rewrite) g.identity(rewrite(g), node.outputs[0]!);
      else g.adopt([node]);
    }
    prune(graph);
  }
  return changed;
}
