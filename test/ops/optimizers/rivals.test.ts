import { describe, expect, it } from 'vitest';
import { type AnyOptions, optimizerNamed } from '../../../src/ops/optimizers/index.js';
import { type OptimizerOptions, resolveOptions } from '../../../src/ops/optimizers/optimizer.js';
import { FORMULAS, Reference, RIVAL_OPTIONS } from './formulas.js';
import { gradientSequences, KIND_NAMES } from './gradient-sequences.js';
import { OptimizerRun } from './run.js';

/** The graph's learning rate is a float32. */
const LR = Math.fround(1e-3);

type Rival = keyof typeof FORMULAS;

const EVERYTHING = Object.entries(RIVAL_OPTIONS).flatMap(([name, all]) =>
  all.map(options => [name as Rival, JSON.stringify(options), options] as const),
);

const resolved = (name: Rival, options: AnyOptions) =>
  resolveOptions(optimizerNamed(name), { ...options, lr: options.lr ?? LR } as Partial<OptimizerOptions>);

/** Only an optimizer of second order is to meet curvature. */
const curvatureFor = (name: Rival) => (i: number) => (name === 'adahessian' ? ((i % 7) - 3) / 2 : 0);

const distance = (a: readonly number[], b: readonly number[]) => Math.hypot(...a.map((x, i) => x - b[i]!));

describe('each step is the formula of its paper, in float64', () => {
  it.each(EVERYTHING)('%s %s', async (name, _, given) => {
    // RAdam's step is adaptive from the sixth on.
    const { start, steps } = gradientSequences(12, 0.1);
    const options = resolved(name, given);
    const curvature = curvatureFor(name);
    const run = await OptimizerRun.create(optimizerNamed(name), options, start, {
      dtype: 'float64',
      curvature,
    });
    const reference = new Reference(FORMULAS[name], options, start, curvature);
    for (const [t, grads] of steps.entries()) {
      const lr = Math.fround(LR * (1 + (t % 3)));
      await run.step(grads, lr);
      reference.update(grads, lr);
      for (const kind of KIND_NAMES) {
        const moved = distance(reference.w[kind]!, start[kind]!);
        const off = distance(run.get(kind), reference.w[kind]!);
        // Both round w itself at each step.
        const rounding = 2 ** -52 * (t + 1) * Math.hypot(...start[kind]!);
        expect(off, `${kind}, step ${t + 1}`).toBeLessThanOrEqual(1e-12 * moved + rounding);
      }
    }
    await run.release();
  });
});

it.each(Object.keys(FORMULAS) as Rival[])(
  '%s ends near its formula after 1,000 float32 steps',
  async name => {
    const { start, steps } = gradientSequences(1000, 0);
    const options = resolved(name, {});
    const curvature = curvatureFor(name);
    const run = await OptimizerRun.create(optimizerNamed(name), options, start, { curvature });
    const reference = new Reference(FORMULAS[name], options, start, curvature);
    for (const grads of steps) {
      await run.step(grads);
      reference.update(grads, LR);
    }
    for (const kind of KIND_NAMES) {
      const exact = reference.w[kind]!;
      // Steps of equal length may lead back to the start.
      const moved = distance(exact, start[kind]!);
      expect(distance(run.get(kind), exact), kind).toBeLessThanOrEqual(1e-5 * moved);
    }
    await run.release();
  },
);

it.each([
  ['sgd', 'momentum', { momentum: -1 }],
  ['sgd', 'dampening', { dampening: Number.NaN }],
  ['sgd', 'nesterov needs a momentum', { nesterov: true }],
  ['sgd', 'nesterov needs', { nesterov: true, momentum: 0.9, dampening: 0.1 }],
  ['sgd', "Unknown option of sgd 'fixed_decay'; expected one of lr, momentum,", { fixedDecay: true }],
  ['adam', 'eps', { eps: -1 }],
  ['adam', 'betas[1]', { betas: [0.9, 1] }],
  ['adam', 'betas[1] must be a number in [0, 1)', { betas: [0.9] as never }],
  ['adamw', 'weight_decay', { weightDecay: -1 }],
  ['adabound', 'gamma', { gamma: 0 }],
  ['adabound', 'final_lr', { finalLr: -1 }],
  ['adabound', 'lr, which must be above 0', { lr: 0 }],
  ['adabelief', 'fixed_decay', { fixedDecay: true, weightDecouple: false }],
  ['adabelief', 'rectify', { amsgrad: true }],
  ['amsgrad', 'is adam', { amsgrad: false }],
] as [Rival, string, AnyOptions][])(
  '%s refuses what is out of its range: %s %j',
  (name, message, options) => {
    expect(() => resolved(name, options)).toThrow(message);
  },
);

it('rejects an unknown name', () => {
  expect(() => optimizerNamed('adma')).toThrow("Unknown optimizer 'adma'; did you mean 'adam'?");
});
