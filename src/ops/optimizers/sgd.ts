/**
 * SGD with momentum. Sutskever, Martens, Dahl, Hinton: «On the importance of initialization and momentum in deep
 * learning», ICML 2013; in the form of PyTorch's SGD, whose options these are.
 */
import { finite, flag, nonNegative } from '../core/option-type.js';
import { ensure, lrOption, type Optimizer, type OptionsOf, option, weightDecayOption } from './optimizer.js';

const options = {
  lr: lrOption(1e-3),
  momentum: option(nonNegative, 0, 'Momentum'),
  dampening: option(finite, 0, 'Momentum dampening'),
  nesterov: option(flag, false, 'Nesterov momentum'),
  weightDecay: weightDecayOption(),
};

export type SgdOptions = OptionsOf<typeof options>;

/**
 * With u the buffer, initialized with the first gradient:
 *
 *     u = momentum u + (1 - dampening) g        w -= lr u, or with nesterov lr (g + momentum u)
 *
 * Weight decay is added to the gradient.
 */
export const sgd: Optimizer<SgdOptions> = {
  name: 'sgd',
  options,

  uncounted: true,

  states: ({ momentum }) => (momentum ? ['momentum_buffer'] : []),

  scalars: (step, lr, { momentum, dampening }) => ({
    rate: lr,
    ...(momentum && dampening ? { gain: step.equal(1).where(lr.ones(), 1 - dampening) } : {}),
  }),

  update(w, grad, state, { rate, gain }, { momentum, nesterov, weightDecay }) {
    const g = weightDecay ? grad.add(w.mul(weightDecay)) : grad;
    const buffer = momentum ? state.momentum_buffer!.mul(momentum).add(gain ? g.mul(gain) : g) : g;
    const step = nesterov ? g.add(buffer.mul(momentum)) : buffer;
    return { step: step.mul(rate!), state: { momentum_buffer: buffer } };
  },

  validate({ momentum, dampening, nesterov }) {
    ensure(!nesterov || (momentum > 0 && dampening === 0), 'nesterov needs a momentum, and no dampening.');
  },
};
