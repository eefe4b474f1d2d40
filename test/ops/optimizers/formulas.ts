/** The rivals' formulas on one coordinate, in float64, written as PyTorch or their authors write them. */
import type { AdamOptions } from '../../../src/ops/optimizers/adam.js';
import type { AnyOptions, OptimizerName } from '../../../src/ops/optimizers/index.js';
import type { SgdOptions } from '../../../src/ops/optimizers/sgd.js';

/** What is kept of a coordinate, by PyTorch's names; empty before the first step. */
export type Kept = Record<string, number>;

/** The next w; `t` counts from 1. */
export type Formula<O> = (w: number, g: number, kept: Kept, t: number, lr: number, options: O) => number;

const sgd: Formula<SgdOptions> = (w, grad, kept, t, lr, o) => {
  const g = grad + o.weightDecay * w;
  if (o.momentum === 0) return w - lr * g;
  kept.momentum_buffer = t === 1 ? g : o.momentum * kept.momentum_buffer! + (1 - o.dampening) * g;
  return w - lr * (o.nesterov ? g + o.momentum * kept.momentum_buffer : kept.momentum_buffer);
};

/** The averages of g and g^2 in `kept`. */
function average({ betas: [beta1, beta2] }: AdamOptions, g: number, kept: Kept): void {
  kept.exp_avg = beta1 * (kept.exp_avg ?? 0) + (1 - beta1) * g;
  kept.exp_avg_sq = beta2 * (kept.exp_avg_sq ?? 0) + (1 - beta2) * g * g;
}

const adam: Formula<AdamOptions> = (w, grad, kept, t, lr, o) =>
  adamw(w, grad + o.weightDecay * w, kept, t, lr, { ...o, weightDecay: 0 });

const adamw: Formula<AdamOptions> = (w, g, kept, t, lr, o) => {
  average(o, g, kept);
  let v = kept.exp_avg_sq!;
  if (o.amsgrad) {
    v = Math.max(kept.max_exp_avg_sq ?? 0, v);
    kept.max_exp_avg_sq = v;
  }
  const denominator = Math.sqrt(v) / Math.sqrt(1 - o.betas[1] ** t) + o.eps;
  return w * (1 - lr * o.weightDecay) - ((lr / (1 - o.betas[0] ** t)) * kept.exp_avg!) / denominator;
};

export const FORMULAS = { sgd, adam, adamw, amsgrad: adam } as unknown as Record<
  Exclude<OptimizerName, 'agd'>,
  Formula<AnyOptions>
>;
