/** AMSGrad. Reddi, Kale, Kumar: «On the Convergence of Adam and Beyond», ICLR 2018. */
import { type AdamOptions, adam } from './adam.js';
import { demand, type Optimizer } from './optimizer.js';

/** Adam that divides by the largest average so far, as PyTorch's Adam does with `amsgrad`. */
export const amsgrad: Optimizer<AdamOptions> = {
  ...adam,
  name: 'amsgrad',
  defaults: { ...adam.defaults, amsgrad: true },

  validate(options) {
    adam.validate(options);
    demand(options.amsgrad, 'amsgrad without amsgrad is adam: choose that.');
  },
};
