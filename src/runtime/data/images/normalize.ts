import type { MaskSpec } from './mask.js';
import type { Pixels } from './pixels.js';
import type { ImageSpec } from './spec.js';

/** Writes the pixels to `out` from `at` on, in the spec's layout and element type. */
export function writePixels(
  image: Pixels,
  spec: ImageSpec,
  out: Float32Array | Uint8Array,
  at: number,
): void {
  const { data, channels } = image;
  const size = image.height * image.width;
  let tables = known.get(spec);
  if (!tables) {
    tables = tablesOf(spec);
    known.set(spec, tables);
  }
  for (let c = 0; c < channels; c++) {
    const table = tables[c]!;
    const [start, step] = spec.layout === 'chw' ? [at + c * size, 1] : [at + c, channels];
    for (let i = 0, p = c, to = start; i < size; i++, p += channels, to += step) out[to] = table[data[p]!]!;
  }
}

const known = new WeakMap<ImageSpec, ArrayLike<number>[]>();

/** What each of the 256 values of a pixel becomes, by channel. */
function tablesOf({ dtype, mean, std, channels }: ImageSpec): ArrayLike<number>[] {
  return Array.from({ length: channels }, (_, c) =>
    Float32Array.from({ length: 256 }, (_, x) =>
      dtype === 'uint8'
        ? x
        : Math.fround(Math.fround(x / 255) - Math.fround(mean[c]!)) / Math.fround(std[c]!),
    ),
  );
}

/** The shape of one sample. */
export function dimsOf(spec: ImageSpec | MaskSpec): number[] {
  const { height, width } = spec;
  if (!('layout' in spec) || spec.layout === 'none') return [height, width];
  const { channels, layout } = spec;
  return layout === 'chw' ? [channels, height, width] : [height, width, channels];
}
