/** Losses of class numbers: cross-entropy of scores, and the negative log-likelihood of log-probabilities. */
import { AgdError } from '../../graph/errors.js';
import { Tensor } from '../../graph/tensor.js';
import type { Expr } from '../core/expr.js';
import { range } from '../core/rule.js';
import { classAxisIn, type Loss, type LossOptions, type LossTerms, numbersOf } from './loss.js';

/** nll of the log-softmax of the output. */
export const crossEntropy: Loss = {
  target: 'classes',
  terms(output, target, options) {
    const axis = classAxisIn(output, options);
    return nllTerms(output.op('LogSoftmax', [], { axis }), target, axis, options);
  },
};

/** -log p[t], of an output that holds log p. */
export const nll: Loss = {
  target: 'classes',
  activation: 'exp',
  terms: (output, target, options) => nllTerms(output, target, classAxisIn(output, options), options),
};

/**
 * -w[t] logp[t], with the weight w[t], or 0 if t is `ignoreIndex`: the mean is -sum(w[t] logp[t]) / sum(w[t]), as in
 * PyTorch. With label smoothing e over C classes: (1 - e) times that, plus e / C times -sum_c(w[c] logp[c]), over the
 * same sum of weights. `of` makes another loss of -logp[t].
 */
export function nllTerms(
  logp: Expr,
  target: Expr,
  axis: number,
  options: LossOptions,
  of = (nll: Expr) => nll,
): LossTerms {
  const { ignoreIndex, classWeights, labelSmoothing = 0 } = options;
  const kept = ignoreIndex === undefined ? undefined : target.equal(ignoreIndex).not();
  const classes = kept ? kept.where(target, 0) : target;
  const nll = logp
    .gatherElements(classes.unsqueeze([axis]), axis)
    .squeeze([axis])
    .neg();
  const picked = of(nll);
  const weights = classWeights && weightVector(numbersOf('class-weights', classWeights), logp, axis);
  let weight = weights ? weights.gather(classes) : undefined;
  if (kept) weight = weight ? weight.mul(kept.indicator(logp)) : kept.indicator(logp);
  const hard = weight ? picked.mul(weight) : picked;
  if (labelSmoothing === 0) return { loss: hard, weight };
  const shape = range(0, logp.rank).map(i => (i === axis ? -1 : 1));
  const spread = (weights ? logp.mul(weights.reshape(shape)) : logp).sum([axis]).neg();
  const soft = kept ? spread.mul(kept.indicator(logp)) : spread;
  const share = soft.g.scalar(labelSmoothing, soft.dtype).div(logp.count(logp.dtype, [axis]));
  return { loss: hard.mul(1 - labelSmoothing).add(soft.mul(share)), weight };
}

function weightVector(weights: readonly number[], logp: Expr, axis: number): Expr {
  const classes = logp.extent(axis);
  if (typeof classes === 'number' && classes !== weights.length)
    throw new AgdError('bad-option', `${weights.length} class weights were given for ${classes} classes.`);
  const values = Tensor.from('float32', [weights.length], Float32Array.from(weights));
  return logp.g.tensor(values, 'class_weights').cast(logp.dtype);
}
