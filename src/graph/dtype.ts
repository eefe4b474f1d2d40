import { AgdError } from './errors.js';

/**
 * Element types by the name used in this project (numpy's names), with ONNX's number (TensorProto.DataType)
 * and the bits an element takes in `raw_data`. onnx-proto's enum ends at bfloat16 (ONNX 1.10); the numbers
 * after it are from ONNX 1.23.
 */
const TABLE = {
  float32: [1, 32],
  uint8: [2, 8],
  int8: [3, 8],
  uint16: [4, 16],
  int16: [5, 16],
  int32: [6, 32],
  int64: [7, 64],
  string: [8, 0],
  bool: [9, 8],
  float16: [10, 16],
  float64: [11, 64],
  uint32: [12, 32],
  uint64: [13, 64],
  complex64: [14, 64],
  complex128: [15, 128],
  bfloat16: [16, 16],
  float8e4m3fn: [17, 8],
  float8e4m3fnuz: [18, 8],
  float8e5m2: [19, 8],
  float8e5m2fnuz: [20, 8],
  uint4: [21, 4],
  int4: [22, 4],
  float4e2m1: [23, 4],
  float8e8m0: [24, 8],
  uint2: [25, 2],
  int2: [26, 2],
  float6e2m3: [27, 6],
  float6e3m2: [28, 6],
} as const;

export type DType = keyof typeof TABLE;

const NAMES = new Map(Object.entries(TABLE).map(([name, [code]]) => [code as number, name as DType]));

/** ONNX's number of an element type (TensorProto.DataType). */
export function dtypeCode(dtype: DType): number {
  return TABLE[dtype][0];
}

/** The element type with ONNX's number `code`; throws `unsupported-type` when ONNX defines none. */
export function dtypeOf(code: number): DType {
  const dtype = NAMES.get(code);
  if (!dtype) throw new AgdError('unsupported-type', `Unknown tensor element type ${code}.`);
  return dtype;
}

/** Size in bytes of `count` elements in `raw_data`; sub-byte types are packed. Strings cannot be stored there. */
export function byteLength(dtype: DType, count: number): number {
  return Math.ceil((TABLE[dtype][1] * count) / 8);
}

/** The types a gradient can have. */
export type FloatDType = 'float32' | 'float64' | 'float16' | 'bfloat16';

export function isFloat(dtype: DType | undefined): dtype is FloatDType {
  return dtype === 'float32' || dtype === 'float64' || dtype === 'float16' || dtype === 'bfloat16';
}

/** The floating-point types of 16 bits. */
export function isHalf(dtype: DType | undefined): dtype is 'float16' | 'bfloat16' {
  return dtype === 'float16' || dtype === 'bfloat16';
}

/** The type in which sums over numbers of this type are exact enough: float32 for 16 bits, else its own. */
export const wideOf = (dtype: DType): DType => (isHalf(dtype) ? 'float32' : dtype);

/** The types that quantization writes: integers of at most 16 bits, and floats of at most 8. */
export function isQuantized(dtype: DType): boolean {
  return /^u?int(2|4|8|16)$|^float[468]e/.test(dtype);
}
