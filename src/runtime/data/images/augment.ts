/** Augmentations of one sample. */

import type { Random } from '../../../graph/random.js';
import type { Augmentation } from '../../../passes/recipe/augmentation.js';
import { changeColors, drawColors } from './color.js';
import { uniform, whole } from './draws.js';
import { cropTo, type Pixels, type Region } from './pixels.js';
import { rotate } from './rotate.js';
import type { ImageSpec } from './spec.js';

/**
 * The part of an image of `height` x `width` that a random resized crop reads: of ten tries the first that fits, else the
 * largest one in the center with an aspect ratio in the range, as torchvision's RandomResizedCrop does. Undefined where the list has none.
 */
export function drawRegion(
  list: readonly Augmentation[],
  height: number,
  width: number,
  draw: Random,
): Region | undefined {
  const crop = list.find(({ kind, scale }) => kind === 'crop' && scale !== undefined);
  if (!crop) return undefined;
  const [scale, ratio] = [crop.scale, crop.ratio] as unknown as [[number, number], [number, number]];
  const part = drawRectangle(height, width, scale, ratio, draw);
  if (part) return part;
  const aspect = Math.min(ratio[1], Math.max(ratio[0], width / height));
  const w = Math.min(width, Math.max(1, Math.round(height * aspect)));
  const h = Math.min(height, Math.max(1, Math.round(w / aspect)));
  return { left: (width - w) >> 1, top: (height - h) >> 1, width: w, height: h };
}

function drawRectangle(
  height: number,
  width: number,
  scale: readonly [number, number],
  ratio: readonly [number, number],
  draw: Random,
): Region | undefined {
  for (let tries = 0; tries < 10; tries++) {
    const area = height * width * uniform(draw, ...scale);
    const aspect = Math.exp(uniform(draw, Math.log(ratio[0]), Math.log(ratio[1])));
    const [w, h] = [Math.round(Math.sqrt(area * aspect)), Math.round(Math.sqrt(area / aspect))];
    if (w > 0 && h > 0 && w <= width && h <= height)
      return { left: whole(draw, 0, width - w), top: whole(draw, 0, height - h), width: w, height: h };
  }
  return undefined;
}

/** The image, and the parts of it that become the mean of the normalization, once it is normalized. */
export type Augmented = { image: Pixels; erased: Region[] };

/**
 * The image changed as the list says. A mask (`outside` is the class beyond its edges) is flipped, cropped and rotated as its
 * image is, without interpolation, and neither colored nor erased. The same is drawn for both.
 */
export function augment(
  given: Pixels,
  list: readonly Augmentation[],
  draw: Random,
  outside?: number,
): Augmented {
  const isMask = outside !== undefined;
  const erased: Region[] = [];
  let image = given;
  for (const { kind, ...options } of list) {
    const o = options as Record<string, number>;
    switch (kind) {
      case 'flip': {
        const [across, down] = [uniform(draw) < o.p!, uniform(draw) < o.vertical!];
        if (across || down) image = flip(image, across, down);
        break;
      }
      case 'crop': {
        const { padding } = o;
        if (padding === undefined) break;
        const [x, y] = [whole(draw, -padding, padding), whole(draw, -padding, padding)];
        if (x || y) image = shift(image, x, y, outside ?? 0);
        break;
      }
      case 'rotate': {
        const angle = (uniform(draw, -o.degrees!, o.degrees!) * Math.PI) / 180;
        image = rotate(image, angle, isMask ? { nearest: true, outside } : {});
        break;
      }
      case 'color': {
        const factors = drawColors(o, draw);
        if (!isMask) image = changeColors(image, factors);
        break;
      }
      case 'erase': {
        if (uniform(draw) >= o.p!) break;
        const { scale, ratio } = options as unknown as Record<string, [number, number]>;
        const part = drawRectangle(image.height, image.width, scale!, ratio!, draw);
        if (part && !isMask) erased.push(part);
      }
    }
  }
  return { image, erased };
}

/** Sets the erased parts to 0, which is the mean, or of uint8 pixels to black. `at` is where the sample begins. */
export function erase(
  regions: readonly Region[],
  { height, width, channels, layout }: ImageSpec,
  out: Float32Array | Uint8Array,
  at: number,
): void {
  for (const { left, top, width: w, height: h } of regions)
    for (let y = top; y < top + h; y++) {
      const row = y * width + left;
      if (layout !== 'chw') out.fill(0, at + row * channels, at + (row + w) * channels);
      else
        for (let c = 0; c < channels; c++) {
          const start = at + c * height * width + row;
          out.fill(0, start, start + w);
        }
    }
}

function flip({ data, height, width, channels }: Pixels, across: boolean, down: boolean): Pixels {
  const out = new Uint8Array(data.length);
  let at = 0;
  for (let y = 0; y < height; y++) {
    const row = (down ? height - 1 - y : y) * width;
    for (let x = 0; x < width; x++) {
      const from = (row + (across ? width - 1 - x : x)) * channels;
      for (let c = 0; c < channels; c++) out[at++] = data[from + c]!;
    }
  }
  return { data: out, height, width, channels };
}

/** The image as seen from (x, y): what lies outside of it is `outside`. */
function shift({ data, height, width, channels }: Pixels, x: number, y: number, outside: number): Pixels {
  const out = new Uint8Array(data.length).fill(outside);
  const region = { left: Math.max(0, x), top: Math.max(0, y) };
  const [w, h] = [Math.max(0, width - Math.abs(x)), Math.max(0, height - Math.abs(y))];
  const part = cropTo({ data, height, width, channels }, { ...region, width: w, height: h });
  const [left, top] = [Math.max(0, -x), Math.max(0, -y)];
  for (let row = 0; row < h; row++)
    out.set(
      part.data.subarray(row * w * channels, (row + 1) * w * channels),
      ((top + row) * width + left) * channels,
    );
  return { data: out, height, width, channels };
}
