import { expect, it } from 'vitest';
import { type AgdOptions, agd } from '../../../src/ops/optimizers/agd.js';
import { OPTIMIZERS, type OptimizerName } from '../../../src/ops/optimizers/index.js';
import type { Optimizer } from '../../../src/ops/optimizers/optimizer.js';
import { checkInjectOptions } from '../../../src/passes/options.js';
import { tileOf } from '../../../src/passes/update/tile-large-updates.js';
import type { PlannedUpdate } from '../../../src/passes/update/update-parameters.js';
import { type Numbers, OptimizerRun } from '../../ops/optimizers/run.js';

const START = { a: [0.5, -1, 2], b: [0.25, 0.125] };
const GRADS: Numbers[] = [
  { a: [1, -2, 0.5], b: [0.1, 4] },
  { a: [0.5, 1, -1], b: [-0.3, 2] },
  { a: [-1, 0.25, 3], b: [0.7, -6] },
  { a: [2, 0, 1], b: [0.2, 1] },
];

const create = (step?: PlannedUpdate, own?: Record<string, Partial<AgdOptions>>) =>
  OptimizerRun.create(agd, { weightDecay: 0.01 }, START, { step, own });

const states = (run: OptimizerRun, names = run.stateNames) => names.map(name => [name, run.get(name)]);

const scaled = (grads: Numbers, change: (x: number) => number): Numbers =>
  Object.fromEntries(Object.entries(grads).map(([name, values]) => [name, values.map(change)]));

/** Both runs have the same bits, in the states that both have. */
function expectSame(got: OptimizerRun, want: OptimizerRun): void {
  const names = want.stateNames.filter(name => got.stateNames.includes(name));
  expect(names).toContain('a');
  expect(states(got, names)).toEqual(states(want, names));
}

it('multiplies a fed learning rate by the schedule', async () => {
  const [run, plain] = [await create({ schedule: { kind: 'step', every: 2, gamma: 0.5 } }), await create()];
  for (const [t, grads] of GRADS.entries()) {
    await run.step(grads, 2 ** -8);
    await plain.step(grads, 2 ** -8 * 0.5 ** Math.floor(t / 2));
  }
  expectSame(run, plain);
});

it('takes the learning rate of a group as a multiple of the fed one', async () => {
  const [run, plain, slow] = [await create(undefined, { b: { lr: 2.5e-4 } }), await create(), await create()];
  for (const grads of GRADS) {
    await run.step(grads, 2 ** -6);
    await plain.step(grads, 2 ** -6);
    await slow.step(grads, 2 ** -8);
  }
  expect(run.get('a')).toEqual(plain.get('a'));
  expect(run.get('b')).toEqual(slow.get('b'));
});

it('updates tensors of any shapes as vectors, and matrices with rows of one length by rows', async () => {
  const shapes = {
    a: [2, 3],
    scalar: [],
    b: [1, 3],
    bias: [2],
    c: [3, 3],
    empty: [0, 2],
    hollow: [2, 0],
    d: [2, 1, 2],
    e: [4, 2],
  };
  const numbers = (sign: number): Numbers =>
    Object.fromEntries(
      Object.entries(shapes).map(([name, shape], k) => {
        const size = shape.reduce((n: number, d) => n * d, 1);
        return [name, Array.from({ length: size }, (_, i) => sign * (0.5 + k - i / 8))];
      }),
    );
  const [joined, vectors] = [
    await OptimizerRun.create(agd, { weightDecay: 0.01 }, numbers(1), { shapes }),
    await OptimizerRun.create(agd, { weightDecay: 0.01 }, numbers(1)),
  ];
  for (const sign of [1, -2]) for (const run of [joined, vectors]) await run.step(numbers(sign));
  expectSame(joined, vectors);
  expect(joined.opTypes).toContain('Reshape');
  expect(vectors.opTypes).not.toContain('Reshape');
});

it('clips gradients elementwise', async () => {
  const [run, plain] = [await create({ clipGradValue: 1 }), await create()];
  for (const grads of GRADS) {
    await run.step(grads);
    await plain.step(scaled(grads, x => Math.max(-1, Math.min(1, x))));
  }
  expectSame(run, plain);
});

