import type { Expr } from './core/expr.js';

/** A prime below 2^31: products of two numbers below it are int64. */
const MODULUS = 2 ** 31 - 1;
const PER_INDEX = 1103515245;
const PER_STEP = 754877669;
const PER_SEED = 1597334677n;

/**
 * `count` random booleans, true with probability 1/2: a hash of position, `step` (an int64 scalar) and seed, so that a
 * resumed run draws the same as an uninterrupted one. Two rounds of x <- (x^2 + 1) mod p decorrelate neighbours and
 * successive steps.
 */
export function coins(step: Expr, count: number, seed: number): Expr {
  const mod = (x: Expr) => x.op('Mod', [MODULUS]);
  const start = Number((BigInt(seed) * PER_SEED) % BigInt(MODULUS));
  const positions = mod(step.g.scalar(count, 'int64').iota().mul(PER_INDEX));
  let x = mod(positions.add(mod(mod(step).mul(PER_STEP).add(start))));
  for (let round = 0; round < 2; round++) x = mod(x.square().add(1));
  return x.less((MODULUS - 1) / 2);
}
