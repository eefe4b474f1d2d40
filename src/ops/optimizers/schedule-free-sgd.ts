/** Schedule-Free SGD: see `wrappers/schedule-free.ts`. */
import { belowOne, countFromZero, nonNegative } from '../core/option-type.js';
import { lrOption, type OptionsOf, option, weightDecayOption } from './optimizer.js';
import { scheduleFree } from './wrappers/schedule-free.js';

/** The options of the authors' optimizers, which are those of the average. */
export const averagingOptions = {
  weightDecay: weightDecayOption(),
  warmupSteps: option(countFromZero, 0, 'Updates over which the learning rate rises linearly'),
  r: option(nonNegative, 0, 'Exponent of the update number in the averaging weights'),
  weightLrPower: option(
    nonNegative,
    2,
    'Exponent of the largest learning rate so far in the averaging weights',
  ),
};

const options = {
  lr: lrOption(1),
  momentum: option(belowOne, 0.9, 'Momentum'),
  ...averagingOptions,
};

export type ScheduleFreeSgdOptions = OptionsOf<typeof options>;

/** z -= lr (g + weight_decay y) */
export const scheduleFreeSgd = scheduleFree<ScheduleFreeSgdOptions>(
  {
    name: 'schedule-free-sgd',
    options,
    states: () => [],
    scalars: (_, lr) => ({ rate: lr }),
    update: (_, grad, __, { rate }) => ({ step: grad.mul(rate!), state: {} }),
  },
  ({ weightDecay, ...own }) => ({ ...own, weightDecayAtY: weightDecay }),
);
