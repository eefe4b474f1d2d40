/** Kullback-Leibler divergence of softmax distributions. */
import { classAxisIn, type Loss } from './loss.js';

/**
 * T^2 sum_c q[c] (log q[c] - log p[c]), with p the softmax of the output over T and q the target: probabilities, or with
 * `targetScores` the softmax of the target over T. Hinton et al. 2015, "Distilling the knowledge in a neural network".
 */
export const kl: Loss = {
  target: 'values',
  activation: 'softmax',
  options: ['temperature', 'targetScores', 'classAxis'],
  terms(output, target, options) {
    const { temperature = 1, targetScores = false } = options;
    const axis = classAxisIn(output, options);
    const logp = output.div(temperature).op('LogSoftmax', [], { axis });
    const logq = targetScores
      ? target.div(temperature).op('LogSoftmax', [], { axis })
      : target.equal(0).where(1, target).log();
    const q = targetScores ? logq.exp() : target;
    return {
      loss: q
        .mul(logq.sub(logp))
        .sum([axis])
        .mul(temperature ** 2),
    };
  },
};
