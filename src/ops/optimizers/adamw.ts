/** AdamW. Loshchilov, Hutter: «Decoupled Weight Decay Regularization», ICLR 2019; options as PyTorch's. */
import { type AdamOptions, adam, adamStep } from './adam.js';
import { type Optimizer, weightDecayOption, withDecay } from './optimizer.js';

/** Adam with decoupled weight decay: w -= lr weight_decay w. */
export const adamw: Optimizer<AdamOptions> = {
  ...adam,
  name: 'adamw',
  options: { ...adam.options, weightDecay: weightDecayOption(1e-2) },

  scalars: (step, lr, options, kept) => ({
    ...adam.scalars(step, lr, options, kept),
    ...(options.weightDecay ? { decay: lr.mul(options.weightDecay) } : {}),
  }),

  update(w, g, state, { decay, ...scalars }, options) {
    const { step, state: next } = adamStep(g, state, scalars, options);
    return { ...withDecay(step, w, decay), state: next };
  },
};
