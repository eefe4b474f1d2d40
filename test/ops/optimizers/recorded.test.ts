/** 100 steps as PyTorch and the authors' formulas take them: `recorded.py` says how `recorded.json` is made. */
import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { type AnyOptions, optimizerNamed } from '../../../src/ops/optimizers/index.js';
import type { Averaging } from '../../../src/ops/optimizers/optimizer.js';
import { wrapped } from '../../../src/ops/optimizers/wrappers/index.js';
import { type Numbers, OptimizerRun } from './run.js';

type Case = {
  name: string;
  options: AnyOptions;
  scheduleFree?: Averaging;
  param: Numbers;
  state: Numbers;
};

const CASES: Case[] = JSON.parse(readFileSync(new URL('recorded.json', import.meta.url), 'utf8'));
const SHAPES: Record<string, number[]> = { matrix: [3, 2], vector: [3], kernel: [2, 2, 1, 2] };

const each = (value: (i: number) => number): Numbers =>
  Object.fromEntries(
    Object.entries(SHAPES).map(([name, dims]) => [
      name,
      Array.from({ length: dims.reduce((n, d) => n * d, 1) }, (_, i) => value(i)),
    ]),
  );
const start = each(i => 0.5 + Math.cos(2.3 * i));
const gradients = (t: number) => each(i => 10 ** (1 - (i % 4)) * (0.3 + Math.sin(1.7 * t * (i + 1) + i)));

it.each(
  CASES.map(
    c =>
      [
        c.scheduleFree ? `${c.name}, averaged as ${JSON.stringify(c.scheduleFree)},` : c.name,
        JSON.stringify(c.options),
        c,
      ] as const,
  ),
)(
  '%s %s ends 100 steps where the reference does',
  async (_, __, { name, options, scheduleFree, param, state }) => {
    // Prodigy's first steps are lost in the rounding of float32 weights, whoever takes them: see prodigy.test.ts.
    for (const dtype of name === 'prodigy' ? (['float64'] as const) : (['float64', 'float32'] as const)) {
      const own = { lr: 1 / 128, ...options } as never;
      const run = await OptimizerRun.create(wrapped(optimizerNamed(name), { scheduleFree }), own, start, {
        dtype,
        shapes: SHAPES,
      });
      for (let t = 1; t <= 100; t++) await run.step(gradients(t));
      // ONNX Runtime folds coefficients of products of matrices into them as float32 numbers.
      const exact = { muon: 1e-6, shampoo: 1e-8 }[name] ?? 1e-10;
      const bound = dtype === 'float64' ? exact : 1e-5;
      const kept = dtype === 'float64' ? Object.entries(state) : [];
      for (const [key, want] of [...Object.entries(param), ...kept]) {
        const got = run.get(key);
        const off = Math.hypot(...got.map((x, i) => x - want[i]!));
        expect(off, `${dtype} ${key}`).toBeLessThanOrEqual(bound * Math.hypot(...want));
      }
      await run.release();
    }
  },
);
