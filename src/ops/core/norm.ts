import type { Expr } from './expr.js';

/** The sum of the squares of all elements, a scalar; 16-bit floats are summed in float32, as float16 ends at 65,504. */
export function sumOfSquares(x: Expr): Expr {
  const wide = x.dtype === 'float64' ? x : x.cast('float32');
  return wide.op('ReduceSumSquare', [], { keepdims: 0 });
}

/** The 2-norm of a tensor, a scalar. */
export const norm = (x: Expr): Expr => sumOfSquares(x).sqrt();
