import { isFloat } from '../../graph/dtype.js';
import type { Tensor } from '../../graph/tensor.js';
import type { Feeds } from '../session.js';

/** The name of the first tensor with an element that is infinite or not a number. */
export function firstNonFinite(tensors: Feeds): string | undefined {
  return Object.entries(tensors).find(([, t]) => isFloat(t.dtype) && !allFinite(t))?.[0];
}

/** The first row, along the first axis, with an element that is infinite or not a number, and how many there are. */
export function nonFiniteRows(array: Tensor, isBad = (x: number) => !Number.isFinite(x)): Set<number> {
  const rows = array.dims[0] ?? 0;
  if (!isFloat(array.dtype) || !rows || allFinite(array)) return new Set();
  const size = array.size / rows;
  const values = array.floats();
  const bad = new Set<number>();
  for (let i = 0; i < values.length; i++) if (isBad(values[i]!)) bad.add(Math.floor(i / size));
  return bad;
}

/** Of 16-bit floats, which are their bits: the exponent, all of whose bits are set in what is not finite. */
const EXPONENT: Partial<Record<string, number>> = { float16: 0x7c00, bfloat16: 0x7f80 };

/** What is not finite is not 0 when multiplied by it. Several sums at once, as each waits for its last addition. */
function allFinite({ dtype, data }: Tensor): boolean {
  const values = data as ArrayLike<number>;
  const exponent = EXPONENT[dtype];
  if (exponent) return (data as Uint16Array).every(bits => (bits & exponent) !== exponent);
  const whole = values.length - (values.length % 4);
  let [a, b, c, d] = [0, 0, 0, 0];
  for (let i = 0; i < whole; i += 4) {
    a += values[i]! * 0;
    b += values[i + 1]! * 0;
    c += values[i + 2]! * 0;
    d += values[i + 3]! * 0;
  }
  for (let i = whole; i < values.length; i++) a += values[i]! * 0;
  return a + b + c + d === 0;
}

/** What errors say of the state after a step that failed. */
export const LAST_GOOD = 'that of the last good step';

/** And where the step had begun to replace the state. */
export const LOST = 'state in memory is lost';
