/** Losses that compare outputs of the model with each other. */
import { AgdError } from '../../graph/errors.js';
import { showShape } from '../../graph/ir.js';
import type { Expr } from '../core/expr.js';
import type { Loss } from './loss.js';

/**
 * Cross-entropy of each sample's pair among all pairs of the batch, in both directions: rows of a, b [batch, width] scaled
 * to length 1, logits a b^T / temperature (0.07 if not given). Radford et al. 2021, "Learning transferable visual models
 * from natural language supervision".
 */
export const contrastive: Loss = {
  target: 'output',
  acrossBatch: true,
  options: ['temperature'],
  terms(a, b, { temperature = 0.07 }) {
    const scores = unit(a).matmul(unit(b).mT).div(temperature);
    const own = unit(a).mul(unit(b)).sum([1]).div(temperature);
    const total = (axis: number) => logSumExp(scores, axis);
    return { loss: total(1).add(total(0)).mul(0.5).sub(own) };
  },
};

function unit(x: Expr): Expr {
  if (x.rank !== 2)
    throw new AgdError(
      'bad-shape',
      `Output '${x.value.name}' of shape ${showShape(x.shape)} cannot be compared across the batch: expected [batch, width].`,
    );
  return x.div(x.square().sum([1], { keepdims: true }).add(1e-12).sqrt());
}

const logSumExp = (x: Expr, axis: number) => x.op('ReduceLogSumExp', [x.g.ints([axis])], { keepdims: 0 });

/**
 * max(0, |a - p| - |a - n| + margin) of vectors along the last axis, with margin 1 if not given. As in PyTorch's
 * triplet_margin_loss, differences get 1e-6 more.
 */
export const triplet: Loss = {
  target: 'output',
  third: 'negative',
  options: ['negative', 'margin'],
  terms(anchor, positive, { margin = 1 }, { negative }) {
    const distance = (x: Expr) =>
      anchor
        .sub(x)
        .add(1e-6)
        .square()
        .sum([anchor.rank - 1])
        .sqrt();
    if (!negative)
      throw new AgdError(
        'bad-option',
        "The triplet loss compares three outputs: --loss 'triplet(anchor, positive, negative)'.",
      );
    return { loss: distance(positive).sub(distance(negative)).add(margin).relu() };
  },
};
