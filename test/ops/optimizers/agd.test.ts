import { describe, expect, it } from 'vitest';
import { type AgdOptions, agd } from '../../../src/ops/optimizers/agd.js';
import { resolveOptions } from '../../../src/ops/optimizers/optimizer.js';
import { AgdReference } from './agd-reference.js';
import { gradientSequences, KIND_NAMES } from './gradient-sequences.js';
import { OptimizerRun } from './run.js';

/** The graph's learning rate is a float32. */
const LR = Math.fround(1e-3);

const DECAYS: Partial<AgdOptions>[] = [
  {},
  { weightDecay: 0.1 },
  { weightDecay: 1e-3, fixedDecay: true },
  { weightDecay: 0.1, weightDecouple: false },
];
const SWITCHES: Partial<AgdOptions>[] = [
  {},
  { delta: 0.05 },
  { betas: [0.5, 0.9], delta: 1e-3 },
  { betas: [0, 0.5] },
];
const winAllows = ({ win, fixedDecay, weightDecouple = true }: Partial<AgdOptions>) =>
  !win || (weightDecouple && !fixedDecay);

const EVERYTHING = [false, true].flatMap(amsgrad =>
  [false, true].flatMap(win =>
    [undefined, 0.3].flatMap(clip =>
      DECAYS.flatMap(decay => SWITCHES.map(betas => ({ amsgrad, win, clip, ...decay, ...betas }))),
    ),
  ),
);

type Parameters = Record<string, readonly number[]>;

const references = (options: Partial<AgdOptions>, start: Parameters, round?: (x: number) => number) => {
  const all = resolveOptions(agd, options);
  return new Map(KIND_NAMES.map(kind => [kind, new AgdReference(start[kind]!, all, round)]));
};

const distance = (a: readonly number[], b: readonly number[]) =>
  Math.sqrt(a.reduce((sum, x, i) => sum + (x - b[i]!) ** 2, 0));

const named = (all: readonly Partial<AgdOptions>[]) => all.map(o => [JSON.stringify(o), o] as const);

describe('each step is the paper and its authors’ implementation, in float64', () => {
  it.each(named(EVERYTHING.filter(winAllows)))('%s', async (_, options) => {
    const { start, steps } = gradientSequences(40, 0.1);
    const run = await OptimizerRun.create(agd, { ...options, lr: LR }, start, { dtype: 'float64' });
    const paper = references(options, start);
    for (const [t, grads] of steps.entries()) {
      await run.step(grads);
      for (const [kind, reference] of paper) {
        reference.update(grads[kind]!, LR);
        const moved = distance(reference.w, start[kind]!);
        const off = distance(run.get(kind), reference.w);
        expect(off, `${kind}, step ${t + 1}`).toBeLessThanOrEqual(1e-12 * moved + 1e-16);
      }
    }
    await run.release();
  });
});

const THOUSAND: Partial<AgdOptions>[] = [
  {},
  { amsgrad: true },
  { win: true },
  ...DECAYS.slice(1),
  { weightDecay: 0.1, win: true },
];

/** How far 1,000 float32 steps end from the paper: those of the graph, and the authors' own, by the way moved. */
async function distances(options: Partial<AgdOptions>, size: number, compensate: boolean) {
  const { start, steps } = gradientSequences(1000, size);
  const run = await OptimizerRun.create(agd, { ...options, lr: LR }, start, { step: { compensate } });
  const [paper, float32] = [references(options, start), references(options, start, Math.fround)];
  for (const grads of steps) {
    await run.step(grads);
    for (const kind of KIND_NAMES)
      for (const reference of [paper, float32]) reference.get(kind)!.update(grads[kind]!, LR);
  }
  const found = KIND_NAMES.map(kind => {
    const exact = paper.get(kind)!.w;
    const moved = distance(exact, start[kind]!);
    const off = [run.get(kind), float32.get(kind)!.w].map(w => distance(w, exact) / moved);
    return { kind, graph: off[0]!, authors: off[1]! };
  });
  await run.release();
  return found;
}

describe('1,000 float32 steps', () => {
  it.each(named(THOUSAND))(
    'from 0 are within 2e-6 of the way moved, and no farther than the authors’: %s',
    async (_, options) => {
      for (const { kind, graph, authors } of await distances(options, 0, false)) {
        expect(graph, kind).toBeLessThan(2e-6);
        expect(graph, kind).toBeLessThanOrEqual(authors);
      }
    },
  );
  it.each(named(THOUSAND))(
    'from 0.1, whose rounding is large against small steps, are so too if it is compensated: %s',
    async (_, options) => {
      for (const { kind, graph, authors } of await distances(options, 0.1, true)) {
        expect(graph, kind).toBeLessThan(2e-6);
        expect(graph, kind).toBeLessThanOrEqual(authors);
      }
    },
  );
});

it('follows the learning rate it is fed', async () => {
  const { start, steps } = gradientSequences(10, 0.1);
  const run = await OptimizerRun.create(agd, { weightDecay: 0.1 }, start, { dtype: 'float64' });
  const paper = references({ weightDecay: 0.1 }, start);
  for (const [t, grads] of steps.entries()) {
    const lr = Math.fround(1e-3 * (t + 1));
    await run.step(grads, lr);
    for (const [kind, reference] of paper) reference.update(grads[kind]!, lr);
  }
  for (const [kind, { w }] of paper)
    expect(distance(run.get(kind), w) / distance(w, start[kind]!), kind).toBeLessThan(1e-12);
  await run.release();
});

it.each([
  ['delta', { delta: 0 }],
  ['betas', { betas: [0.9, 1] }],
  ['betas', { betas: [0.9] as never }],
  ['clip', { clip: -1 }],
  ['lr', { lr: Number.NaN }],
  ['weight_decay', { weightDecay: -0.1 }],
  ['fixed_decay', { fixedDecay: true, weightDecouple: false }],
  ['win', { win: true, weightDecouple: false }],
  ['win', { win: true, fixedDecay: true }],
  ["Unknown option of agd 'beta'; did you mean 'betas'?", { beta: 1 } as never],
  ['clip', { clip: true as never }],
  ['betas must be', { betas: null as never }],
  ["Unknown option of agd 'to_string'", { toString: 1 } as never],
  ['amsgrad must be true or false', { amsgrad: 'no' as never }],
] as [string, Partial<AgdOptions>][])('refuses an option out of its range: %s %j', (message, options) => {
  expect(() => resolveOptions(agd, options)).toThrow(message);
});
