import { dependents } from '../graph/dependents.js';
import { allGraphs, type Graph, type Value } from '../graph/ir.js';

/**
 * Lets MatMulNBits compute in floating point where what it reads depends on `changing`: values that are fed, or that a
 * run changes. Its kernel for activations of 8 bits (`accuracy_level` 4) packs the weights when a session is made, with
 * scales and zero points that are constants then; of others the result is zero, without a word. Gradients are those of the
 * computation in floating point, so that what lies between trained values and the loss is computed in it too.
 */
export function computeInFloat({ nodes }: Graph, changing: readonly Value[]): void {
  for (const node of dependents(nodes, changing)) {
    const inner = node.subgraphs().flatMap(body => [...allGraphs(body)].flatMap(graph => graph.nodes));
    for (const each of [node, ...inner])
      if (each.opType === 'MatMulNBits' && each.domain === 'com.microsoft')
        each.setAttr('accuracy_level', { type: 'int', value: 0 });
  }
}
