/** Random numbers of a sample: they follow from seed, epoch and row alone, not from the order or thread of the work. */
import { type Random, random } from '../../../graph/random.js';

/** Streams of a seed: those below are the orders of the samples. */
const AUGMENTING = 2 ** 51;
const MIXING = 2 ** 51 + 2 ** 50;

const drawsFrom = (stream: number) => (seed: number, epoch: number, row: number) =>
  random(seed, stream + epoch * 2 ** 32 + row);

/** What a sample draws for itself. */
export const drawsOf = drawsFrom(AUGMENTING);

/** What it draws for being mixed with another one, which changes nothing of the former. */
export const mixingDrawsOf = drawsFrom(MIXING);

/** Uniform in [0, 1), or in [least, most). */
export const uniform = (draw: Random, least = 0, most = 1): number =>
  least + (most - least) * (draw() / 2 ** 32);

/** A uniform whole number of [least, most]. */
export const whole = (draw: Random, least: number, most: number): number =>
  least + Math.floor(uniform(draw) * (most - least + 1));

/** A number of Beta(a, a): X / (X + Y) of two Gamma(a). */
export function beta(draw: Random, a: number): number {
  const [x, y] = [logGamma(draw, a), logGamma(draw, a)];
  return 1 / (1 + Math.exp(y - x));
}

/**
 * The logarithm of a number of Gamma(a), as the number itself may be too small for a double. Marsaglia and Tsang: A Simple
 * Method for Generating Gamma Variables, ACM TOMS 26(3), 2000; for a < 1 that of a + 1 times u^(1/a).
 */
function logGamma(draw: Random, a: number): number {
  if (a < 1) return logGamma(draw, a + 1) + Math.log((draw() + 0.5) / 2 ** 32) / a;
  const d = a - 1 / 3;
  const c = 1 / Math.sqrt(9 * d);
  for (;;) {
    const x = normal(draw);
    const v = (1 + c * x) ** 3;
    const u = (draw() + 0.5) / 2 ** 32;
    if (v > 0 && Math.log(u) < 0.5 * x * x + d - d * v + d * Math.log(v)) return Math.log(d * v);
  }
}

/** Box and Muller. */
const normal = (draw: Random) =>
  Math.sqrt(-2 * Math.log((draw() + 0.5) / 2 ** 32)) * Math.cos(2 * Math.PI * uniform(draw));
