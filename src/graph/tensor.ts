import { byteLength, type DType, type FloatDType } from './dtype.js';
import { AgdError } from './errors.js';
import { smallNumbers } from './small-types.js';

/** The JavaScript array for each element type; 16-bit floats and sub-byte types are bit patterns. */
export type TypedArray =
  | Float32Array
  | Float64Array
  | Int8Array
  | Uint8Array
  | Int16Array
  | Uint16Array
  | Int32Array
  | Uint32Array
  | BigInt64Array
  | BigUint64Array;

const ARRAYS: Partial<Record<DType, new (b: ArrayBuffer, o: number, n: number) => TypedArray>> = {
  float32: Float32Array,
  float64: Float64Array,
  int8: Int8Array,
  int16: Int16Array,
  uint16: Uint16Array,
  int32: Int32Array,
  uint32: Uint32Array,
  int64: BigInt64Array,
  uint64: BigUint64Array,
  float16: Uint16Array,
  bfloat16: Uint16Array,
};

/** Compared by name, as arrays may come from another realm (a frame, a test runner). */
function arrayType(data: unknown): string {
  if (data === null || typeof data !== 'object') return data === null ? 'null' : typeof data;
  if (Array.isArray(data)) return 'an array';
  return (data as TypedArray)[Symbol.toStringTag] ?? data.constructor?.name ?? 'an object';
}

/**
 * The location of a tensor's bytes outside the model file: `location` is relative to the model's folder. `stamp` is the state
 * of that file when the model was opened: reading another one is an error.
 */
export type ExternalData = {
  location: string;
  offset: number;
  length: number;
  folder: string;
  stamp?: string | undefined;
};

/** The place of a tensor's bytes in a model file that is kept open. `isCurrent`: the path still names that file. */
export type StoredInFile = { path: string; offset: number; isCurrent: () => boolean };

/** Reads the bytes of a tensor outside the model file; `name` is for messages. */
export type ExternalReader = (data: ExternalData, name: string) => Uint8Array;

/** Where to store a tensor's bytes: in another file or, if undefined, in the model file. */
export type Placement = (tensor: Tensor) => ExternalData | undefined;

/** A range of a tensor's bytes. */
export type Part = { offset: number; length: number };

/**
 * A constant: element type, extents and little-endian bytes. The bytes may be loaded lazily (external data, or a
 * decoder that has not copied them yet): `source` is called once.
 */
export class Tensor {
  #bytes: Uint8Array | undefined;
  #size: number | undefined;
  /** Set if the bytes are in another file; they are then read on each access and not cached. */
  external: ExternalData | undefined;
  /** Set if the bytes are still in the model file; they are then read on each access and not cached. */
  stored: StoredInFile | undefined;
  /** The elements of a `string` tensor, which has no raw bytes. */
  strings: Uint8Array[] | undefined;
  /** Set if every byte is zero; the bytes are then allocated on each access and not cached. */
  isZero = false;
  extra: unknown;

  constructor(
    readonly dtype: DType,
    readonly dims: readonly number[],
    private readonly source: Uint8Array | ((part?: Part) => Uint8Array),
  ) {}

