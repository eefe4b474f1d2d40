/** Element types below 16 bits without a JavaScript array type: packed integers and small floats. */
import { byteLength, type DType } from './dtype.js';

type Small = { bits: number; toNumber: (code: number) => number };

const signed = (bits: number) => (code: number) => (code << (32 - bits)) >> (32 - bits);

/** Sign, exponent and fraction. The largest exponent is an ordinary one unless `special` defines its values. */
const float =
  (
    exponentBits: number,
    fractionBits: number,
    bias: number,
    special?: (code: number) => number | undefined,
  ) =>
  (code: number): number => {
    const given = special?.(code);
    if (given !== undefined) return given;
    const sign = code >> (exponentBits + fractionBits) ? -1 : 1;
    const exponent = (code >> fractionBits) & (2 ** exponentBits - 1);
    const fraction = (code & (2 ** fractionBits - 1)) / 2 ** fractionBits;
    return sign * (exponent ? (1 + fraction) * 2 ** (exponent - bias) : fraction * 2 ** (1 - bias));
  };

const nanAt =
  (...codes: number[]) =>
  (code: number) =>
    codes.includes(code) ? Number.NaN : undefined;

/** Infinity and NaN as in IEEE 754. */
const e5m2 = (code: number) => {
  if ((code & 0x7c) !== 0x7c) return undefined;
  return code & 3 ? Number.NaN : code & 0x80 ? Number.NEGATIVE_INFINITY : Number.POSITIVE_INFINITY;
};

/** As https://onnx.ai/onnx/technical/float8.html and its neighbours define them. */
const SMALL: Partial<Record<DType, Small>> = {
  int4: { bits: 4, toNumber: signed(4) },
  uint4: { bits: 4, toNumber: code => code },
  int2: { bits: 2, toNumber: signed(2) },
  uint2: { bits: 2, toNumber: code => code },
  float8e4m3fn: { bits: 8, toNumber: float(4, 3, 7, nanAt(0x7f, 0xff)) },
  float8e4m3fnuz: { bits: 8, toNumber: float(4, 3, 8, nanAt(0x80)) },
  float8e5m2: { bits: 8, toNumber: float(5, 2, 15, e5m2) },
  float8e5m2fnuz: { bits: 8, toNumber: float(5, 2, 16, nanAt(0x80)) },
  float8e8m0: { bits: 8, toNumber: code => (code === 0xff ? Number.NaN : 2 ** (code - 127)) },
  float6e2m3: { bits: 6, toNumber: float(2, 3, 1) },
  float6e3m2: { bits: 6, toNumber: float(3, 2, 3) },
  float4e2m1: { bits: 4, toNumber: float(2, 1, 1) },
};

/** The elements of such a type as numbers; packed elements start at the lowest bits. Undefined for other types. */
export function smallNumbers(dtype: DType, bytes: Uint8Array, size: number): number[] | undefined {
  const small = SMALL[dtype];
  if (!small || bytes.length < byteLength(dtype, size)) return undefined;
  const { bits, toNumber } = small;
  return Array.from({ length: size }, (_, i) => {
    const [at, shift] = [Math.floor((i * bits) / 8), (i * bits) % 8];
    const word = bytes[at]! | ((bytes[at + 1] ?? 0) << 8);
    return toNumber((word >> shift) & (2 ** bits - 1));
  });
}
