import { byteLength, type DType, isFloat } from '../../graph/dtype.js';
import {
  bfloatToNumber,
  halfToNumber,
  numberToBfloat,
  numberToHalf,
  Tensor,
  type TypedArray,
} from '../../graph/tensor.js';
import type { TargetRange } from '../../ops/losses/index.js';

/** Smallest and largest value of the integer types, to which bool is counted. */
const RANGES: Partial<Record<DType, readonly [lowest: bigint, highest: bigint]>> = {
  bool: [0n, 1n],
  int8: [-(2n ** 7n), 2n ** 7n - 1n],
  int16: [-(2n ** 15n), 2n ** 15n - 1n],
  int32: [-(2n ** 31n), 2n ** 31n - 1n],
  int64: [-(2n ** 63n), 2n ** 63n - 1n],
  uint8: [0n, 2n ** 8n - 1n],
  uint16: [0n, 2n ** 16n - 1n],
  uint32: [0n, 2n ** 32n - 1n],
  uint64: [0n, 2n ** 64n - 1n],
};

/** 16-bit floats are bit patterns in JavaScript, 64-bit integers bigint; the other types are plain numbers. */
const FROM_BITS: Partial<Record<DType, (bits: number) => number>> = {
  float16: halfToNumber,
  bfloat16: bfloatToNumber,
};
const FROM_NUMBER: Partial<Record<DType, (x: number) => number | bigint>> = {
  float16: numberToHalf,
  bfloat16: numberToBfloat,
  int64: BigInt,
  uint64: BigInt,
};

export function isInteger(dtype: DType): boolean {
  return dtype in RANGES;
}

/** Whether data of this type can be fed, converted where it must be: integers, floats and bool. */
export function isNumeric(dtype: DType): boolean {
  return isInteger(dtype) || isFloat(dtype);
}

/**
 * The first element that `dtype` cannot hold: a fraction, or a number out of range, where `dtype` is an
 * integer type. Rounding to a float type is no loss in this sense.
 */
export function firstMisfit(array: Tensor, dtype: DType): number | bigint | undefined {
  const to = RANGES[dtype];
  const from = RANGES[array.dtype];
  if (!to || (from && to[0] <= from[0] && from[1] <= to[1])) return undefined;
  const decode = FROM_BITS[array.dtype];
  for (const element of array.data) {
    const x = decode ? decode(Number(element)) : element;
    if ((typeof x === 'number' && !Number.isInteger(x)) || x < to[0] || x > to[1]) return x;
  }
  return undefined;
}

/** The first element that, times `scale`, is neither in the range nor what is ignored. */
export function firstOutside(
  array: Tensor,
  { least, most, ignored }: TargetRange,
  scale: number,
): number | undefined {
  const decode = FROM_BITS[array.dtype] ?? Number;
  for (const element of array.data) {
    const x = decode(element as number) * scale;
    if (!(x >= least && x <= most) && x !== ignored) return x;
  }
  return undefined;
}

/**
 * The rows (along the first axis) of `array` with these numbers, as a tensor of shape `dims` and type `dtype`, each element times
 * `scale`. The elements must fit (see `firstMisfit`). `allocate` gives the memory of so many bytes, which is fresh if not given.
 */
export function takeRows(
  array: Tensor,
  rows: Uint32Array,
  dtype: DType,
  dims: readonly number[],
  scale: number,
  allocate = (size: number) => new Uint8Array(size),
): Tensor {
  const width = array.size / array.dims[0]!;
  const out = new Tensor(dtype, dims, allocate(byteLength(dtype, rows.length * width)));
  if (scale === 1 && haveSameBits(array.dtype, dtype)) copyRows(array.bytes, rows, out.bytes);
  else convertRows(array, rows, out, width, scale);
  return out;
}

/** The same elements with the axis `from` in the place `to`. */
export function moveAxis(array: Tensor, from: number, to: number): Tensor {
  if (from === to) return array;
  const dims = array.dims.filter((_, i) => i !== from);
  dims.splice(to, 0, array.dims[from]!);
  const size = (extents: readonly number[]) => extents.reduce((n, d) => n * d, 1);
  const [low, high] = [Math.min(from, to), Math.max(from, to)];
  const block = byteLength(array.dtype, size(array.dims.slice(high + 1)));
  const outer = size(array.dims.slice(0, low));
  // The axes between the two places, and the one that moves past them.
  const count = array.dims[from]!;
  const passed = size(array.dims.slice(low, high + 1)) / count;
  const [rows, columns] = from < to ? [count, passed] : [passed, count];
  const out = new Uint8Array(array.byteLength);
  const { bytes } = array;
  let at = 0;
  for (let o = 0; o < outer; o++)
    for (let c = 0; c < columns; c++)
      for (let r = 0; r < rows; r++, at += block) {
        const start = ((o * rows + r) * columns + c) * block;
        out.set(bytes.subarray(start, start + block), at);
      }
  return new Tensor(array.dtype, dims, out);
}

