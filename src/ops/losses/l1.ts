import type { Loss } from './loss.js';

/** |x - t|. */
export const l1: Loss = {
  target: 'values',
  terms: (output, target) => ({ loss: output.sub(target).abs() }),
};
