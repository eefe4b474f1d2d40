/** What a thread of the pool does for samples with images: files in, arrays out. */
import type { Pass } from '../samples.js';
import { augment, drawRegion, erase } from './augment.js';
import type { Augmentation } from './augmentation.js';
import { decodeImage, type EncodedImage } from './decode.js';
import { drawsOf } from './draws.js';
import { decodeMask, type MaskSpec } from './mask.js';
import { dimsOf, writePixels } from './normalize.js';
import type { Pixels, Region } from './pixels.js';
import type { ImageSpec } from './spec.js';

/** Samples with these numbers: the image of each, and its mask where there are masks. */
export type ImageTask = {
  images: readonly EncodedImage[];
  masks?: readonly EncodedImage[];
  rows: readonly number[];
  spec: ImageSpec;
  mask?: MaskSpec;
  augment?: readonly Augmentation[];
  /** Without it nothing is augmented. */
  pass?: Pass;
};

/** The samples one after another. */
export type LoadedImages = { images: Float32Array | Uint8Array; masks?: Uint8Array };

/** Files that are decoded at the same time: one is read while another is resized. */
const AT_ONCE = 4;

/** Decodes, augments and normalizes. The result follows from the task alone. Throws `bad-data`, `io`. */
export async function loadImages(task: ImageTask): Promise<LoadedImages> {
  const { images, masks, spec, mask } = task;
  const size = dimsOf(spec).reduce((n, d) => n * d, 1);
  const area = spec.height * spec.width;
  const out =
    spec.dtype === 'uint8' ? new Uint8Array(images.length * size) : new Float32Array(images.length * size);
  const classes = masks && mask ? new Uint8Array(images.length * area) : undefined;
  let next = 0;
  const work = async () => {
    while (next < images.length) {
      const i = next++;
      const sample = await loadSample(task, i);
      writePixels(sample.image, spec, out, i * size);
      erase(sample.erased, spec, out, i * size);
      if (classes) classes.set(sample.masks[0]!.data, i * area);
    }
  };
  await Promise.all(Array.from({ length: Math.min(AT_ONCE, images.length) }, work));
  return { images: out, ...(classes ? { masks: classes } : {}) };
}

async function loadSample(
  { images, masks, rows, spec, mask, augment: list = [], pass }: ImageTask,
  i: number,
) {
  const draw = pass && list.length ? drawsOf(pass.seed, pass.epoch, rows[i]!) : undefined;
  let region: Region | undefined;
  const choose = (height: number, width: number) => {
    region = draw && drawRegion(list, height, width, draw);
    return region;
  };
  const image = await decodeImage(images[i]!, spec, choose);
  const classes: Pixels[] = masks && mask ? [await decodeMask(masks[i]!, mask, () => region)] : [];
  if (!draw) return { image, masks: classes, erased: [] };
  return augment(image, classes, list, draw, mask?.outside);
}
