import { allGraphs, type Model, type Node } from '../../graph/ir.js';

/** The last version of which the runtime has kernels of these. */
const LAST = 21;
const WITHOUT_KERNEL = new Set([
  ...['RoiAlign', 'MaxRoiPool', 'GlobalLpPool', 'Multinomial'],
  ...['RandomNormal', 'RandomNormalLike', 'RandomUniform', 'RandomUniformLike'],
]);

/** What came after version 21: operators, and attributes of older ones. All else became allowed for more types only. */
const NEWER = new Set([
  ...['Attention', 'BitCast', 'CumProd', 'RMSNormalization', 'RotaryEmbedding', 'Swish', 'TensorScatter'],
]);
const NEWER_ATTRIBUTES = ['round_mode', 'precision', 'output_dtype'];

/**
 * Takes a model back to version 21 of the default operator set where the runtime would run one of its operators in that
 * version only, and all of its nodes mean the same there. Functions have to be inlined before. Returns whether it did.
 */
export function lowerOpset(model: Model): boolean {
  const nodes = [...allGraphs(model.graph)].flatMap(g => g.nodes).filter(n => n.domain === '');
  const isNewer = (n: Node) => NEWER.has(n.opType) || NEWER_ATTRIBUTES.some(name => n.attrs.has(name));
  if (model.opset <= LAST || !nodes.some(n => WITHOUT_KERNEL.has(n.opType)) || nodes.some(isNewer))
    return false;
  model.opsetImports.set('', LAST);
  return true;
}