  /**
   * A tensor of these values. Throws `bad-dtype` if the array type does not match `dtype` (16-bit floats are bit
   * patterns, bool and packed types are bytes), and `bad-shape` if its length does not match `dims`.
   */
  static from(dtype: DType, dims: readonly number[], data: TypedArray): Tensor {
    const wanted = ARRAYS[dtype]?.name ?? 'Uint8Array';
    const given = arrayType(data);
    const isSame =
      given === wanted || given === { float16: 'Float16Array', uint8: 'Uint8ClampedArray' }[dtype as string];
    if (!isSame)
      throw new AgdError('bad-dtype', `A ${dtype} tensor is made from ${wanted}, not from ${given}.`);
    const size = dims.reduce((n, d) => n * d, 1);
    const length = ARRAYS[dtype] ? size : byteLength(dtype, size);
    if (data.length !== length)
      throw new AgdError(
        'bad-shape',
        `A ${dtype} tensor of shape [${dims}] takes ${length} ${ARRAYS[dtype] ? 'elements' : 'bytes'}, but the array has ${data.length}.`,
      );
    return new Tensor(dtype, dims, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  }

  /** A tensor filled with `value`, of a type that JavaScript has an array for, a 16-bit float or bool. */
  static filled(dtype: DType, dims: readonly number[], value: number): Tensor {
    const size = dims.reduce((n, d) => n * d, 1);
    const make = ARRAYS[dtype] ?? Uint8Array;
    const data = new make(new ArrayBuffer(byteLength(dtype, size)), 0, size);
    if (data instanceof BigInt64Array || data instanceof BigUint64Array) data.fill(BigInt(value));
    else
      data.fill(
        dtype === 'float16' ? numberToHalf(value) : dtype === 'bfloat16' ? numberToBfloat(value) : value,
      );
    return Tensor.from(dtype, dims, data);
  }

  /** A tensor of numbers, rounded to a floating-point type of at least 16 bits. */
  static ofNumbers(dtype: FloatDType, dims: readonly number[], numbers: ArrayLike<number>): Tensor {
    const round = { float16: numberToHalf, bfloat16: numberToBfloat, float32: Number, float64: Number }[
      dtype
    ];
    const data = new ARRAYS[dtype]!(new ArrayBuffer(byteLength(dtype, numbers.length)), 0, numbers.length);
    for (let i = 0; i < numbers.length; i++) data[i] = round(numbers[i]!);
    return Tensor.from(dtype, dims, data);
  }

  /** A tensor of zeros. It takes no memory until it is read, and no space in a sparse file. */
  static zeros(dtype: DType, dims: readonly number[]): Tensor {
    const tensor = new Tensor(dtype, dims, () => new Uint8Array(tensor.byteLength));
    tensor.isZero = true;
    return tensor;
  }

  /** A one-dimensional int64 tensor, the form of axes, shapes and pads in ONNX. */
  static ints(values: readonly (number | bigint)[]): Tensor {
    return Tensor.from('int64', [values.length], BigInt64Array.from(values, BigInt));
  }

  /** Number of elements. */
  get size(): number {
    this.#size ??= this.dims.reduce((n, d) => n * d, 1);
    return this.#size;
  }

  get byteLength(): number {
    return byteLength(this.dtype, this.size);
  }

  /** The elements as little-endian bytes. Read only: they may be shared with the file they came from. */
  get bytes(): Uint8Array {
    if (this.isFresh) return this.#checked((this.source as () => Uint8Array)());
    this.#bytes ??= this.#checked(typeof this.source === 'function' ? this.source() : this.source);
    return this.#bytes;
  }

  /** The elements as a typed array (a view where alignment allows, else a copy). Read only. */
  get data(): TypedArray {
    const bytes = this.bytes;
    const make = ARRAYS[this.dtype];
    if (!make) return bytes;
    const width = byteLength(this.dtype, 1);
    const aligned = bytes.byteOffset % width === 0 ? bytes : new Uint8Array(bytes);
    return new make(aligned.buffer as ArrayBuffer, aligned.byteOffset, this.size);
  }

  /**
   * The elements as JavaScript numbers, for every type except strings and complex numbers. Code that reads values uses
   * this.
   */
  numbers(): number[] {
    if (this.dtype === 'float16') return Array.from(this.data as Uint16Array, halfToNumber);
    if (this.dtype === 'bfloat16') return Array.from(this.data as Uint16Array, bfloatToNumber);
    return (
      smallNumbers(this.dtype, this.bytes, this.size) ??
      Array.from(this.data as ArrayLike<number | bigint>, Number)
    );
  }

  /** The same, without a copy for float32 and float64. Read only. */
  floats(): Float32Array | Float64Array | number[] {
    return this.dtype === 'float32' || this.dtype === 'float64'
      ? (this.data as Float32Array | Float64Array)
      : this.numbers();
  }

  /** One element, of a type of whole bytes. Of external data, only this element is read. */
  at(index: number): number {
    const length = byteLength(this.dtype, 1);
    const offset = index * length;
    if (this.isZero) return 0;
    // Called several times for each initializer of a model, so the most frequent type makes no objects.
    if (this.dtype === 'float32' && !this.isRead) return floatAt(this.bytes, offset);
    const bytes = this.isRead
      ? (this.source as (part: Part) => Uint8Array)({ offset, length })
      : this.bytes.subarray(offset, offset + length);
    return new Tensor(this.dtype, [], bytes).numbers()[0]!;
  }

  /** Whether all elements are equal. */
  get isUniform(): boolean {
    if (this.isRead && this.at(0) !== this.at(this.size - 1)) return false;
    const { data } = this;
    return data.every((x: number | bigint) => x === data[0]);
  }

  /** Whether every access to the bytes makes new ones, which nothing else refers to. */
  get isFresh(): boolean {
    return this.isRead || this.isZero;
  }

  /** Whether every access reads a file. */
  private get isRead(): boolean {
    return this.external !== undefined || this.stored !== undefined;
  }

  #checked(bytes: Uint8Array): Uint8Array {
    if (bytes.byteLength !== this.byteLength)
      throw new AgdError(
        'invalid-model',
        `A ${this.dtype} tensor of shape [${this.dims}] takes ${this.byteLength} bytes, but ${bytes.byteLength} are stored.`,
      );
    return bytes;
  }
}

/** IEEE 754 binary16 bits to a number. */
export function halfToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0x1f) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

const scratch = new DataView(new ArrayBuffer(4));

function floatAt(bytes: Uint8Array, at: number): number {
  for (let i = 0; i < 4; i++) scratch.setUint8(i, bytes[at + i]!);
  return scratch.getFloat32(0, true);
}

/** bfloat16 bits to a number: the upper half of a float32. */
export function bfloatToNumber(bits: number): number {
  scratch.setUint32(0, bits << 16);
  return scratch.getFloat32(0);
}

/** A number to bfloat16 bits, rounded to nearest, ties to even. */
export function numberToBfloat(x: number): number {
  if (Number.isNaN(x)) return 0x7fc0;
  scratch.setFloat32(0, x);
  const f = scratch.getUint32(0);
  return (f + 0x7fff + ((f >>> 16) & 1)) >>> 16;
}

/** A number to IEEE 754 binary16 bits, rounded to nearest, ties to even. */
export function numberToHalf(x: number): number {
  scratch.setFloat32(0, x);
  const f = scratch.getUint32(0);
  const sign = (f >>> 16) & 0x8000;
  const magnitude = f & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  if (magnitude < 0x38800000) {
    const units = Math.abs(scratch.getFloat32(0)) * 2 ** 24;
    const floor = Math.floor(units);
    const up = units - floor > 0.5 || (units - floor === 0.5 && floor % 2 === 1);
    return sign | (floor + (up ? 1 : 0));
  }
  const rounded = magnitude + 0xfff + ((magnitude >>> 13) & 1);
  return sign | ((rounded - 0x38000000) >>> 13);
}
