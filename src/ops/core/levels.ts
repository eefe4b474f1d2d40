/** Quantized integers, and the numbers that they represent. */
import type { FloatDType } from '../../graph/dtype.js';
import { Tensor } from '../../graph/tensor.js';
import type { Expr } from './expr.js';
import { range } from './rule.js';

/** A zero point, if there is one. */
export type Zeros = Expr | undefined;

/** x - zero in a floating-point type; a zero point is one number, one per index of `axis`, or shaped to broadcast. */
export function centred(x: Expr, zero: Zeros, axis: number, dtype: FloatDType): Expr {
  return zero ? x.cast(dtype).sub(along(zero.cast(dtype), x, axis)) : x.cast(dtype);
}

/** Dequantizes levels: (x - zero) * scale, with `zero` as in `centred`. */
export function dequantized(x: Expr, scale: Expr, zero: Zeros, axis = 1): Expr {
  return centred(x, zero, axis, scale.dtype as FloatDType).mul(along(scale, x, axis));
}

/** Quantizes numbers to levels. */
export function quantized(y: Expr, scale: Expr, zero: Zeros, axis = 1): Expr {
  const dtype = zero?.dtype ?? 'uint8';
  const types = [{ kind: 'tensor' as const, dtype, shape: y.shape }];
  return y.cast(scale.dtype).op('QuantizeLinear', [scale, zero], { axis }, { types });
}

function along(e: Expr, x: Expr, axis: number): Expr {
  const isOfAxis = e.rank === 1 && e.extent(0) !== 1;
  return isOfAxis ? e.unsqueeze(range(1, x.rank - axis)) : e;
}

/** Unpacks numbers of `bits` bits from bytes, lowest bits first, along a new last axis. */
export function unpacked(bytes: Expr, bits: number): Expr {
  if (bits === 8) return bytes;
  const parts = levelsIn(bytes, bits).map(part => part.unsqueeze([-1]));
  return parts[0]!.concat(parts.slice(1), -1);
}

/** The first number of `bits` bits in each byte, the second, and so on, without the copy that puts them in order. */
export function levelsIn(bytes: Expr, bits: number): Expr[] {
  const { g } = bytes;
  const count = 8 / bits;
  // CUDA has no kernels for shifts and bitwise operators.
  if (g.provider === 'cuda') {
    const index = bytes.cast('int32');
    return Array.from({ length: count }, (_, i) => {
      const levels = Uint8Array.from({ length: 256 }, (_, byte) => (byte >> (i * bits)) % 2 ** bits);
      return g.tensor(Tensor.from('uint8', [256], levels)).gather(index);
    });
  }
  return Array.from({ length: count }, (_, i) => {
    const shifted = i ? bytes.op('BitShift', [g.scalar(i * bits, 'uint8')], { direction: 'RIGHT' }) : bytes;
    return i < count - 1 ? shifted.op('BitwiseAnd', [g.scalar(2 ** bits - 1, 'uint8')]) : shifted;
  });
}