it('bounds the norm of all gradients together, after their elements, as PyTorch does', async () => {
  const [run, plain] = [await create({ clipGradNorm: 2, clipGradValue: 3 }), await create()];
  for (const grads of [...GRADS, scaled(GRADS[0]!, x => x / 100)]) {
    const bounded = scaled(grads, x => Math.max(-3, Math.min(3, x)));
    const norm = Math.hypot(...Object.values(bounded).flat().map(Math.fround));
    const factor = Math.fround(Math.min(1, 2 / (norm + 1e-6)));
    await run.step(grads);
    await plain.step(scaled(bounded, x => Math.fround(Math.fround(x) * factor)));
    // What the norm was stays readable.
    expect(run.get('grad_norm')[0]).toBeCloseTo(norm, 5);
  }
  for (const name of plain.stateNames)
    for (const [i, x] of run.get(name).entries()) expect(x).toBeCloseTo(plain.get(name)[i]!, 6);
});

it('makes one update of several batches, with their mean gradient', async () => {
  const [run, plain] = [await create({ accumulate: 2 }), await create()];
  const before = states(run, ['a', 'b', 'a_diff_sq_sum', 'step']);
  await run.step(GRADS[0]!);
  expect(states(run, ['a', 'b', 'a_diff_sq_sum', 'step'])).toEqual(before);
  expect(run.get('micro_step')).toEqual([1]);
  expect(run.get('b_grad_sum')).toEqual(GRADS[0]!.b!.map(Math.fround));
  await run.step(GRADS[1]!);
  expect([run.get('step'), run.get('micro_step'), run.get('b_grad_sum')]).toEqual([[1], [0], [0, 0]]);
  for (const grads of GRADS.slice(2)) await run.step(grads);
  for (const k of [0, 2]) {
    const [first, second] = [GRADS[k]!, GRADS[k + 1]!];
    const mean = (name: string) =>
      first[name]!.map((x, i) => (Math.fround(x) + Math.fround(second[name]![i]!)) / 2);
    await plain.step({ a: mean('a'), b: mean('b') });
  }
  expectSame(run, plain);
});

it('keeps a moving average of the weights', async () => {
  const run = await create({ ema: 0.75 });
  let average = START.a;
  expect(run.get('a_ema')).toEqual(average);
  for (const grads of GRADS) {
    await run.step(grads);
    const w = run.get('a');
    average = average.map((x, i) => Math.fround(x + Math.fround(Math.fround(w[i]! - x) * 0.25)));
    expect(run.get('a_ema')).toEqual(average);
  }
});

it('averages only after an update', async () => {
  const run = await create({ ema: 0.5, accumulate: 3 });
  const averages = [];
  for (const grads of GRADS) {
    await run.step(grads);
    averages.push(run.get('a_ema'));
  }
  expect(averages[1]).toEqual(START.a);
  expect(averages[2]).not.toEqual(START.a);
  expect(averages[3]).toEqual(averages[2]);
});

it.each([
  ['NaN', Number.NaN],
  ['infinite', Number.NEGATIVE_INFINITY],
  ['so large that its square is infinite', 1e30],
])('skips a step whose gradient is %s, and counts it', async (_, bad) => {
  const run = await create({
    onNonfinite: 'skip',
    ema: 0.9,
    accumulate: 2,
    clipGradNorm: 1,
    clipGradValue: 1,
  });
  const plain = await create({ ema: 0.9, accumulate: 2, clipGradNorm: 1, clipGradValue: 1 });
  for (const grads of GRADS.slice(0, 3)) {
    await run.step(grads);
    const before = states(run).filter(([name]) => name !== 'skipped');
    await run.step({ ...grads, b: [0.5, bad] });
    expect(states(run).filter(([name]) => name !== 'skipped')).toEqual(before);
    await plain.step(grads);
  }
  expectSame(run, plain);
  expect(run.get('skipped')).toEqual([3]);
  expect(run.get('step')).toEqual([1]);
});

it.each(Object.keys(OPTIMIZERS) as OptimizerName[])(
  '%s does without float64 where it is told to',
  async name => {
    const step = (scalars: 'float32' | 'float64'): PlannedUpdate => ({
      scalars,
      clipGradNorm: 2,
      ema: 0.9,
      schedule: { kind: 'cosine', period: 10, multiply: 2, warmup: 3 },
    });
    const optimizer = OPTIMIZERS[name];
    const make = (scalars: 'float32' | 'float64') =>
      OptimizerRun.create(optimizer as Optimizer, { weightDecay: 0.01 }, START, { step: step(scalars) });
    const [narrow, wide] = [await make('float32'), await make('float64')];
    expect(wide.dtypes.has('float64')).toBe(true);
    expect(narrow.dtypes.has('float64')).toBe(false);
    for (let t = 0; t < 40; t++) for (const run of [narrow, wide]) await run.step(GRADS[t % GRADS.length]!);
    for (const param of Object.keys(START)) {
      const moved = wide.get(param).map((w, i) => w - START[param as 'a' | 'b'][i]!);
      const off = wide.get(param).map((w, i) => w - narrow.get(param)[i]!);
      expect(Math.hypot(...off)).toBeLessThan(3e-6 * Math.hypot(...moved));
    }
  },
);

