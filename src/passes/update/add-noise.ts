import type { Value } from '../../graph/ir.js';
import type { Builder } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import { Generator } from '../../ops/random.js';
import type { Transition } from './transition.js';

/** Distinguishes these random numbers from those of dropout with the same seed. */
const USE = 0x6e6f697365;

/** `deviation`: standard deviation of the noise on the sum over the samples of an update. `samples`: their number in a batch. */
export type Noise = { deviation: number; samples: Expr; key: Value; seed: number };

/**
 * The Gaussian mechanism: applies the transition to the sums of clipped gradients with noise added, over the number of
 * samples. The sums are those of a batch, or the mean of those of `batches` batches.
 */
export function addNoise(
  g: Builder,
  { deviation, samples, key, seed }: Noise,
  batches: number,
  transition: Transition,
): Transition {
  if (deviation === 0)
    return (b, terms) =>
      transition(
        b,
        terms.map(term => term.div(b.of(samples.value).cast(term.dtype))),
      );
  const generator = new Generator(g.of(key), seed + USE);
  return (b, terms) => {
    const noisy = terms.map(term => {
      const wide = term.dtype === 'float64' ? term : term.cast('float32');
      const size = term.staticShape ? term.count('int64') : term.op('Size');
      const normal = generator.normal(b.of(key), size).cast(wide.dtype).reshapeLike(term);
      const sum = wide.add(normal.mul(deviation / batches));
      return sum.div(b.of(samples.value).cast(wide.dtype)).cast(term.dtype);
    });
    return transition(b, noisy);
  };
}
