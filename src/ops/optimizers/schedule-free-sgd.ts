/** Schedule-Free SGD: see `schedule-free.ts`. */
import { belowOne } from '../core/option-type.js';
import { lrOption, type Optimizer, type OptionsOf, option } from './optimizer.js';
import {
  scheduleFreeOptions,
  scheduleFreePoint,
  scheduleFreeScalars,
  scheduleFreeStates,
  scheduleFreeStep,
} from './schedule-free.js';

const options = {
  lr: lrOption(1),
  momentum: option(belowOne, 0.9, 'Momentum'),
  ...scheduleFreeOptions,
};

export type ScheduleFreeSgdOptions = OptionsOf<typeof options>;

/**
 * With x the parameter and g the gradient at y = (1 - momentum) z + momentum x:
 *
 *     z -= lr (g + weight_decay y)
 *     x += c (z - x)
 */
export const scheduleFreeSgd: Optimizer<ScheduleFreeSgdOptions> = {
  name: 'schedule-free-sgd',
  options,

  states: () => scheduleFreeStates,

  point: (x, { z }, { momentum }) => scheduleFreePoint(x, z!, momentum),

  scalars: scheduleFreeScalars,

  update(x, grad, state, scalars, options) {
    const { step, z } = scheduleFreeStep(x, grad, state, scalars, options);
    return { step, state: { z } };
  },
};
