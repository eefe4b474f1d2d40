import { describe, expect, it } from 'vitest';
import { Tensor } from '../../../src/graph/tensor.js';
import { RunLength, type RunLimits, stepsOfRun } from '../../../src/runtime/train/run-length.js';

const [MB, GB] = [2 ** 20, 2 ** 30];

/** The steps of a run after `runs` of them, of which each takes `start` and a step `step` milliseconds. */
function learned(start: number, step: number, limits: Partial<RunLimits> = {}, bytes = 100): number {
  const length = new RunLength({ free: 16 * GB, ...limits });
  for (let run = 0; run < 20; run++) {
    const { steps } = length;
    const inputs = { x: Tensor.zeros('uint8', [steps, bytes]) };
    // The first run takes longer, as it compiles kernels; others vary a little.
    length.learn(inputs, steps, (run ? 1 : 2) * start + steps * step * (1 + 0.01 * (run % 3)));
  }
  return length.steps;
}

describe('steps of one run', () => {
  it('are a quarter of a second of them where starting a run costs little', () => {
    expect(learned(0, 1)).toBeGreaterThan(200);
    expect(learned(0, 1)).toBeLessThanOrEqual(250);
    expect(learned(1, 50)).toBe(4);
  });

  it.each([
    [120, 30],
    [5, 2],
    [300, 500],
    [600, 100],
    [0, 10],
  ])('keep a start of %d ms small beside steps of %d ms', (start, step) => {
    const steps = learned(start, step);
    expect(start / (start + steps * step)).toBeLessThan(0.055);
    expect(steps * step + start).toBeLessThan(16_000);
  });

  it('take no longer than 15 seconds', () => {
    // GPT-2 small: a step that is slower than a short run, and a start that takes as long.
    const steps = learned(1350, 1300);
    expect(steps).toBeGreaterThanOrEqual(9);
    expect(1350 + steps * 1300).toBeLessThanOrEqual(15_000);
    expect(learned(2000, 9000)).toBe(1);
  });

  it('do not follow from how long runs vary in length', () => {
    const length = new RunLength({ free: 16 * GB });
    for (let run = 0; run < 40; run++) {
      const inputs = { x: Tensor.zeros('uint8', [length.steps, 4]) };
      // A tenth of each, in turn longer and shorter.
      length.learn(inputs, length.steps, (run % 2 ? 1.1 : 0.9) * (0.2 + length.steps * 2));
    }
    expect(length.steps * 2).toBeLessThan(1000);
  });

  it('are few where inputs are large', () => {
    const limits = { state: 0, free: 4 * GB };
    // Short runs take up to 32 MB, and those that are longer for their start a sixteenth of the free memory.
    expect(stepsOfRun({ milliseconds: 1, bytes: 8 * MB, costs: { start: 0, step: 1 } }, limits)).toBe(4);
    expect(stepsOfRun({ milliseconds: 100, bytes: 8 * MB, costs: { start: 900, step: 10 } }, limits)).toBe(
      32,
    );
    expect(learned(120, 30, { free: GB / 8 }, 8 * MB)).toBe(4);
    expect(learned(120, 30, {}, 64 * MB)).toBeLessThanOrEqual(16);
  });

  it('are one where the copies of the state between steps would fill the memory, or a limit on it', () => {
    const step = { milliseconds: 100, bytes: 100, costs: { start: 100, step: 20 } };
    const state = 1.5 * GB;
    expect(stepsOfRun(step, { state, free: 16 * GB })).toBe(95);
    expect(stepsOfRun(step, { state, free: 5 * GB })).toBe(1);
    expect(stepsOfRun(step, { state, free: 16 * GB, limit: 8 * GB })).toBe(1);
    expect(stepsOfRun(step, { state: 0.1 * GB, free: 16 * GB, limit: 8 * GB })).toBe(95);
    expect(stepsOfRun({ ...step, bytes: 8 * MB }, { state: 0, free: 16 * GB, limit: 8 * GB })).toBe(4);
    expect(learned(1350, 1300, { state, free: 5 * GB })).toBe(1);
  });
});

it('does not lengthen runs for the state where they write it in place', () => {
  const state = 2 ** 28;
  const feeds = { x: Tensor.zeros('float32', [1, 4]) };
  const copied = new RunLength({ state, free: 2 ** 34 });
  const inPlace = new RunLength({ state, free: 2 ** 34, inPlace: true });
  for (let i = 0; i < 6; i++) {
    copied.learn(feeds, copied.steps, 2000 + 1000 * copied.steps);
    inPlace.learn(feeds, inPlace.steps, 1000 * inPlace.steps);
  }
  expect(copied.steps).toBeGreaterThan(4);
  expect(inPlace.steps).toBe(1);
});
