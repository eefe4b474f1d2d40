import { expect, test } from 'vitest';
import { bucketMeans, keepExtremes, spread, trend } from '../../../cli/ui/series.js';

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

test('a trend neither lags behind a fall nor anticipates it', () => {
  const falling = Array.from({ length: 400 }, (_, i) => 10 ** (-i / 50));
  trend(falling, { log: true }).forEach((value, i) => {
    expect(value / falling[i]!).toBeCloseTo(1, 6);
  });
  const line = Array.from({ length: 100 }, (_, i) => 3 - i / 10);
  trend(line).forEach((value, i) => {
    expect(value).toBeCloseTo(line[i]!, 9);
  });
});

test('a trend takes the noise out, up to the ends, and steps over gaps', () => {
  const noisy = Array.from({ length: 400 }, (_, i) => 1 + (i % 2 ? 0.5 : -0.5) - i / 1000);
  trend(noisy)
    .slice(20)
    .forEach((value, i) => {
      expect(Math.abs(value - (1 - (i + 20) / 1000))).toBeLessThan(0.15);
    });
  expect(trend([4, 4, Number.NaN, 4])).toEqual([4, 4, Number.NaN, 4]);
  expect(trend([4, 0, 4], { log: true })).toEqual([expect.closeTo(4), Number.NaN, expect.closeTo(4)]);
  expect(trend([])).toEqual([]);
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
