/** Declares an older operator set if the runtime has kernels for an operator only there. */
import { allGraphs, type Model, type Node } from '../../graph/ir.js';

/** The last version for which the runtime has kernels of these operators. */
const LAST = 21;
const WITHOUT_KERNEL = new Set([
  ...['RoiAlign', 'MaxRoiPool', 'GlobalLpPool', 'Multinomial'],
  ...['RandomNormal', 'RandomNormalLike', 'RandomUniform', 'RandomUniformLike'],
]);

/** Additions after version 21: operators, and attributes of older ones. All other changes only allow more types. */
const NEWER = new Set([
  ...['Attention', 'BitCast', 'CumProd', 'RMSNormalization', 'RotaryEmbedding', 'Swish', 'TensorScatter'],
]);
const NEWER_ATTRIBUTES = ['round_mode', 'precision', 'output_dtype'];

/**
 * Sets the default operator set back to version 21 if the runtime can run one of its operators in that version only,
 * and all nodes mean the same there. Functions must be inlined before. Returns whether it did.
 */
export function lowerOpset(model: Model): boolean {
  const nodes = [...allGraphs(model.graph)].flatMap(g => g.nodes).filter(n => n.domain === '');
  const isNewer = (n: Node) => NEWER.has(n.opType) || NEWER_ATTRIBUTES.some(name => n.attrs.has(name));
  if (model.opset <= LAST || !nodes.some(n => WITHOUT_KERNEL.has(n.opType)) || nodes.some(isNewer))
    return false;
  model.opsetImports.set('', LAST);
  return true;
}
