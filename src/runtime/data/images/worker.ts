/** What a thread of the pool does for samples with images: files in, arrays out. */
import { AgdError } from '../../../graph/errors.js';
import type { Augmentation } from '../../../passes/recipe/augmentation.js';
import type { Pass } from '../samples.js';
import { augment, drawRegion, erase } from './augment.js';
import { decodeImage, type EncodedImage } from './decode.js';
import { drawsOf } from './draws.js';
import { decodeMask, type MaskSpec } from './mask.js';
import { dimsOf, writePixels } from './normalize.js';
import type { ImageSpec } from './spec.js';

/**
 * Images, or masks, of the samples with these numbers. Those of one sample draw the same, so that a mask moves with its
 * image. Without a pass nothing is augmented. Null is an image that is missing, named by `source` in errors.
 */
export type ImageTask = {
  images: readonly (EncodedImage | null)[];
  rows: readonly number[];
  spec: ImageSpec | MaskSpec;
  augment?: readonly Augmentation[];
  pass?: Pass;
  source?: string;
};

/** Files that are decoded at the same time: one is read while another is resized. */
const AT_ONCE = 4;

/**
 * The samples one after another: normalized pixels in the layout of the spec, or of masks a class for each pixel. The result
 * follows from the task alone. Throws `bad-data`, `io`.
 */
export async function loadImages(task: ImageTask): Promise<Float32Array | Uint8Array> {
  const { images, spec } = task;
  const size = dimsOf(spec).reduce((n, d) => n * d, 1);
  const length = images.length * size;
  const out = 'dtype' in spec && spec.dtype === 'float32' ? new Float32Array(length) : new Uint8Array(length);
  let next = 0;
  const work = async () => {
    while (next < images.length) {
      const i = next++;
      await loadSample(task, i, out, i * size);
    }
  };
  await Promise.all(Array.from({ length: Math.min(AT_ONCE, images.length) }, work));
  return out;
}

async function loadSample(
  { images, rows, spec, augment: list = [], pass, source = 'the data' }: ImageTask,
  i: number,
  out: Float32Array | Uint8Array,
  at: number,
): Promise<void> {
  const image = images[i]!;
  if (image === null)
    throw new AgdError(
      'bad-data',
      `Row ${rows[i]! + 1} of ${source} has no image; leave such rows out of the data.`,
    );
  const name = typeof image === 'string' ? image : `in row ${rows[i]! + 1} of ${source}`;
  const draw = pass && list.length ? drawsOf(pass.seed, pass.epoch, pass.places?.[i] ?? rows[i]!) : undefined;
  const choose = draw && ((height: number, width: number) => drawRegion(list, height, width, draw));
  if (!('dtype' in spec)) {
    const mask = await decodeMask(image, spec, choose, name);
    out.set((draw ? augment(mask, list, draw, spec.outside).image : mask).data, at);
    return;
  }
  const pixels = await decodeImage(image, spec, choose, name);
  const { image: changed, erased } = draw ? augment(pixels, list, draw) : { image: pixels, erased: [] };
  writePixels(changed, spec, out, at);
  erase(erased, spec, out, at);
}
