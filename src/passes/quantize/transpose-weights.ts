import type { Model } from '../../graph/ir.js';
import { transposed } from '../adapters/peft-layout.js';
import { isAttachedNode } from '../normalize/attached.js';

/**
 * Transposes matrices that only a Transpose reads, so that the layer after it has a constant weight: PyTorch exports a
 * linear layer so where it folds no constants. A matrix that others read too, as a tied embedding is, stays.
 */
export function transposeWeights({ graph }: Model): void {
  for (const node of [...graph.nodes]) {
    if (node.opType !== 'Transpose' || node.domain !== '' || isAttachedNode(node)) continue;
    const [weight] = node.inputs;
    const tensor = weight && graph.initializers.get(weight);
    const perm = node.attrs.get('perm');
    const isSwap = !perm || (perm.type === 'ints' && `${perm.value}` === '1,0');
    const [output] = node.outputs;
    if (
      tensor?.dtype !== 'float32' ||
      tensor.dims.length !== 2 ||
      !isSwap ||
      weight!.readers.length > 1 ||
      weight!.outputOf.length
    )
      continue;
    if (output!.outputOf.length || graph.inputs.includes(weight!)) continue;
    const swapped = transposed(tensor);
    weight!.type = { kind: 'tensor', dtype: swapped.dtype, shape: swapped.dims };
    graph.initializers.set(weight!, swapped);
    output!.replaceAllUses(weight!);
    graph.remove([node]);
  }
}
