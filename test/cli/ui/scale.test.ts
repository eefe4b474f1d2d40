import { expect, test } from 'vitest';
import { extent, linearScale, logScale, tickStep } from '../../../cli/ui/scale.js';

const texts = ({ ticks, format }: { ticks: number[]; format: (tick: number) => string }) => ticks.map(format);

test.each([
  [1, 5, 0.2],
  [1, 4, 0.2],
  [10, 3, 5],
  [0.009, 6, 0.002],
  [7e6, 7, 1e6],
])('a span of %d in about %d parts has steps of %d', (span, count, step) => {
  expect(tickStep(span, count)).toBe(step);
});

test('a nice linear scale ends at ticks', () => {
  const scale = linearScale([0.03, 0.97], [100, 0], { nice: true, count: 5 });
  expect(texts(scale)).toEqual(['0', '0.2', '0.4', '0.6', '0.8', '1.0']);
  expect(scale.at(0)).toBe(100);
  expect(scale.at(1)).toBe(0);
  expect(scale.at(0.25)).toBe(75);
});

test('whole numbers have no ticks between them', () => {
  expect(texts(linearScale([1, 3], [0, 100], { integer: true }))).toEqual(['1', '2', '3']);
  expect(texts(linearScale([0, 20_000], [0, 100], { count: 4 }))).toEqual([
    '0',
    '5,000',
    '10,000',
    '15,000',
    '20,000',
  ]);
});

test('very small and very large ticks have exponents', () => {
  expect(texts(linearScale([0, 3e-5], [0, 1], { count: 3 }))).toEqual(['0', '1e-5', '2e-5', '3e-5']);
  expect(texts(linearScale([0, 3e6], [0, 1], { count: 3 }))).toEqual(['0', '1e6', '2e6', '3e6']);
});

test('a log scale has powers of ten, then 1-2-5, then round numbers', () => {
  expect(texts(logScale([1e-4, 10], [0, 1]))).toEqual(['1e-4', '0.001', '0.01', '0.1', '1', '10']);
  expect(texts(logScale([0.04, 2.5], [0, 1]))).toEqual(['0.05', '0.1', '0.2', '0.5', '1', '2']);
  expect(texts(logScale([1.1, 1.6], [0, 1], { count: 5 }))).toEqual([
    '1.1',
    '1.2',
    '1.3',
    '1.4',
    '1.5',
    '1.6',
  ]);
  expect(texts(logScale([1e-12, 1], [0, 1], { count: 4 }))).toEqual(['1e-12', '1e-8', '1e-4', '1']);
});

test('a log scale is even in ratios', () => {
  const scale = logScale([0.01, 100], [0, 100]);
  expect([0.01, 0.1, 1, 10, 100].map(scale.at)).toEqual([0, 25, 50, 75, 100].map(v => expect.closeTo(v, 10)));
  expect(Number.isFinite(scale.at(0))).toBe(false);
  expect(Number.isFinite(scale.at(-1))).toBe(false);
});

test('an extent is never empty', () => {
  expect(extent([3, Number.NaN, 1, Number.POSITIVE_INFINITY])).toEqual([1, 3]);
  expect(extent([])).toEqual([0, 1]);
  expect(extent([5, 5])).toEqual([4.5, 5.5]);
  expect(extent([0])).toEqual([-1, 1]);
});

test('a domain as narrow as rounding still has an end of ticks', () => {
  const [low, high] = extent([0.39999999999999997, 0.4]);
  expect(low).toBeLessThan(0.37);
  expect(high).toBeGreaterThan(0.43);
  expect(extent([0.4, 0.4 + 1e-6])).toEqual([0.4, 0.4 + 1e-6]);
  expect(linearScale([0.39999999999999997, 0.4], [0, 100], { count: 5.6 }).ticks.length).toBeLessThan(2000);
});
