/** Focal losses, which give less weight to what is predicted well. Lin et al. 2017, "Focal loss for dense object detection". */
import { nllTerms } from './cross-entropy.js';
import { classAxisIn, type Loss } from './loss.js';

/** -(1 - p[t])^gamma log p[t], with p the softmax of the output, and gamma 2 if not given. */
export const focal: Loss = {
  target: 'classes',
  options: ['gamma', 'classWeights', 'ignoreIndex', 'classAxis'],
  terms(output, target, options) {
    const axis = classAxisIn(output, options);
    const { gamma = 2 } = options;
    return nllTerms(output.op('LogSoftmax', [], { axis }), target, axis, options, nll =>
      nll.mul(nll.neg().exp().rsub(1).relu().pow(gamma)),
    );
  },
};

/** The same for labels: with s the sigmoid of the output, q = s where t = 1 and 1 - s where t = 0, as torchvision has it. */
export const sigmoidFocal: Loss = {
  target: 'values',
  range: { least: 0, most: 1 },
  activation: 'sigmoid',
  options: ['gamma', 'alpha'],
  terms(output, target, { gamma = 2, alpha }) {
    const p = output.sigmoid();
    const ce = output.op('Softplus').sub(output.mul(target));
    // 1 - q, as a sum of terms that do not cancel.
    const miss = p.mul(target.rsub(1)).add(output.neg().sigmoid().mul(target));
    const loss = ce.mul(miss.pow(gamma));
    if (alpha === undefined) return { loss };
    return { loss: loss.mul(target.mul(2 * alpha - 1).add(1 - alpha)) };
  },
};
