/** Binary cross-entropy, of logits and of probabilities. */
import type { Expr } from '../core/expr.js';
import type { Loss } from './loss.js';

/** log(1 + exp(x)) - x t, which is finite for every x. */
export const bceWithLogits: Loss = {
  target: 'values',
  range: { least: 0, most: 1 },
  activation: 'sigmoid',
  terms: (output, target) => ({ loss: output.op('Softplus').sub(output.mul(target)) }),
};

export const bce: Loss = {
  target: 'values',
  range: { least: 0, most: 1 },
  terms: (output, target) => ({ loss: bceTerm(output, target) }),
};

/** -t log(p) - (1 - t) log(1 - p), in float32 where the output has 16 bits. */
function bceTerm(output: Expr, target: Expr): Expr {
  const dtype = output.dtype === 'float64' ? 'float64' : 'float32';
  const [p, t] = [output.cast(dtype), target.cast(dtype)];
  const loss = t.mul(boundedLog(p)).add(t.rsub(1).mul(boundedLog(p.rsub(1))));
  return loss.neg().cast(output.dtype);
}

/**
 * log(p), at least -100, as in PyTorch's BCELoss. The logarithm has no slope at p = 0; there it is PyTorch's, 1 / 1e-12.
 * A negative p gives NaN.
 */
function boundedLog(p: Expr): Expr {
  const isZero = p.equal(0);
  const log = isZero.where(1, p).log().op('Clip', [-100]);
  return isZero.where(p.mul(1e12).sub(100), log);
}
