/**
 * SGD with momentum. Sutskever, Martens, Dahl, Hinton: «On the importance of initialization and momentum in deep
 * learning», ICML 2013; in the form of PyTorch's SGD, whose options these are.
 */
import { demand, type Optimizer, type OptimizerOptions, validateCommon } from './optimizer.js';

export type SgdOptions = OptimizerOptions & {
  momentum: number;
  /** What the buffer takes less of each gradient but the first. */
  dampening: number;
  /** Looks a step of the buffer ahead. */
  nesterov: boolean;
};

/**
 * With u the buffer, which the first gradient starts:
 *
 *     u = momentum u + (1 - dampening) g        w -= lr u, or with nesterov lr (g + momentum u)
 *
 * Weight decay is added to the gradient.
 */
export const sgd: Optimizer<SgdOptions> = {
  name: 'sgd',
  defaults: { lr: 1e-3, momentum: 0, dampening: 0, nesterov: false, weightDecay: 0 },

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

  validate(options) {
    const { momentum, dampening, nesterov } = options;
    validateCommon(options);
    demand(
      momentum >= 0 && Number.isFinite(momentum),
      `momentum must be a number from 0 up, not ${momentum}.`,
    );
    demand(Number.isFinite(dampening), `dampening must be a number, not ${dampening}.`);
    demand(!nesterov || (momentum > 0 && dampening === 0), 'nesterov needs a momentum, and no dampening.');
  },
};
