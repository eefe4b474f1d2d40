import { readFile } from 'node:fs/promises';
import { AgdError } from '../../../graph/errors.js';
import { cmykToRgb, isCmykJpeg } from './cmyk.js';
import { cropTo, type Pixels, type Region, roundHalfEven } from './pixels.js';
import { resize } from './resize.js';
import { loadSharp } from './sharp.js';
import type { ImageSpec } from './spec.js';

/** A path, or the bytes of an image file. */
export type EncodedImage = string | Uint8Array;

/** What is read of an image before it is resized: chosen by the height and width of the image. */
export type ChooseRegion = (height: number, width: number) => Region | undefined;

/**
 * The pixels of an image as the spec wants them: upright (EXIF orientation), in its size and channels. Resizing is that
 * of Pillow, bit for bit, and with `cover` that of torchvision's Resize and CenterCrop. Where a region is chosen, it
 * is resized to the size, whatever its aspect ratio. Throws `bad-data` for a damaged image, `io`, `bad-option` without sharp.
 */
export async function decodeImage(
  image: EncodedImage,
  spec: ImageSpec,
  choose?: ChooseRegion,
  name = nameOf(image),
): Promise<Pixels> {
  const pixels = toChannels(await decode(image, name), spec.channels);
  const region = choose?.(pixels.height, pixels.width);
  if (region) return resize(cropTo(pixels, region), spec.height, spec.width, spec.filter);
  return fitTo(pixels, spec);
}

const nameOf = (image: EncodedImage) => (typeof image === 'string' ? image : 'an image');

/** All pixels of a file, upright, in the channels that it has. */
export async function decode(image: EncodedImage, name = nameOf(image)): Promise<Pixels> {
  const sharp = await loadSharp();
  try {
    const bytes = typeof image === 'string' ? await readFile(image).catch(() => undefined) : image;
    const upright = sharp(bytes ?? image, {
      failOn: 'error',
      ignoreIcc: true,
      sequentialRead: true,
    }).autoOrient();
    // A browser gives color whatever the file has.
    const inks = bytes && isCmykJpeg(bytes) && 'pipelineColourspace' in upright;
    const steps = inks ? upright.pipelineColourspace('cmyk').toColourspace('cmyk') : upright;
    const { data, info } = await steps.raw({ depth: 'uchar' }).toBuffer({ resolveWithObject: true });
    const { height, width, channels } = info;
    const pixels = new Uint8Array(data.buffer, data.byteOffset, data.length);
    return inks
      ? { data: cmykToRgb(pixels), height, width, channels: 3 }
      : { data: pixels, height, width, channels };
  } catch (error) {
    throw damaged(name, error);
  }
}

/**
 * Throws as `decode` does. Reads the file to its end, but of a JPEG file computes an eighth of the pixels a side only.
 */
export async function checkImage(image: EncodedImage, name = nameOf(image)): Promise<void> {
  const sharp = await loadSharp();
  try {
    await sharp(image, { failOn: 'error', sequentialRead: true })
      .resize(8, 8, { fit: 'fill' })
      .raw()
      .toBuffer();
  } catch (error) {
    throw damaged(name, error);
  }
}

/** How an error ends where images need not be left out yet. */
export const ADVICE = '; train --skip-damaged leaves such images out.';

/** A missing file is no damaged image. */
function damaged(name: string, cause: unknown): AgdError {
  const text = cause instanceof Error ? cause.message : String(cause);
  if (/Input file is missing/.test(text)) return new AgdError('io', `Image ${name} is not there.`, { cause });
  const why = text
    .replace(/\s+/g, ' ')
    .replace(/^Input (file|buffer) /, '')
    .replace(/:? *\/\S+/g, '')
    .trim();
  return new AgdError('bad-data', `Image ${name} cannot be decoded (${why})${ADVICE}`, { cause });
}

/** Grey is repeated, alpha dropped or full, and color made grey as Pillow does (ITU-R 601-2 luma). */
export function toChannels(image: Pixels, channels: 1 | 3 | 4): Pixels {
  const { data, height, width, channels: from } = image;
  if (from === channels) return image;
  const out = new Uint8Array(height * width * channels);
  for (let i = 0, p = 0, at = 0; i < height * width; i++, p += from, at += channels) {
    const [r, g, b] = from < 3 ? [data[p]!, data[p]!, data[p]!] : [data[p]!, data[p + 1]!, data[p + 2]!];
    if (channels === 1) {
      out[at] = from < 3 ? r : (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16;
      continue;
    }
    out[at] = r;
    out[at + 1] = g;
    out[at + 2] = b;
    if (channels === 4) out[at + 3] = from === 2 ? data[p + 1]! : 255;
  }
  return { data: out, height, width, channels };
}

/** The size that images are brought to, and how. */
export type Geometry = Pick<ImageSpec, 'height' | 'width' | 'fit' | 'resize' | 'filter'>;

/** The image in its size; where `contain` pads it, with `outside`. */
export function fitTo(image: Pixels, geometry: Geometry, outside = 0): Pixels {
  const { height, width, fit, filter } = geometry;
  if (fit === 'exact') return resize(image, height, width, filter);
  if (fit === 'contain') return contain(image, geometry, outside);
  const [h, w] = coverSize(image, height, width, geometry.resize ?? Math.min(height, width));
  const left = roundHalfEven((w - width) / 2);
  const top = roundHalfEven((h - height) / 2);
  return resize(image, h, w, filter, { left, top, height, width });
}

/**
 * The size that covers `height` x `width`, with an aspect ratio of its own: of a square the shorter side is `short` long,
 * of others in proportion. The longer side is rounded down, as torchvision does.
 */
function coverSize(image: Pixels, height: number, width: number, short: number): [number, number] {
  const factor = short / Math.min(height, width);
  const [h, w] = [Math.round(height * factor), Math.round(width * factor)];
  return image.width * h >= image.height * w
    ? [h, Math.max(w, Math.trunc((h * image.width) / image.height))]
    : [Math.max(h, Math.trunc((w * image.height) / image.width)), w];
}

function contain(image: Pixels, { height, width, filter }: Geometry, outside: number): Pixels {
  const factor = Math.min(height / image.height, width / image.width);
  const h = Math.min(height, Math.max(1, Math.round(image.height * factor)));
  const w = Math.min(width, Math.max(1, Math.round(image.width * factor)));
  const inner = resize(image, h, w, filter);
  const { channels } = image;
  const out = new Uint8Array(height * width * channels).fill(outside);
  const [top, left] = [(height - h) >> 1, (width - w) >> 1];
  for (let y = 0; y < h; y++)
    out.set(
      inner.data.subarray(y * w * channels, (y + 1) * w * channels),
      ((top + y) * width + left) * channels,
    );
  return { data: out, height, width, channels };
}
