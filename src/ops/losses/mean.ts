import type { Loss } from './loss.js';

/** The mean of an output that is a loss already: one number, or one for each position. */
export const mean: Loss = {
  target: 'none',
  options: [],
  terms: output => ({ loss: output }),
};
