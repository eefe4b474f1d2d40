/** Mixing of the samples of a batch: mixup (arXiv:1710.09412) and CutMix (arXiv:1905.04899). */
import type { Augmentation } from './augmentation.js';
import { beta, mixingDrawsOf, uniform, whole } from './draws.js';

/** The images of one batch, in their layout; only images are cut. */
export type MixBatch = {
  /** The values of the samples, one after another. */
  images: Float32Array;
  /** The shape of a sample, and its axes of height and width. */
  dims: readonly number[];
  plane: readonly [height: number, width: number];
  /** The number of each sample in the data: what is drawn follows from it. */
  rows: ArrayLike<number>;
  seed: number;
  epoch: number;
};

/**
 * Mixes each sample of the batch with the next one (the last with the first; the batch is in random order), in place,
 * and returns the share of each sample that is its own. The rest is the share of the next one, and of its target. Of mixup and
 * cutmix each sample draws one, where both are given.
 */
export function mixBatch(batch: MixBatch, list: readonly Augmentation[]): Float32Array {
  const kinds = list.filter(({ kind }) => kind === 'mixup' || kind === 'cutmix');
  const { images, rows, dims, seed, epoch } = batch;
  const count = rows.length;
  const size = dims.reduce((n, d) => n * d, 1);
  const own = new Float32Array(count).fill(1);
  if (!kinds.length || count < 2) return own;
  const first = images.slice(0, size);
  for (let i = 0; i < count; i++) {
    const draw = mixingDrawsOf(seed, epoch, rows[i]!);
    const chosen = kinds[whole(draw, 0, kinds.length - 1)]!;
    const sample = images.subarray(i * size, (i + 1) * size);
    const other = i + 1 < count ? images.subarray((i + 1) * size, (i + 2) * size) : first;
    const share = beta(draw, chosen.alpha as number);
    if (chosen.kind === 'mixup') {
      own[i] = share;
      const mine = own[i]!;
      for (let k = 0; k < size; k++) sample[k] = mine * sample[k]! + (1 - mine) * other[k]!;
    } else own[i] = cut(sample, other, batch, share, draw);
  }
  return own;
}

/** Replaces a rectangle of the area 1 - share, cut off at the edges, and returns the share that is left. */
function cut(
  sample: Float32Array,
  other: Float32Array,
  { dims, plane: [vertical, horizontal] }: MixBatch,
  share: number,
  draw: () => number,
): number {
  const [height, width] = [dims[vertical]!, dims[horizontal]!];
  const side = Math.sqrt(1 - share);
  const [h, w] = [Math.floor(height * side), Math.floor(width * side)];
  const [y, x] = [Math.floor(uniform(draw) * height), Math.floor(uniform(draw) * width)];
  const ends = (center: number, length: number, size: number) => [
    Math.max(0, center - (length >> 1)),
    Math.min(size, center - (length >> 1) + length),
  ];
  const [top, bottom] = ends(y, h, height);
  const [left, right] = ends(x, w, width);
  const stride = (axis: number) => dims.slice(axis + 1).reduce((n, d) => n * d, 1);
  // Channels before the plane are steps apart, channels after it lie together.
  const inner = stride(horizontal);
  const outer = sample.length / (height * width * inner);
  for (let o = 0; o < outer; o++)
    for (let row = top!; row < bottom!; row++) {
      const at = (o * height + row) * width * inner;
      sample.set(other.subarray(at + left! * inner, at + right! * inner), at + left! * inner);
    }
  return 1 - ((bottom! - top!) * (right! - left!)) / (height * width);
}
