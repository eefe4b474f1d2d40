/**
 * Resizing with antialiasing, in the fixed-point arithmetic of Pillow's `Image.resize` (libImaging/Resample.c), so that
 * a pretrained model sees what it was trained on: the results are the same bytes.
 */
import type { Pixels, Region } from './pixels.js';

/** How pixels are weighted by their distance from the center, and up to what distance. */
const FILTERS = {
  bilinear: { support: 1, weigh: (x: number) => Math.max(0, 1 - Math.abs(x)) },
  /** Keys's cubic convolution with a = -0.5. */
  bicubic: {
    support: 2,
    weigh(x: number) {
      const a = -0.5;
      const d = Math.abs(x);
      if (d < 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
      return d < 2 ? (((d - 5) * d + 8) * d - 4) * a : 0;
    },
  },
  lanczos: { support: 3, weigh: (x: number) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0) },
} as const;

export type Filter = keyof typeof FILTERS | 'nearest';
export const FILTER_NAMES = ['bilinear', 'bicubic', 'lanczos', 'nearest'] as const satisfies Filter[];

const sinc = (x: number) => (x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI));

/** The weights have this many bits after the point: 8 are the pixel's, 2 are left for sums that overshoot. */
const PRECISION = 32 - 8 - 2;

/** Of each output: its first input, and the weights of it and the next ones, `taps` places apart. */
type Weights = { first: Int32Array; count: Int32Array; weights: Int32Array; taps: number };

/** The weights of the outputs from `start` on, of an axis of `from` pixels resized to `to`. */
function weightsOf(
  filter: (typeof FILTERS)[keyof typeof FILTERS],
  from: number,
  to: number,
  start: number,
  length: number,
): Weights {
  const scale = from / to;
  const stretch = Math.max(1, scale);
  const support = filter.support * stretch;
  const taps = Math.ceil(support) * 2 + 1;
  const [first, count] = [new Int32Array(length), new Int32Array(length)];
  const weights = new Int32Array(length * taps);
  const exact = new Float64Array(taps);
  for (let i = 0; i < length; i++) {
    const center = (start + i + 0.5) * scale;
    const low = Math.max(0, Math.trunc(center - support + 0.5));
    const n = Math.min(from, Math.trunc(center + support + 0.5)) - low;
    let sum = 0;
    for (let k = 0; k < n; k++) {
      exact[k] = filter.weigh((k + low - center + 0.5) * (1 / stretch));
      sum += exact[k]!;
    }
    for (let k = 0; k < n; k++) {
      const w = (sum === 0 ? exact[k]! : exact[k]! / sum) * 2 ** PRECISION;
      weights[i * taps + k] = Math.trunc(w < 0 ? w - 0.5 : w + 0.5);
    }
    first[i] = low;
    count[i] = n;
  }
  return { first, count, weights, taps };
}

/**
 * The image resized to `height` x `width`, of that the part `window` alone (all of it where not given). Columns are
 * resized after rows, each rounded to 8 bits; an axis that keeps its length is copied.
 */
export function resize(
  image: Pixels,
  height: number,
  width: number,
  filter: Filter,
  window: Region = { left: 0, top: 0, width, height },
): Pixels {
  const { channels } = image;
  if (filter === 'nearest') return resizeNearest(image, height, width, window);
  const down = weightsOf(FILTERS[filter], image.height, height, window.top, window.height);
  const across = weightsOf(FILTERS[filter], image.width, width, window.left, window.width);
  const isSame = image.height === height;
  const last = window.height - 1;
  const low = isSame ? window.top : down.first[0]!;
  const rows = isSame ? window.height : down.first[last]! + down.count[last]! - low;
  const part = image.data.subarray(low * image.width * channels, (low + rows) * image.width * channels);
  const narrow =
    image.width === width
      ? columnsOf(part, rows, width, window, channels)
      : resizeRows(part, rows, image.width, channels, across, window.width);
  const size = { height: window.height, width: window.width, channels };
  if (isSame) return { data: narrow, ...size };
  return { data: resizeColumns(narrow, window.width * channels, low, down, window.height), ...size };
}

function columnsOf(from: Uint8Array, rows: number, width: number, window: Region, channels: number) {
  if (window.width === width) return from.slice();
  const length = window.width * channels;
  const out = new Uint8Array(rows * length);
  for (let y = 0; y < rows; y++) {
    const start = (y * width + window.left) * channels;
    out.set(from.subarray(start, start + length), y * length);
  }
  return out;
}

function resizeRows(
  from: Uint8Array,
  rows: number,
  width: number,
  channels: number,
  { first, count, weights, taps }: Weights,
  length: number,
): Uint8Array {
  const out = new Uint8ClampedArray(rows * length * channels);
  const half = 1 << (PRECISION - 1);
  for (let y = 0, at = 0; y < rows; y++) {
    const row = y * width * channels;
    for (let x = 0; x < length; x++) {
      const start = row + first[x]! * channels;
      const n = count[x]!;
      const k = x * taps;
      // The usual case apart, as three sums at once take half the time.
      if (channels === 3) {
        let [r, g, b] = [half, half, half];
        for (let i = 0, p = start; i < n; i++, p += 3) {
          const w = weights[k + i]!;
          r = (r + Math.imul(from[p]!, w)) | 0;
          g = (g + Math.imul(from[p + 1]!, w)) | 0;
          b = (b + Math.imul(from[p + 2]!, w)) | 0;
        }
        out[at] = r >> PRECISION;
        out[at + 1] = g >> PRECISION;
        out[at + 2] = b >> PRECISION;
        at += 3;
      } else
        for (let c = 0; c < channels; c++) {
          let sum = half;
          for (let i = 0, p = start + c; i < n; i++, p += channels)
            sum = (sum + Math.imul(from[p]!, weights[k + i]!)) | 0;
          out[at++] = sum >> PRECISION;
        }
    }
  }
  return new Uint8Array(out.buffer);
}

/** `from` begins with row `low` of the image. */
function resizeColumns(
  from: ArrayLike<number>,
  row: number,
  low: number,
  { first, count, weights, taps }: Weights,
  height: number,
): Uint8Array {
  const out = new Uint8ClampedArray(height * row);
  const sums = new Int32Array(row);
  for (let y = 0; y < height; y++) {
    sums.fill(1 << (PRECISION - 1));
    for (let i = 0; i < count[y]!; i++) {
      const w = weights[y * taps + i]!;
      const start = (first[y]! - low + i) * row;
      for (let x = 0; x < row; x++) sums[x] = (sums[x]! + Math.imul(from[start + x]!, w)) | 0;
    }
    for (let x = 0; x < row; x++) out[y * row + x] = sums[x]! >> PRECISION;
  }
  return new Uint8Array(out.buffer);
}

function resizeNearest(
  { data, height: rows, width: columns, channels }: Pixels,
  height: number,
  width: number,
  window: Region,
): Pixels {
  const out = new Uint8Array(window.height * window.width * channels);
  let at = 0;
  for (let y = window.top; y < window.top + window.height; y++) {
    const row = Math.floor((y + 0.5) * (rows / height)) * columns;
    for (let x = window.left; x < window.left + window.width; x++) {
      const from = (row + Math.floor((x + 0.5) * (columns / width))) * channels;
      for (let c = 0; c < channels; c++) out[at++] = data[from + c]!;
    }
  }
  return { data: out, height: window.height, width: window.width, channels };
}
