import { describe, expect, it } from 'vitest';
import { Tensor } from '../../../src/graph/tensor.js';
import { RunLength, type RunLimits } from '../../../src/runtime/train/run-length.js';

/** The steps of a run after `runs` of them, of which each takes `start` and a step `step` milliseconds. */
function learned(limits: RunLimits, start: number, step: number, bytes = 100, runs = 20): number {
  const length = new RunLength(limits);
  for (let run = 0; run < runs; run++) {
    const { steps } = length;
    const inputs = { x: Tensor.zeros('uint8', [steps, bytes]) };
    // The first run takes longer, as it compiles kernels; others vary a little.
    length.learn(inputs, steps, (run ? 1 : 20) * start + steps * step * (1 + 0.01 * (run % 3)));
  }
  return length.steps;
}

describe('steps of one run', () => {
  it('on the CPU are a quarter of a second of them, or 32 within two seconds', () => {
    expect(learned({}, 0, 1)).toBeGreaterThan(200);
    expect(learned({}, 100, 20)).toBeLessThanOrEqual(32);
  });

  it.each([
    [120, 30],
    [5, 2],
    [600, 100],
    [0, 10],
  ])('on a device keep a start of %d ms under 5 %% of steps of %d ms', (start, step) => {
    const steps = learned({ onDevice: true }, start, step);
    expect(start / (start + steps * step)).toBeLessThan(0.055);
    expect(steps * step + start).toBeLessThan(16_000);
  });

  it('are bounded by memory', () => {
    expect(learned({ onDevice: true, bytes: 2 ** 20 }, 120, 30, 2 ** 18)).toBe(4);
    expect(learned({ onDevice: true, bytes: 2 ** 20 }, 120, 30, 2 ** 22, 4)).toBe(1);
  });

  it('take no longer than 15 seconds', () => {
    expect(learned({ onDevice: true }, 3000, 100) * 100).toBeLessThanOrEqual(12_000);
  });
});
