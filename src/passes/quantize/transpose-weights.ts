import type { Model } from '../../graph/ir.js';
import { transposed } from '../adapters/peft-layout.js';
import { isAttachedNode } from '../normalize/attached.js';

/**
 * Makes a Transpose of a matrix a constant, so that the layer after it has a constant weight: PyTorch exports a linear
 * layer so where it folds no constants. A matrix that others read too, as a tied embedding is, stays beside it; they are
 * tied again later.
 */
export function transposeWeights({ graph }: Model): void {
  for (const node of [...graph.nodes]) {
    if (node.opType !== 'Transpose' || node.domain !== '' || isAttachedNode(node)) continue;
    const [weight] = node.inputs;
    const [output] = node.outputs;
    const tensor = weight && graph.initializers.get(weight);
    const perm = node.attrs.get('perm');
    const isSwap = !perm || (perm.type === 'ints' && `${perm.value}` === '1,0');
    if (tensor?.dtype !== 'float32' || tensor.dims.length !== 2 || !isSwap || output!.outputOf.length)
      continue;
    const isOnly = weight!.readers.length === 1 && !weight!.outputOf.length;
    const value = isOnly ? weight! : output!;
    if (isOnly) output!.replaceAllUses(value);
    graph.remove([node]);
    const swapped = transposed(tensor);
    value.type = { kind: 'tensor', dtype: swapped.dtype, shape: swapped.dims };
    graph.initializers.set(value, swapped);
  }
}
