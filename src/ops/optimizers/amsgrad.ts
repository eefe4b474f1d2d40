/** AMSGrad. Reddi, Kale, Kumar: «On the Convergence of Adam and Beyond», ICLR 2018. */
import { flag } from '../core/option-type.js';
import { type AdamOptions, adam } from './adam.js';
import { ensure, type Optimizer, option } from './optimizer.js';

/** Adam that divides by the largest average so far, as PyTorch's Adam does with `amsgrad`. */
export const amsgrad: Optimizer<AdamOptions> = {
  ...adam,
  name: 'amsgrad',
  options: { ...adam.options, amsgrad: option(flag, true, 'Divide by the largest average so far') },

  validate({ amsgrad }) {
    ensure(amsgrad, 'amsgrad without amsgrad is adam: choose that.');
  },
};
