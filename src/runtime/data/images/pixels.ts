/** 8-bit pixels, row by row, the channels of a pixel together (HWC). */
export type Pixels = { data: Uint8Array; height: number; width: number; channels: number };

/** A part of an image, in pixels from its upper left corner. */
export type Region = { left: number; top: number; width: number; height: number };

/** A copy of this part of an image. */
export function cropTo({ data, width, channels }: Pixels, region: Region): Pixels {
  const row = region.width * channels;
  const out = new Uint8Array(region.height * row);
  for (let y = 0; y < region.height; y++) {
    const start = ((region.top + y) * width + region.left) * channels;
    out.set(data.subarray(start, start + row), y * row);
  }
  return { data: out, height: region.height, width: region.width, channels };
}

/** x to the nearest whole number, halves to the even one, as Python and IEEE 754 round. */
export function roundHalfEven(x: number): number {
  const floor = Math.floor(x);
  const rest = x - floor;
  return rest < 0.5 || (rest === 0.5 && floor % 2 === 0) ? floor : floor + 1;
}
