import { expect, test } from 'vitest';
import {
  formatBytes,
  formatClock,
  formatCount,
  formatFixed,
  formatLoss,
  formatMetric,
  formatNumber,
  formatPercent,
  formatSeconds,
} from '../../../cli/ui/format.js';

test('counts are grouped and name what they count', () => {
  expect(formatCount(44426, 'parameter')).toBe('44,426 parameters');
  expect(formatCount(1, 'parameter')).toBe('1 parameter');
  expect(formatCount(999)).toBe('999');
});

test.each([
  [0, '0 B'],
  [999, '999 B'],
  [1000, '1.0 kB'],
  [99_949, '99.9 kB'],
  [178_400, '178 kB'],
  [999_499, '999 kB'],
  [999_500, '1.0 MB'],
  [1_234_567, '1.2 MB'],
  [5e15, '5000 TB'],
])('%d bytes are %s', (bytes, text) => expect(formatBytes(bytes)).toBe(text));

test.each([
  [0.21337, '0.2134'],
  [0.5, '0.5'],
  [12480, '12,480'],
  [12480.4, '12,480'],
  [1234567, '1,234,567'],
  [1.234e-5, '1.234e-5'],
  [1e-4, '1e-4'],
  [2.5e7 + 0.5, '2.5e7'],
  [-3, '-3'],
  [Number.NaN, 'NaN'],
])('%d reads %s', (value, text) => expect(formatNumber(value)).toBe(text));

test('a loss keeps its width', () => {
  expect(formatLoss(0.5)).toBe('0.5000');
  expect(formatLoss(12.3456)).toBe('12.35');
  expect(formatLoss(1.2e-5)).toBe('1.200e-5');
  expect(formatLoss(Number.NaN)).toBe('NaN');
});

test('fixed decimals, shares and metrics', () => {
  expect(formatFixed(12480.5, 2)).toBe('12,480.50');
  expect(formatPercent(0.97123)).toBe('97.1 %');
  expect(formatMetric('val accuracy', 0.5)).toBe('50.0 %');
  expect(formatMetric('perplexity', 1.5)).toBe('1.5');
});

test('times', () => {
  expect(formatClock(65)).toBe('00:01:05');
  expect(formatClock(3 * 3600 - 0.4)).toBe('03:00:00');
  expect(formatClock(Number.NaN)).toBe('--:--:--');
  expect(formatClock(Number.POSITIVE_INFINITY)).toBe('--:--:--');
  expect(formatSeconds(12.34)).toBe('12.3 s');
  expect(formatSeconds(99.96)).toBe('00:01:40');
});
