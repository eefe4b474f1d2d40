import type { Loss } from './loss.js';

/** 1 - cos(x, t) of vectors along the last axis; as in PyTorch's CosineEmbeddingLoss, squared lengths get 1e-12 more. */
export const cosine: Loss = {
  target: 'values',
  options: [],
  terms(output, target) {
    const axes = [output.rank - 1];
    const square = (x: typeof output) => x.square().sum(axes).add(1e-12);
    const lengths = square(output).mul(square(target)).sqrt();
    return { loss: output.mul(target).sum(axes).div(lengths).rsub(1) };
  },
};
