import { allGraphs, type Graph, type Value } from '../../graph/ir.js';

/**
 * Makes MatMulNBits compute in floating point where values are `changing`: fed or updated. At `accuracy_level` 4 its
 * kernel rounds activations to 8 bits and prepacks weights with their scales and zero points when the session is
 * created; if those are not constants, the result is silently zero. Gradients are those of the floating-point
 * computation, so everything before and after trained values uses it as well. Returns whether there were any.
 */
export function computeInFloat(graph: Graph, changing: readonly Value[]): boolean {
  if (!changing.length) return false;
  const rounding = [...allGraphs(graph)]
    .flatMap(({ nodes }) => nodes.filter(node => node.opType === 'MatMulNBits'))
    .filter(node => node.domain === 'com.microsoft');
  for (const node of rounding) node.setAttr('accuracy_level', { type: 'int', value: 0 });
  return rounding.length > 0;
}
