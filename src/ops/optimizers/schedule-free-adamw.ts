/** Schedule-Free AdamW: see `wrappers/schedule-free.ts`. */
import {
  betasOption,
  correction,
  epsOption,
  lrOption,
  movingAverage,
  type OptionsOf,
  squared,
} from './optimizer.js';
import { averagingOptions } from './schedule-free-sgd.js';
import { scheduleFree } from './wrappers/schedule-free.js';

const options = {
  lr: lrOption(2.5e-3),
  betas: betasOption,
  eps: epsOption(1e-8),
  ...averagingOptions,
};

export type ScheduleFreeAdamwOptions = OptionsOf<typeof options>;

/** With γ = lr sqrt(1 - beta2^t), v the moving average of g^2 and beta1 the momentum: z -= γ (g / (sqrt(v) + eps) + weight_decay y) */
export const scheduleFreeAdamw = scheduleFree<ScheduleFreeAdamwOptions>(
  {
    name: 'schedule-free-adamw',
    options,
    states: () => [squared('exp_avg_sq')],

    scalars(step, lr, { betas: [, beta2] }) {
      const root = correction(step, beta2).sqrt();
      return { root, rate: lr.mul(root) };
    },
    factor: ({ root }) => root!,

    update(_, grad, state, { rate }, { betas: [, beta2], eps }) {
      const v = movingAverage(state.exp_avg_sq!, grad.square(), beta2);
      return { step: grad.div(v.sqrt().add(eps)).mul(rate!), state: { exp_avg_sq: v } };
    },
  },
  ({ betas: [momentum], weightDecay, ...own }) => ({ ...own, momentum, weightDecayAtY: weightDecay }),
);
