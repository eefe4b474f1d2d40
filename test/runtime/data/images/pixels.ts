import type { Pixels } from '../../../../src/runtime/data/images/pixels.js';

/** The image of pillow.py's `pattern`. */
export function pattern(height: number, width: number, channels = 3): Pixels {
  const data = new Uint8Array(height * width * channels);
  let at = 0;
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++)
      for (let c = 0; c < channels; c++) data[at++] = x * 37 + y * 59 + c * 101 + ((x * y) % 17) * 11;
  return { data, height, width, channels };
}

export const bytesOf = (text: string) => new Uint8Array(Buffer.from(text, 'base64'));
