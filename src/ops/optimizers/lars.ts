/** LARS. You, Gitman, Ginsburg: «Large Batch Training of Convolutional Networks», 2017. */
import { flag, nonNegative, positive } from '../core/option-type.js';
import { ensure, lrOption, type Optimizer, type OptionsOf, option, weightDecayOption } from './optimizer.js';
import { adaptsLayer, excludeVectorsOption, trustRatio } from './trust-ratio.js';

const options = {
  lr: lrOption(0.1),
  momentum: option(nonNegative, 0.9, 'Momentum'),
  nesterov: option(flag, false, 'Nesterov momentum'),
  eta: option(positive, 1e-3, 'Trust coefficient'),
  weightDecay: weightDecayOption(),
  excludeVectors: excludeVectorsOption,
};

export type LarsOptions = OptionsOf<typeof options>;

/**
 * With d = g + weight_decay w and norms over a parameter, in the form of TensorFlow's LARSOptimizer:
 *
 *     u = momentum u + lr eta |w| / |d| d
 *     w -= u                              or with nesterov, momentum u + lr eta |w| / |d| d
 *
 * eta |w| / |d| is 1 if one of the norms is 0. Vectors (biases, normalizations) have neither this ratio nor decay with
 * `exclude_vectors`.
 */
export const lars: Optimizer<LarsOptions> = {
  name: 'lars',
  options,

  states: ({ momentum }) => (momentum ? ['momentum_buffer'] : []),

  whole: (options, { length }) => adaptsLayer(options, length),

  scalars: (_, lr) => ({ rate: lr }),

  update(w, g, state, { rate }, options) {
    const { momentum, nesterov, eta, weightDecay } = options;
    const adapts = adaptsLayer(options, w.rank);
    const d = weightDecay && adapts ? g.add(w.mul(weightDecay)) : g;
    const step = d.mul(adapts ? trustRatio(w, d, eta).mul(rate!) : rate!);
    const buffer = momentum ? state.momentum_buffer!.mul(momentum).add(step) : step;
    return {
      step: nesterov ? buffer.mul(momentum).add(step) : buffer,
      state: { momentum_buffer: buffer },
    };
  },

  validate({ nesterov, momentum }) {
    ensure(!nesterov || momentum > 0, 'nesterov needs a momentum.');
  },
};
