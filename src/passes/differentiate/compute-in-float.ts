import { dependents } from '../../graph/dependents.js';
import { allGraphs, type Graph, type Value } from '../../graph/ir.js';

/**
 * Makes MatMulNBits compute in floating point if its inputs depend on `changing`: values that are fed or updated. At
 * `accuracy_level` 4 its kernel rounds activations to 8 bits and prepacks weights with their scales and zero points
 * when the session is created; if those are not constants, the result is silently zero. Gradients are those of the
 * floating-point computation, so everything between trained values and the loss uses it as well. Returns whether
 * there were any.
 */
export function computeInFloat({ nodes }: Graph, changing: readonly Value[]): boolean {
  let changed = false;
  for (const node of dependents(nodes, changing)) {
    const inner = node.subgraphs().flatMap(body => [...allGraphs(body)].flatMap(graph => graph.nodes));
    for (const each of [node, ...inner])
      if (each.opType === 'MatMulNBits' && each.domain === 'com.microsoft') {
        each.setAttr('accuracy_level', { type: 'int', value: 0 });
        changed = true;
      }
  }
  return changed;
}
