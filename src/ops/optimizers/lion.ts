/**
 * Lion. Chen, Liang, Huang, Real, Wang, Liu, Pham, Dong, Luong, Hsieh, Lu, Le: «Symbolic Discovery of Optimization
 * Algorithms», NeurIPS 2023; options as in the authors' implementation.
 */
import { betas } from '../core/option-type.js';
import {
  lrOption,
  movingAverage,
  type Optimizer,
  type OptionsOf,
  option,
  weightDecayOption,
  withDecay,
} from './optimizer.js';

const options = {
  lr: lrOption(1e-4),
  betas: option(betas, [0.9, 0.99] as const, 'Decay rates of the two moving averages'),
  weightDecay: weightDecayOption(),
};

export type LionOptions = OptionsOf<typeof options>;

/**
 * With m the moving average of g, by beta2:
 *
 *     w -= lr sign(beta1 m_{t-1} + (1 - beta1) g)
 *
 * Weight decay is decoupled: w -= lr weight_decay w.
 */
export const lion: Optimizer<LionOptions> = {
  name: 'lion',
  options,

  states: () => ['exp_avg'],

  scalars: (_, lr, { weightDecay }) => ({
    rate: lr,
    ...(weightDecay ? { decay: lr.mul(weightDecay) } : {}),
  }),

  update(w, g, { exp_avg: m }, { rate, decay }, { betas: [beta1, beta2] }) {
    const step = movingAverage(m!, g, beta1).sign().mul(rate!);
    return { ...withDecay(step, w, decay), state: { exp_avg: movingAverage(m!, g, beta2) } };
  },
};
