import { expect, test } from 'vitest';
import { bucketMeans, keepExtremes, smooth, spread } from '../../../cli/ui/series.js';

test('a long series keeps its ends, spikes and gaps', () => {
  const values = Array.from({ length: 10_000 }, (_, i) => Math.sin(i / 50));
  values[1234] = 99;
  values[5678] = -99;
  values[7000] = Number.NaN;
  const kept = keepExtremes(values, 100);
  expect(kept.length).toBeLessThanOrEqual(101);
  expect(kept).toEqual([...kept].sort((a, b) => a - b));
  expect(kept).toEqual(expect.arrayContaining([0, 1234, 5678, 7000, 9999]));
});

test('of each stretch the lowest and the highest are kept', () => {
  expect(keepExtremes([5, 1, 9, 5, 5, 2, 8, 5], 6)).toEqual([0, 1, 2, 5, 6, 7]);
  expect(keepExtremes([3, 1, 2], 6)).toEqual([0, 1, 2]);
});

test('means of stretches', () => {
  expect(bucketMeans([1, 3, 5, 7, 9], 2)).toEqual([2, 7]);
  expect(bucketMeans([1, 3], 2)).toEqual([1, 3]);
});

test('a moving average starts without bias and steps over gaps', () => {
  expect(smooth([4, 4, Number.NaN, 4], 0.9)).toEqual([
    expect.closeTo(4, 12),
    expect.closeTo(4, 12),
    Number.NaN,
    expect.closeTo(4, 12),
  ]);
  // (0.5 * 0.5 * 1 + 0.5 * 4) / (0.25 + 0.5)
  expect(smooth([1, 4], 0.5)).toEqual([1, 3]);
});

test('the spread of runs ends with the shortest', () => {
  expect(
    spread([
      [1, 2, 3],
      [3, 6],
    ]),
  ).toEqual({ y: [2, 4], low: [1, 2], high: [3, 6] });
  expect(spread([])).toEqual({ y: [], low: [], high: [] });
});
