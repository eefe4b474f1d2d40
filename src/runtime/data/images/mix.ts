/** Mixing of the samples of a batch: mixup (arXiv:1710.09412) and CutMix (arXiv:1905.04899). */
import { Tensor } from '../../../graph/tensor.js';
import { type Augmentation, mixes } from '../../../passes/recipe/augmentation.js';
import type { Pass } from '../samples.js';
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

/** What is mixed in the batches of a run: the images, and their targets. */
export type Mixing = {
  list: readonly Augmentation[];
  /** The input of the images. */
  images: string;
  /** The input of the target; of classes the inputs of a second one, and of the first one's share. */
  target?: string;
  second?: { target: string; share: string };
};

/**
 * Mixes each batch of a chunk, whose inputs have a leading axis of steps and one of samples, those of `rows` in order. Targets
 * that are numbers are mixed themselves; classes stay, with those of the samples that were mixed in beside them. The
 * tensor of the images may be overwritten.
 */
export function mixChunk(
  inputs: Readonly<Record<string, Tensor>>,
  rows: Uint32Array,
  { seed, epoch }: Pass,
  { list, images: name, target: targetName, second }: Mixing,
): Record<string, Tensor> {
  const images = inputs[name]!;
  if (!mixes(list)) return { ...inputs };
  const [steps, each, ...dims] = images.dims as [number, number, ...number[]];
  const data = images.data as Float32Array;
  const size = data.length / steps;
  const own = new Float32Array(steps * each);
  for (let step = 0; step < steps; step++) {
    const part = rows.subarray(step * each, (step + 1) * each);
    const pixels = data.subarray(step * size, (step + 1) * size);
    own.set(
      mixBatch({ images: pixels, dims, plane: planeOf(dims), rows: part, seed, epoch }, list),
      step * each,
    );
  }
  const out = { ...inputs, [name]: Tensor.from('float32', images.dims, data) };
  const target = targetName === undefined ? undefined : inputs[targetName];
  if (!target) return out;
  if (second) {
    out[second.target] = nextOf(target, steps, each);
    out[second.share] = Tensor.from('float32', [steps, each], own);
  } else out[targetName!] = mixValues(target, nextOf(target, steps, each), own);
  return out;
}

/** The axes of height and width: after the one of the channels where that comes first. */
function planeOf(dims: readonly number[]): [number, number] {
  if (dims.length === 2) return [0, 1];
  return [1, 3, 4].includes(dims[0]!) ? [1, 2] : [0, 1];
}

/** Of each sample the target of the next one in its batch. */
function nextOf({ dtype, dims, bytes }: Tensor, steps: number, each: number): Tensor {
  const size = bytes.length / (steps * each);
  const out = new Uint8Array(bytes.length);
  for (let i = 0; i < steps * each; i++) {
    const next = (i + 1) % each === 0 ? i + 1 - each : i + 1;
    out.set(bytes.subarray(next * size, (next + 1) * size), i * size);
  }
  return new Tensor(dtype, dims, out);
}

function mixValues(a: Tensor, b: Tensor, own: Float32Array): Tensor {
  const [x, y] = [a.data as Float32Array, b.data as Float32Array];
  const size = x.length / own.length;
  const mixed = x.slice();
  for (let i = 0; i < x.length; i++) {
    const share = own[Math.floor(i / size)]!;
    mixed[i] = share * x[i]! + (1 - share) * y[i]!;
  }
  return Tensor.from(a.dtype, a.dims, mixed);
}