/** NumPy's transpose: axis i of the result is axis `order[i]`. */
export function permute(array: Tensor, order: readonly number[]): Tensor {
  const places = order.map((_, i) => i);
  let now = array;
  for (const [to, axis] of order.entries()) {
    const from = places.indexOf(axis);
    now = moveAxis(now, from, to);
    places.splice(to, 0, ...places.splice(from, 1));
  }
  return now;
}

function copyRows(from: Uint8Array, rows: Uint32Array, to: Uint8Array): void {
  const width = to.length / rows.length;
  if (areConsecutive(rows)) to.set(from.subarray(rows[0]! * width, (rows.at(-1)! + 1) * width));
  // A view and a call for each row take longer than narrow rows themselves.
  else if (width <= NARROW && width % 4 === 0 && from.byteOffset % 4 === 0)
    copyWords(words(from), rows, words(to), width / 4);
  else
    rows.forEach((row, i) => {
      to.set(from.subarray(row * width, (row + 1) * width), i * width);
    });
}

function areConsecutive(rows: Uint32Array): boolean {
  const [first] = rows;
  return first !== undefined && rows.every((row, i) => row === first + i);
}

/** Bytes of a row. */
const NARROW = 256;

const words = (bytes: Uint8Array) =>
  new Int32Array(bytes.buffer, bytes.byteOffset, Math.floor(bytes.length / 4));

/** Rows that are read before they are copied, and words of a line of the cache. */
const AHEAD = { rows: 16, line: 16 };
/** Keeps a reading that nothing else needs. */
const read = new Int32Array(1);

function copyWords(from: Int32Array, rows: Uint32Array, to: Int32Array, width: number): void {
  const isLong = width > AHEAD.line;
  let [at, sum] = [0, 0];
  for (let k = 0; k < rows.length; k += AHEAD.rows) {
    const stop = Math.min(k + AHEAD.rows, rows.length);
    // Shuffled rows are not in the cache. Between their words, the processor has few of them on their way at a time.
    for (let i = k; i < stop; i++) {
      const first = rows[i]! * width;
      sum ^= from[first]!;
      if (isLong) sum ^= from[first + width - 1]!;
    }
    for (let i = k; i < stop; i++) {
      let j = rows[i]! * width;
      const end = j + width;
      for (; j + 3 < end; j += 4, at += 4) {
        to[at] = from[j]!;
        to[at + 1] = from[j + 1]!;
        to[at + 2] = from[j + 2]!;
        to[at + 3] = from[j + 3]!;
      }
      while (j < end) to[at++] = from[j++]!;
    }
  }
  read[0] = sum;
}

function convertRows(array: Tensor, rows: Uint32Array, out: Tensor, width: number, scale: number): void {
  if (areNumbers(array.dtype) && areNumbers(out.dtype)) {
    scaleRows(array.data as Numbers, rows, out.data as Numbers, width, scale);
    return;
  }
  const from = array.data;
  const to: { [index: number]: number | bigint } = out.data;
  const decode = FROM_BITS[array.dtype] ?? Number;
  const encode = FROM_NUMBER[out.dtype];
  let at = 0;
  for (const row of rows)
    for (let i = row * width; i < (row + 1) * width; i++) {
      const x = decode(from[i] as number) * scale;
      to[at++] = encode ? encode(x) : x;
    }
}

type Numbers = Exclude<TypedArray, BigInt64Array | BigUint64Array>;

/** Whether JavaScript's arrays of this type have the numbers themselves. */
const areNumbers = (dtype: DType) => !(dtype in FROM_NUMBER);

/** A call for each element would take most of the time. */
function scaleRows(from: Numbers, rows: Uint32Array, to: Numbers, width: number, scale: number): void {
  let at = 0;
  for (let r = 0; r < rows.length; r++) {
    const end = (rows[r]! + 1) * width;
    for (let i = rows[r]! * width; i < end; i++) to[at++] = from[i]! * scale;
  }
}

/** Integers that fit are the same bits in every integer type of that width. */
function haveSameBits(a: DType, b: DType): boolean {
  return a === b || (isInteger(a) && isInteger(b) && byteLength(a, 1) === byteLength(b, 1));
}

/** The elements of `array` times `scale`, as a fresh tensor of type `dtype`. They must fit (see `firstMisfit`). */
export function convert(array: Tensor, dtype: DType, scale = 1): Tensor {
  const whole = new Tensor(array.dtype, [1, ...array.dims], array.bytes);
  return takeRows(whole, Uint32Array.of(0), dtype, array.dims, scale);
}
