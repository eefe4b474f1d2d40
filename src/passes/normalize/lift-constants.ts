import { constantOf } from '../../graph/constants.js';
import { isFloat } from '../../graph/dtype.js';
import type { Model, Node } from '../../graph/ir.js';
import type { Tensor } from '../../graph/tensor.js';

/**
 * Converts Constant nodes of the main graph with a floating-point tensor of more than one element to initializers, as
 * some exporters store weights there. Names stay. Returns whether there were any.
 */
export function liftConstants({ graph }: Model): boolean {
  const kept = graph.nodes.filter(node => {
    const tensor = weightOf(node);
    if (!tensor) return true;
    const value = node.outputs[0]!;
    value.type = { kind: 'tensor', dtype: tensor.dtype, shape: tensor.dims };
    graph.initializers.set(value, tensor);
    return false;
  });
  const changed = kept.length < graph.nodes.length;
  if (changed) graph.nodes = kept;
  return changed;
}

/** The tensor of a Constant node that may be a weight. */
export function weightOf(node: Node): Tensor | undefined {
  const tensor = constantOf(node)?.tensor;
  return tensor && isFloat(tensor.dtype) && tensor.size > 1 ? tensor : undefined;
}
