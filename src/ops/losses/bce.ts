/** Binary cross-entropy, of logits and of probabilities. */
import { AgdError } from '../../graph/errors.js';
import { Tensor } from '../../graph/tensor.js';
import type { Expr } from '../core/expr.js';
import { range } from '../core/rule.js';
import { classAxisIn, type Loss, type LossOptions, numbersOf } from './loss.js';

/**
 * log(1 + exp(x)) - x t, which is finite for every x. With a weight p of positive targets, as PyTorch's pos_weight:
 * (1 - t) x + (1 + (p - 1) t) log(1 + exp(-x)).
 */
export const bceWithLogits: Loss = {
  target: 'values',
  range: { least: 0, most: 1 },
  activation: 'sigmoid',
  terms(output, target, options) {
    const { posWeight } = options;
    if (posWeight === undefined) return { loss: output.op('Softplus').sub(output.mul(target)) };
    const weight = target
      .mul(labelWeights(numbersOf('pos-weight', posWeight), output, options).sub(1))
      .add(1);
    return {
      loss: target
        .rsub(1)
        .mul(output)
        .add(weight.mul(output.neg().op('Softplus'))),
    };
  },
};

/** One weight for all labels, or one per label along the label axis. */
function labelWeights(weights: readonly number[], output: Expr, options: LossOptions): Expr {
  const { g, dtype, rank } = output;
  if (weights.length === 1) return g.scalar(weights[0]!, dtype);
  const axis = classAxisIn(output, options);
  const labels = output.extent(axis);
  if (typeof labels === 'number' && labels !== weights.length)
    throw new AgdError(
      'bad-option',
      `${weights.length} weights of positive targets were given for ${labels} labels.`,
    );
  const values = Tensor.from('float32', [weights.length], Float32Array.from(weights));
  const shape = range(0, rank).map(i => (i === axis ? -1 : 1));
  return g.tensor(values, 'pos_weight').cast(dtype).reshape(shape);
}

/** -t log(p) - (1 - t) log(1 - p). */
export const bce: Loss = {
  target: 'values',
  range: { least: 0, most: 1 },
  terms(p, t) {
    const loss = t.mul(boundedLog(p)).add(t.rsub(1).mul(boundedLog(p.rsub(1))));
    return { loss: loss.neg() };
  },
};

/**
 * log(p), at least -100, as in PyTorch's BCELoss. The logarithm has no slope at p = 0; there it is PyTorch's, 1 / 1e-12.
 * A negative p gives NaN.
 */
function boundedLog(p: Expr): Expr {
  const isZero = p.equal(0);
  const log = isZero.where(1, p).log().op('Clip', [-100]);
  return isZero.where(p.mul(1e12).sub(100), log);
}
