import { describe, expect, it } from 'vitest';
import { epsilonOf, logErfc, noiseFor } from '../../../src/runtime/train/accountant.js';

describe('the accountant', () => {
  it("gives the epsilon and, for a budget, the noise of Opacus's own tests", () => {
    const run = { rate: 0.04, updates: 90 / 0.04 };
    expect(epsilonOf({ ...run, noise: 1.5 }, 1e-5)).toBeCloseTo(7.32911117143, 7);
    // 1.425307617 there, whose search is coarser and keeps within 0.01 of the budget.
    const noise = noiseFor(8, 1e-5, run);
    expect(Math.abs(noise - 1.425307617)).toBeLessThan(0.02);
    expect(epsilonOf({ ...run, noise }, 1e-5)).toBeLessThanOrEqual(8);
    expect(epsilonOf({ ...run, noise: noise - 0.002 }, 1e-5)).toBeGreaterThan(8);
  });

  // The divergences by numerical integration of their definition (NumPy, 400,001 points, in logarithms).
  it.each([
    [0.01, 0.6, 300, 1e-5, 6.057287005],
    [0.25, 2.5, 40, 1e-4, 2.796889468],
    [0.02, 0.9, 500, 1e-6, 4.596304392],
    [1, 3, 10, 1e-5, 5.02394975],
    [0.004, 0.45, 1000, 1e-5, 11.730820538],
    [0.5, 0.7, 100, 1e-2, 58.779717669],
    [0.9, 0.3, 5, 1e-2, 46.502410171],
  ])('rate %d, noise %d, %d updates, delta %d', (rate, noise, updates, delta, epsilon) => {
    expect(Math.abs(epsilonOf({ rate, noise, updates }, delta) / epsilon - 1)).toBeLessThan(1e-8);
  });

  it('spends nothing in no updates, and everything without noise', () => {
    expect(epsilonOf({ rate: 0.1, noise: 1, updates: 0 }, 1e-5)).toBe(0);
    expect(epsilonOf({ rate: 0.1, noise: 0, updates: 1 }, 1e-5)).toBe(Number.POSITIVE_INFINITY);
  });

  it('says so where no noise is enough', () => {
    expect(() => noiseFor(1e-9, 1e-5, { rate: 1, updates: 1000 })).toThrow(/No noise keeps 1000 updates/);
  });

  it.each([
    [-7, Math.LN2],
    [-1.5, 0.6760545027339606],
    [0.5, -0.7350111298370844],
    [1.99, -5.320852015139977],
    [2.01, -5.409215264190247],
    [30, -903.9741171106439],
  ])('log erfc(%d)', (x, expected) => {
    expect(logErfc(x)).toBeCloseTo(expected, 11);
  });
});
