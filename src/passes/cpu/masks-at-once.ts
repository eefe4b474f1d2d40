import { dtypeOf } from '../../graph/dtype.js';
import type { Model, Node, Value } from '../../graph/ir.js';
import { float } from '../../ops/core/builder.js';
import { Attributes } from '../../ops/core/rule.js';
import { type Constant, rewriteNodes } from '../common/rewrite-nodes.js';

/** Makes 1 of the least normal number, 1.2e-38. */
const STEEP = 1e38;

/**
 * Computes Cast(Greater(y, 0)) of y = Relu(x) in float32, the mask in its gradient, in one pass: a HardSigmoid so steep that it
 * is 1 for all normal numbers above 0. ONNX Runtime's CPU kernel of Cast uses a single thread. NaN stays NaN, so masks of
 * what a model does not compute by Relu are left. Returns whether there was anything to change.
 */
export function masksAtOnce(model: Model): boolean {
  return rewriteNodes(model, (node, constant) => {
    const y = maskedBy(node, constant);
    return y
      ? [[node, g => g.of(y).op('HardSigmoid', [], { alpha: float(STEEP), beta: float(0) }).value]]
      : [];
  });
}

/** The y of such a Cast. */
function maskedBy(cast: Node, constant: Constant): Value | undefined {
  const greater = cast.inputs[0]?.producer;
  if (cast.opType !== 'Cast' || cast.domain || greater?.opType !== 'Greater' || greater.domain)
    return undefined;
  const [y, than] = greater.inputs as [Value, Value];
  const isRelu = y.producer?.opType === 'Relu' && y.producer.domain === '' && y.dtype === 'float32';
  const zero = constant(than);
  const isZero = zero?.dims.length === 0 && zero.numbers()[0] === 0;
  return isRelu && isZero && dtypeOf(new Attributes(cast).int('to', 0)) === 'float32' ? y : undefined;
}
