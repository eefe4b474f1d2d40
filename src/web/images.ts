/** Stands in for `sharp`: images are decoded by the browser. */
import { files } from './files.js';

type Raw = { data: Uint8Array; info: { width: number; height: number; channels: number } };
type Bitmap = { width: number; height: number; close(): void };
type Drawing = {
  drawImage(image: Bitmap, x: number, y: number): void;
  getImageData(x: number, y: number, width: number, height: number): { data: Uint8ClampedArray<ArrayBuffer> };
};
declare const createImageBitmap: (blob: Blob, options: Record<string, string>) => Promise<Bitmap>;
declare const OffscreenCanvas: new (
  width: number,
  height: number,
) => {
  getContext(kind: '2d', options: { willReadFrequently: boolean }): Drawing;
};

/** As files have them: neither converted to another color space nor multiplied by alpha. */
const AS_STORED = {
  imageOrientation: 'from-image',
  colorSpaceConversion: 'none',
  premultiplyAlpha: 'none',
};

/** Upright pixels with alpha. */
async function decode(image: string | Uint8Array): Promise<Raw> {
  const bytes = typeof image === 'string' ? files.read(image) : image.slice();
  const bitmap = await createImageBitmap(new Blob([bytes]), AS_STORED);
  const { width, height } = bitmap;
  const drawing = new OffscreenCanvas(width, height).getContext('2d', { willReadFrequently: true });
  drawing.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data } = drawing.getImageData(0, 0, width, height);
  return { data: new Uint8Array(data.buffer), info: { width, height, channels: 4 } };
}

function sharp(image: string | Uint8Array) {
  const steps = {
    autoOrient: () => steps,
    raw: () => steps,
    resize: () => steps,
    async toBuffer({ resolveWithObject = false } = {}) {
      const made = await decode(image);
      return resolveWithObject ? made : made.data;
    },
  };
  return steps;
}

export default Object.assign(sharp, { concurrency() {}, cache() {} });
