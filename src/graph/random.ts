/**
 * Random numbers that are the same on every platform: xoshiro128** 1.1 seeded by SplitMix64.
 * Blackman, Vigna: Scrambled Linear Pseudorandom Number Generators, ACM TOMS 47(4), 2021; prng.di.unimi.it.
 */

/** Draws the next integer of [0, 2^32). */
export type Random = () => number;

/** 64-bit words from a seed. */
export function splitMix64(seed: bigint): () => bigint {
  let x = BigInt.asUintN(64, seed);
  const mix = (z: bigint, shift: bigint, factor: bigint) => BigInt.asUintN(64, (z ^ (z >> shift)) * factor);
  return () => {
    x = BigInt.asUintN(64, x + 0x9e3779b97f4a7c15n);
    const z = mix(mix(x, 30n, 0xbf58476d1ce4e5b9n), 27n, 0x94d049bb133111ebn);
    return z ^ (z >> 31n);
  };
}

/** The generator itself, from a state of four 32-bit words that are not all 0. */
export function xoshiro128([a, b, c, d]: readonly [number, number, number, number]): Random {
  const rotate = (x: number, k: number) => (x << k) | (x >>> (32 - k));
  return () => {
    const result = Math.imul(rotate(Math.imul(b, 5), 7), 9) >>> 0;
    const shifted = b << 9;
    c ^= a;
    d ^= b;
    b ^= c;
    a ^= d;
    c ^= shifted;
    d = rotate(d, 11);
    return result;
  };
}

/** The generator of integers `seed` and `stream` (an epoch, a worker ...): each pair has its own numbers. */
export function random(seed: number, stream = 0): Random {
  const next = splitMix64(splitMix64(BigInt(seed))() ^ BigInt(stream));
  const word = (x: bigint, shift: bigint) => Number(BigInt.asUintN(32, x >> shift));
  const [x, y] = [next(), next()];
  return xoshiro128([word(x, 0n), word(x, 32n), word(y, 0n), word(y, 32n)]);
}

/** 0 ... n-1 in random order: Fisher and Yates's shuffle in Durstenfeld's form (Knuth, TAOCP 2, algorithm P). */
export function permutation(n: number, draw: Random): Uint32Array {
  const order = new Uint32Array(n);
  for (let i = 0; i < n; i++) order[i] = i;
  for (let i = n - 1; i > 0; i--) {
    const j = below(i + 1, draw);
    const moved = order[i]!;
    order[i] = order[j]!;
    order[j] = moved;
  }
  return order;
}

/** A uniform integer of [0, n), for n below 2^32: draws again where the remainder would favour small ones. */
export function below(n: number, draw: Random): number {
  let x = draw();
  // Few numbers can be above the limit, which takes a division.
  if (x >= 2 ** 32 - n) {
    const limit = 2 ** 32 - (2 ** 32 % n);
    while (x >= limit) x = draw();
  }
  // The remainder of integers is faster than that of doubles.
  return (x >>> 0) % (n >>> 0);
}

/** A seed of 48 bits from the system's source of secrets. */
export const secretSeed = (): number =>
  crypto.getRandomValues(new Uint16Array(3)).reduce((seed, bits) => seed * 2 ** 16 + bits, 0);

/** Twelve hexadecimal digits, for names that nothing else has. */
export const randomHex = (): string => secretSeed().toString(16).padStart(12, '0');
