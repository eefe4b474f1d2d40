/** Schedule-Free AdamW: see `schedule-free.ts`. */
import {
  betasOption,
  correction,
  epsOption,
  lrOption,
  movingAverage,
  type Optimizer,
  type OptionsOf,
  squared,
} from './optimizer.js';
import {
  scheduleFreeOptions,
  scheduleFreePoint,
  scheduleFreeScalars,
  scheduleFreeStates,
  scheduleFreeStep,
} from './schedule-free.js';

const options = {
  lr: lrOption(2.5e-3),
  betas: betasOption,
  eps: epsOption(1e-8),
  ...scheduleFreeOptions,
};

export type ScheduleFreeAdamwOptions = OptionsOf<typeof options>;

/**
 * With x the parameter, g the gradient at y = (1 - beta1) z + beta1 x, and v the moving average of g^2:
 *
 *     z -= lr sqrt(1 - beta2^t) (g / (sqrt(v) + eps) + weight_decay y)
 *     x += c (z - x)
 */
export const scheduleFreeAdamw: Optimizer<ScheduleFreeAdamwOptions> = {
  name: 'schedule-free-adamw',
  options,

  states: () => [squared('exp_avg_sq'), ...scheduleFreeStates],

  point: (x, { z }, { betas }) => scheduleFreePoint(x, z!, betas[0]),

  scalars: (step, lr, options, kept) =>
    scheduleFreeScalars(step, lr, options, kept, correction(step, options.betas[1]).sqrt()),

  update(x, grad, state, scalars, { betas: [momentum, beta2], eps, weightDecay }) {
    const v = movingAverage(state.exp_avg_sq!, grad.square(), beta2);
    const direction = grad.div(v.sqrt().add(eps));
    const { step, z } = scheduleFreeStep(x, direction, state, scalars, { weightDecay, momentum });
    return { step, state: { exp_avg_sq: v, z } };
  },
};
