import { expect, test } from 'vitest';
import { permutation, random, splitMix64, xoshiro128 } from '../../src/graph/random.js';

const take = <T>(n: number, draw: () => T) => Array.from({ length: n }, draw);

test('the generators give what their authors give', () => {
  expect(take(6, xoshiro128([1, 2, 3, 4]))).toEqual([11520, 0, 5927040, 70819200, 2031721883, 1637235492]);
  expect(take(3, splitMix64(1234567n))).toEqual([
    6457827717110365317n,
    3203168211198807973n,
    9817491932198370423n,
  ]);
});

test('seed and stream give their own numbers, always the same', () => {
  expect(take(2, random(42, 3))).toEqual(take(2, random(42, 3)));
  const starts = [random(0), random(0, 1), random(1), random(1, 1), random(-1), random(2 ** 52)];
  expect(new Set(starts.map(draw => draw())).size).toBe(starts.length);
});

test('a permutation is one, and each of the six of three is as frequent', () => {
  expect([...permutation(100, random(1))].sort((a, b) => a - b)).toEqual(
    take(
      100,
      (
        i => () =>
          i++
      )(0),
    ),
  );
  const draw = random(7);
  const counts = new Map<string, number>();
  for (let i = 0; i < 6000; i++) {
    const order = permutation(3, draw).join('');
    counts.set(order, (counts.get(order) ?? 0) + 1);
  }
  expect(counts.size).toBe(6);
  // Five standard deviations of a binomial count: sqrt(6000 * 1/6 * 5/6) = 29.
  for (const count of counts.values()) expect(Math.abs(count - 1000)).toBeLessThan(145);
});

test('a draw that would favour small numbers is drawn again', () => {
  const queue =
    (...draws: number[]) =>
    () =>
      draws.shift()!;
  // 2^32 - 1 is the one number too many for three equal shares.
  expect(permutation(3, queue(2 ** 32 - 1, 1, 0))).toEqual(permutation(3, queue(1, 0)));
});

test('the order of a seed is fixed for good: that of another implementation of the same steps', () => {
  expect([...permutation(8, random(42))]).toEqual([4, 2, 5, 0, 6, 7, 1, 3]);
  expect([...permutation(8, random(42, 1))]).toEqual([7, 2, 1, 3, 5, 6, 4, 0]);
  expect([...permutation(8, random(-1))]).toEqual([0, 4, 1, 5, 6, 3, 7, 2]);
});
