/**
 * `pytorch.json` holds what PyTorch 2.13's own optimizers make, in float64, of the parameter and the gradients below:
 *
 *     w = torch.tensor([0.5, -1, 0.25, 2], dtype=torch.float64, requires_grad=True)
 *     optimizer = torch.optim.SGD([w], lr=1/128, **options)      (or Adam, AdamW, RAdam; amsgrad is Adam's option)
 *     for t in range(1, 26):
 *         w.grad = torch.tensor([s * math.sin(1.7 * t * (i + 1) + i) for i, s in enumerate([100, 1, 0.01, 1e-4])])
 *         optimizer.step()
 *     {"param": w, "state": {k: v for k, v in optimizer.state[w].items() if k != "step"}}
 *
 * and likewise the authors' own: AdaBound (github.com/Luolc/AdaBound), AdaBelief 0.2.0
 * (github.com/juntang-zhuang/Adabelief-Optimizer), and AdaHessian (github.com/amirgholami/adahessian), whose gradients are
 * w.grad + h * w and whose get_trace returns [h.abs()], with h = [-1.5, -0.5, 0.5, 1.5].
 */
import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { type AnyOptions, optimizerNamed } from '../../../src/ops/optimizers/index.js';
import { OptimizerRun } from './run.js';

type Case = { name: string; options: AnyOptions; param: number[]; state: Record<string, number[]> };

const CASES: Case[] = JSON.parse(readFileSync(new URL('pytorch.json', import.meta.url), 'utf8'));
const SCALES = [100, 1, 0.01, 1e-4];

it.each(CASES.map(c => [c.name, JSON.stringify(c.options), c] as const))(
  '%s %s does as in PyTorch, and keeps what is kept there',
  async (name, _, { options, param, state }) => {
    const run = await OptimizerRun.create(
      optimizerNamed(name),
      { lr: 1 / 128, ...options } as never,
      { w: [0.5, -1, 0.25, 2] },
      { dtype: 'float64', curvature: i => (name === 'adahessian' ? i - 1.5 : 0) },
    );
    for (let t = 1; t <= 25; t++)
      await run.step({ w: SCALES.map((scale, i) => scale * Math.sin(1.7 * t * (i + 1) + i)) });
    const kept = Object.keys(state).map(key => [`w_${key}`, state[key]!] as const);
    expect(run.stateNames.sort()).toEqual(['w', 'step', ...kept.map(([key]) => key)].sort());
    for (const [key, want] of [['w', param] as const, ...kept])
      for (const [i, x] of run.get(key).entries())
        expect(Math.abs(x - want[i]!), `${key}[${i}]`).toBeLessThanOrEqual(1e-13 * Math.abs(want[i]!));
    await run.release();
  },
);