it.each([
  ['clipGradNorm', { clipGradNorm: 0 }],
  ['clipGradValue', { clipGradValue: -1 }],
  ['accumulate', { accumulate: 1.5 }],
  ['ema', { ema: 1 }],
  ['telemetry', { telemetry: 0 }],
  ['scalars', { scalars: 'float16' as never }],
  ['onNonfinite', { onNonfinite: 'ignore' as never }],
  ['schedule', { schedule: { kind: 'cosine' } }],
] as [string, PlannedUpdate][])('refuses %s out of its range', async (name, step) => {
  const refused = async () => {
    checkInjectOptions(step);
    await create(step);
  };
  await expect(refused()).rejects.toThrow(new RegExp(name, 'i'));
});

it('records telemetry of every Nth update', async () => {
  const delta = 0.5;
  const run = await OptimizerRun.create(agd, { delta, lr: 0.01 }, START, {
    step: { telemetry: 2, clipGradValue: 1 },
  });
  const shown: number[][] = [];
  const norm = (x: readonly number[]) => Math.hypot(...x);
  const less = (x: number[], y: number[]) => x.map((v, i) => v - y[i]!);
  for (const [k, grads] of GRADS.entries()) {
    const before = Object.keys(START).map(p => [run.get(p), run.get(`${p}_exp_avg_corrected`)]);
    await run.step(grads);
    shown.push(run.get('telemetry'));
    if (k % 2 === 0) continue;
    const t = k + 1;
    const want = Object.keys(START).map((p, i) => {
      const root = Math.sqrt(1 - 0.999 ** t);
      const below = run.get(`${p}_diff_sq_sum`).filter(b => Math.sqrt(b * (1 - 0.999)) < delta * root);
      const clipped = grads[p]!.map(x => Math.max(-1, Math.min(1, x)));
      const [w, h] = before[i]!;
      const difference = norm(less(run.get(`${p}_exp_avg_corrected`), h!));
      return [t, norm(clipped), norm(less(run.get(p), w!)), below.length / w!.length, difference];
    });
    for (const [i, x] of run.get('telemetry').entries()) expect(x).toBeCloseTo(want.flat()[i]!, 5);
  }
  expect(shown[0]!.every(x => x === 0)).toBe(true);
  expect(shown[2]).toEqual(shown[1]);
  // Some coordinates are below the floor, and some are not.
  expect(new Set([shown[3]![3], shown[3]![8]].map(share => share! > 0 && share! < 1))).toContain(true);
});

it.each(['agd', 'sgd', 'adam'] as const)('%s gives the same bits with and without tiles', async name => {
  const size = 3 * 2 ** 19;
  const wave = (k: number) => Array.from({ length: size }, (_, i) => Math.sin(i * 0.37 + k));
  const make = (tile: boolean) =>
    OptimizerRun.create(
      OPTIMIZERS[name] as Optimizer,
      { weightDecay: 0.01 },
      { a: wave(0), b: [1, 2] },
      {
        step: { tile, compensate: true },
      },
    );
  const [tiles, whole] = [await make(true), await make(false)];
  expect([tiles.opTypes.has('Scan'), whole.opTypes.has('Scan')]).toEqual([true, false]);
  for (const k of [1, 2]) for (const run of [tiles, whole]) await run.step({ a: wave(k), b: [k, -k] });
  const bits = (run: OptimizerRun, state: string) => Buffer.from(Float64Array.from(run.get(state)).buffer);
  for (const state of tiles.stateNames)
    expect(bits(tiles, state).equals(bits(whole, state)), state).toBe(true);
});

it('cuts a tensor into tiles without a rest, where it is large and can be', () => {
  expect(tileOf(512 * 512)).toBeUndefined();
  expect(tileOf(1024 * 512)).toBe(2 ** 18);
  expect(tileOf(10_000_000)).toBe(250_000);
  // A prime.
  expect(tileOf(15_485_863)).toBeUndefined();
});
