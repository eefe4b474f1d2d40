import type { Expr } from './expr.js';

/**
 * y = x * P(x), with P the normal distribution function  =>  dy/dx = P(x) + x P'(x). By tanh,
 * P(x) = (1 + tanh(u)) / 2 and u = sqrt(2/pi) (x + 0.044715 x^3).
 */
export function geluSlope(x: Expr, byTanh: boolean): Expr {
  const { distribution, density } = (byTanh ? tanhNormal : normal)(x);
  return distribution.add(x.mul(density));
}

/** The density's factor is part of its exponent, and both read x / sqrt(2). */
function normal(x: Expr) {
  const scaled = x.mul(Math.SQRT1_2);
  return {
    distribution: scaled.erf().add(1).mul(0.5),
    density: scaled
      .square()
      .rsub(-Math.log(2 * Math.PI) / 2)
      .exp(),
  };
}

function tanhNormal(x: Expr) {
  const k = Math.sqrt(2 / Math.PI);
  const square = x.square();
  const t = square
    .mul(0.044715 * k)
    .add(k)
    .mul(x)
    .tanh();
  return {
    distribution: t.add(1).mul(0.5),
    density: t
      .square()
      .rsub(1)
      .mul(square.mul(1.5 * 0.044715 * k).add(k / 2)),
  };
}
