import type { Loss } from './loss.js';

/** (x - t)^2. */
export const mse: Loss = {
  target: 'values',
  terms: (output, target) => ({ loss: output.sub(target).square() }),
};
