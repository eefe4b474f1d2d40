import type { Random } from '../../../graph/random.js';
import { uniform } from './draws.js';
import type { Pixels } from './pixels.js';

/** How far each may differ from 1, or the hue from where it is, in turns. */
export type ColorRanges = { brightness?: number; contrast?: number; saturation?: number; hue?: number };

/** What changes: factors, and turns of the hue. */
export type Colors = Required<ColorRanges>;

/** All four are drawn, so that leaving one out does not change the others. */
export function drawColors(
  { brightness = 0, contrast = 0, saturation = 0, hue = 0 }: ColorRanges,
  draw: Random,
): Colors {
  const factor = (by: number) => uniform(draw, Math.max(0, 1 - by), 1 + by);
  return {
    brightness: factor(brightness),
    contrast: factor(contrast),
    saturation: factor(saturation),
    hue: uniform(draw, -hue, hue),
  };
}

/**
 * Brightness, contrast, saturation and hue changed in this order, as torchvision's `adjust_*` define them: blended with
 * black, the mean of the grey image, and the grey image; the hue turned in HSV. Grey images have no saturation or hue,
 * and alpha stays.
 */
export function changeColors(image: Pixels, { brightness, contrast, saturation, hue }: Colors): Pixels {
  let out = image;
  if (brightness !== 1) out = adjustBrightness(out, brightness);
  if (contrast !== 1) out = adjustContrast(out, contrast);
  if (out.channels < 3) return out;
  if (saturation !== 1) out = adjustSaturation(out, saturation);
  return hue === 0 ? out : adjustHue(out, hue);
}

export const adjustBrightness = (image: Pixels, factor: number): Pixels => blend(image, () => 0, factor);

export function adjustContrast(image: Pixels, factor: number): Pixels {
  const size = image.height * image.width;
  let sum = 0;
  for (let i = 0; i < size; i++) sum += grey(image, i);
  const mean = Math.floor(sum / size + 0.5);
  return blend(image, () => mean, factor);
}

export const adjustSaturation = (image: Pixels, factor: number): Pixels =>
  blend(image, i => grey(image, i), factor);

/** Luma of ITU-R 601-2, in Pillow's fixed point. */
function grey({ data, channels }: Pixels, i: number): number {
  const p = i * channels;
  if (channels < 3) return data[p]!;
  return (data[p]! * 19595 + data[p + 1]! * 38470 + data[p + 2]! * 7471 + 0x8000) >> 16;
}

/** other + (pixel - other) factor, cut off at 0 and 255 and rounded down. */
function blend(image: Pixels, other: (pixel: number) => number, factor: number): Pixels {
  const { data, height, width, channels } = image;
  const out = Uint8Array.from(data);
  const colors = channels < 3 ? 1 : 3;
  for (let i = 0, p = 0; p < data.length; i++, p += channels) {
    const base = other(i);
    for (let c = p; c < p + colors; c++) {
      const x = base + (data[c]! - base) * factor;
      out[c] = x <= 0 ? 0 : x >= 255 ? 255 : Math.floor(x);
    }
  }
  return { data: out, height, width, channels };
}

/** The hue turned by this share of the circle, saturation and value as they are. */
export function adjustHue({ data, height, width, channels }: Pixels, turn: number): Pixels {
  const out = Uint8Array.from(data);
  for (let p = 0; p < data.length; p += channels) {
    const [r, g, b] = [data[p]!, data[p + 1]!, data[p + 2]!];
    const high = Math.max(r, g, b);
    const range = high - Math.min(r, g, b);
    if (range === 0) continue;
    const sixth = high === r ? (g - b) / range : high === g ? 2 + (b - r) / range : 4 + (r - g) / range;
    const hue = (((sixth + turn * 6) % 6) + 6) % 6;
    for (let c = 0; c < 3; c++) {
      // Of red, green and blue: how far its falling or rising edge is away (Smith 1978, in the form without cases).
      const k = ([5, 3, 1][c]! + hue) % 6;
      out[p + c] = Math.round(high - range * Math.max(0, Math.min(k, 4 - k, 1)));
    }
  }
  return { data: out, height, width, channels };
}
