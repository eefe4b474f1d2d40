import { isFloat } from '../graph/dtype.js';
import type { Model } from '../graph/ir.js';

/**
 * Makes initializers of the floating-point tensors with more than one element that Constant nodes of the main
 * graph hold: some exporters hide weights there. Names stay. Returns whether there were any.
 */
export function liftConstants({ graph }: Model): boolean {
  const kept = graph.nodes.filter(node => {
    const attr = node.opType === 'Constant' && node.domain === '' ? node.attrs.get('value') : undefined;
    if (attr?.type !== 'tensor' || !isFloat(attr.value.dtype) || attr.value.size < 2) return true;
    const value = node.outputs[0]!;
    value.type = { kind: 'tensor', dtype: attr.value.dtype, shape: attr.value.dims };
    graph.initializers.set(value, attr.value);
    return false;
  });
  const changed = kept.length < graph.nodes.length;
  if (changed) graph.nodes.splice(0, graph.nodes.length, ...kept);
  return changed;
}
