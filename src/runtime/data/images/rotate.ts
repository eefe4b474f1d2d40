import type { Pixels } from './pixels.js';

/**
 * The image turned counterclockwise about its center, in its own size: each pixel is read from where it comes from,
 * bilinear between pixels, or `nearest`. What comes from outside is `outside`.
 */
export function rotate(
  { data, height, width, channels }: Pixels,
  angle: number,
  { nearest = false, outside = 0 }: { nearest?: boolean; outside?: number } = {},
): Pixels {
  const out = new Uint8Array(data.length);
  const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
  const [cx, cy] = [(width - 1) / 2, (height - 1) / 2];
  const isIn = (x: number, y: number) => x >= 0 && x < width && y >= 0 && y < height;
  const at = (x: number, y: number, c: number) =>
    isIn(x, y) ? data[(y * width + x) * channels + c]! : outside;
  let to = 0;
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const u = cos * (x - cx) - sin * (y - cy) + cx;
      const v = sin * (x - cx) + cos * (y - cy) + cy;
      if (nearest) {
        const [i, j] = [Math.round(u), Math.round(v)];
        for (let c = 0; c < channels; c++) out[to++] = at(i, j, c);
        continue;
      }
      const [i, j] = [Math.floor(u), Math.floor(v)];
      const [a, b] = [u - i, v - j];
      for (let c = 0; c < channels; c++) {
        const above = at(i, j, c) * (1 - a) + at(i + 1, j, c) * a;
        const below = at(i, j + 1, c) * (1 - a) + at(i + 1, j + 1, c) * a;
        out[to++] = Math.round(above * (1 - b) + below * b);
      }
    }
  return { data: out, height, width, channels };
}
