/**
 * LAMB. You, Li, Reddi, Hseu, Kumar, Bhojanapalli, Song, Demmel, Keutzer, Hsieh: «Large Batch Optimization for Deep Learning:
 * Training BERT in 76 minutes», ICLR 2020.
 */
import { flag } from '../core/option-type.js';
import {
  betasOption,
  correction,
  epsOption,
  lrOption,
  movingAverage,
  type Optimizer,
  type OptionsOf,
  option,
  squared,
  weightDecayOption,
} from './optimizer.js';
import { adaptsLayer, excludeVectorsOption, trustRatio } from './trust-ratio.js';

const options = {
  lr: lrOption(1e-3),
  betas: betasOption,
  eps: epsOption(1e-6),
  weightDecay: weightDecayOption(),
  biasCorrection: option(flag, true, 'Correct the bias of the moving averages'),
  excludeVectors: excludeVectorsOption,
};

export type LambOptions = OptionsOf<typeof options>;

/**
 * With m and v the moving averages of g and g^2, u Adam's step and decoupled decay, and norms over a parameter:
 *
 *     u = m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay w
 *     w -= lr |w| / |u| u
 *
 * The ratio is 1 if one of the norms is 0. Vectors (biases, normalizations) have neither ratio nor decay with
 * `exclude_vectors`.
 */
export const lamb: Optimizer<LambOptions> = {
  name: 'lamb',
  options,

  states: () => ['exp_avg', squared('exp_avg_sq')],

  whole: (options, { length }) => adaptsLayer(options, length),

  scalars(step, lr, { betas, eps, biasCorrection }) {
    if (!biasCorrection) return { rate: lr, gain: step.ones(), eps: step.full(eps) };
    const root = correction(step, betas[1]).sqrt();
    return { rate: lr, gain: root.div(correction(step, betas[0])), eps: root.mul(eps) };
  },

  update(w, g, state, { rate, gain, eps }, options) {
    const { betas, weightDecay } = options;
    const m = movingAverage(state.exp_avg!, g, betas[0]);
    const v = movingAverage(state.exp_avg_sq!, g.square(), betas[1]);
    const adam = m.mul(gain!).div(v.sqrt().add(eps!));
    const next = { exp_avg: m, exp_avg_sq: v };
    if (!adaptsLayer(options, w.rank)) return { step: adam.mul(rate!), state: next };
    const u = weightDecay ? adam.add(w.mul(weightDecay)) : adam;
    return { step: u.mul(trustRatio(w, u).mul(rate!)), state: next };
  },
};
