/**
 * Random numbers as functions of a counter, in operators that every device supports: a resumed run draws the same as an
 * uninterrupted one, and recomputing a value draws it again.
 *
 * The numbers form a matrix. The one in row i and column j is (a_i + b_j) * (c_i + d_j) modulo 2^32, where a, b, c and
 * d are hashes of position and key: any few of them are independent, and one costs three integer operations.
 */
import { splitMix64 } from '../graph/random.js';
import type { Expr } from './core/expr.js';

/** A prime below 2^31: products of two numbers below it are int64. */
const MODULUS = 2 ** 31 - 1;
const PER_POSITION = 1103515245;
const PER_BATCH = 754877669;
const PER_ITERATION = 1664525;
const PER_STREAM = 1566083941;

/** Number of columns of the matrix. */
const COLUMNS = 1024;

const modulo = (x: Expr) => x.op('Mod', [MODULUS]);

/** An int64 scalar below 2^31 that identifies a batch: no two of the first 2^31 have the same. */
export const keyOfBatch = (batch: Expr): Expr => modulo(batch.mul(PER_BATCH));

/** A separate key for each iteration of a loop, an int64 scalar. */
export const keyOfIteration = (key: Expr, iteration: Expr): Expr => key.add(iteration.mul(PER_ITERATION));

/** Four numbers below 2^31 - 1 for each pair of a seed and a use of it. */
function salts(seed: number, use: number): [number, number, number, number] {
  const next = splitMix64(splitMix64(BigInt(seed))() ^ BigInt(use));
  const salt = () => Number(next() % BigInt(MODULUS));
  return [salt(), salt(), salt(), salt()];
}

/** Draws different numbers on each call, which depend on the seed, the use and the key of the batch. */
export class Generator {
  #uses = 0;
  readonly #columns: readonly Expr[];
  readonly #stream: Expr | undefined;

  /**
   * `key` is that of the batch. `stream` is an int64 scalar, such as the number of a worker: no two pairs of batch and stream below
   * 2^31 have the same numbers, and those of stream 0 are those without one. The constructor computes what all draws of a batch
   * share.
   */
  constructor(
    key: Expr,
    private readonly seed: number,
    stream?: Expr,
  ) {
    this.#stream = stream && modulo(stream.mul(PER_STREAM));
    this.#columns = this.#hashes(key, key.g.scalar(COLUMNS, 'int64'), [2, 1, -1]);
  }

  /** Two vectors of `count` int32 hashes, in the shape of rows or columns of the matrix. */
  #hashes(key: Expr, count: Expr, shape: readonly number[]): Expr[] {
    // Rounds of x <- (x^2 + salt) mod p decorrelate neighbours; the key comes between, lest one batch be another shifted.
    const [one, two, three, four] = salts(this.seed, this.#uses++);
    const round = (x: Expr, salt: number) => modulo(modulo(x).square().add(salt));
    const position = round(count.mul(2).iota().mul(PER_POSITION).add(one), two);
    // The key of a batch takes all of the modulus: a stream in its sum would be another batch.
    const ofBatch = round(position.add(key), three);
    const ofStream = this.#stream ? ofBatch.add(count.g.of(this.#stream.value)) : ofBatch;
    const pair = round(ofStream, four).cast('int32').reshape(shape);
    return [0, 1].map(i => pair.gather(key.g.scalar(i, 'int64')));
  }

  /**
   * `count` (an int64 scalar) int32 numbers over the whole range, by the key of the batch or of one of its iterations.
   */
  bits(key: Expr, count: Expr): Expr {
    const [b, d] = this.#columns.map(e => count.g.of(e.value)) as [Expr, Expr];
    const [a, c] = this.#hashes(key, count.add(COLUMNS - 1).div(COLUMNS), [2, -1, 1]) as [Expr, Expr];
    return first(a.add(b).mul(c.add(d)).reshape([-1]), count);
  }

  /** `count` float32 numbers in (0, 1). */
  uniform(key: Expr, count: Expr): Expr {
    return this.bits(key, count)
      .cast('float32')
      .mul((1 - 2 ** -23) * 2 ** -32)
      .add(0.5);
  }

  /**
   * `count` float32 numbers of mean 0 and variance 1: each pair of uniform numbers gives two (Box and Muller, 1958).
   */
  normal(key: Expr, count: Expr): Expr {
    const pairs = count.add(1).div(2);
    const radius = this.uniform(key, pairs).log().mul(-2).sqrt();
    const angle = this.uniform(key, pairs).mul(2 * Math.PI);
    return first(radius.mul(angle.cos()).concat([radius.mul(angle.sin())], 0), count);
  }

  /** `count` booleans, false with probability `ratio` (a scalar). */
  kept(key: Expr, count: Expr, ratio: Expr): Expr {
    const share = ratio.constant?.[0];
    if (share === undefined) return this.uniform(key, count).greaterOrEqual(ratio.cast('float32'));
    const bound = Math.min(2 ** 31 - 1, Math.round((share - 0.5) * 2 ** 32));
    return this.bits(key, count).greaterOrEqual(bound);
  }
}

/** The first `count` (an int64 scalar) elements of a vector. */
function first(x: Expr, count: Expr): Expr {
  const { g } = x;
  return x.op('Slice', [g.ints([0]), count.unsqueeze([0])]);
}
