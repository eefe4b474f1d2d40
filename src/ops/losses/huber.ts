import type { Loss } from './loss.js';

/** e^2 / 2 for errors up to |e| = 1, |e| - 1/2 beyond. */
export const huber: Loss = {
  target: 'values',
  terms(output, target) {
    const e = output.sub(target).abs();
    const near = e.op('Clip', [undefined, e.g.scalar(1, e.dtype)]);
    return { loss: near.mul(e.sub(near.mul(0.5))) };
  },
};
