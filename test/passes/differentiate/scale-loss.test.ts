/** The loss scale of float16 steps follows PyTorch's GradScaler. */
import { expect, it } from 'vitest';
import type { Tensor } from '../../../src/graph/tensor.js';
import { OPTIMIZER_NAMES } from '../../../src/ops/optimizers/index.js';
import { inject } from '../../../src/passes/inject.js';
import type { InjectOptions } from '../../../src/passes/options.js';
import { sessionShapes } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { floatsOf } from '../../ops/vjp.js';
import { mlp, mlpData, Sketch } from '../../sample.js';

/** The loss w x has gradient x. */
function linear() {
  const s = new Sketch();
  const x = s.input('x', ['n', 1]);
  const y = s.add('Mul', [x, s.weight('w', floatsOf([0], [1]))], 'y');
  return s.model([s.add('ReduceSum', [y], 'sum', { keepdims: 0 })]);
}

const LOSS = { loss: { kind: 'output', output: 'sum' } } as const;
const SGD = { name: 'sgd', lr: 1, momentum: 0 } as const;

const trainer = async (options: Partial<InjectOptions>, model = linear()) =>
  Trainer.create(
    (await inject(model, { precision: 'fp16', train: ['w'], ...options } as InjectOptions, sessionShapes))
      .model,
  );

/** Finite, and infinite times the scale. */
const HUGE = 1e35;
/** 1 for each step whose gradient overflows. */
const PATTERN = [0, 0, 0, 0, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
/** Scale in units of 2^14, growth tracker and weight after each step: torch.amp.GradScaler(growth_interval=3) of PyTorch 2.13 with SGD. */
const RECORDED = [
  ...[
    [4, 1, -1],
    [4, 2, -2],
    [8, 0, -3],
    [8, 1, -4],
    [4, 0, -4],
    [4, 1, -5],
    [4, 2, -6],
    [2, 0, -6],
    [1, 0, -6],
  ],
  ...[
    [1, 1, -7],
    [1, 2, -8],
    [2, 0, -9],
    [2, 1, -10],
    [2, 2, -11],
    [4, 0, -12],
    [2, 0, -12],
    [2, 1, -13],
  ],
  ...[
    [2, 2, -14],
    [4, 0, -15],
  ],
];
const number = (t: Trainer, name: string) => t.state.get(name)!.numbers()[0]!;
const seen = (t: Trainer) => [
  number(t, 'loss_scale') / 2 ** 14,
  number(t, 'loss_scale_steps'),
  number(t, 'w'),
];
const batchOf = (overflows: number): { x: Tensor } => ({ x: floatsOf([overflows ? HUGE : 1], [1, 1]) });

it('doubles and halves as GradScaler does, and skips the same steps', async () => {
  const t = await trainer({ ...LOSS, optimizer: SGD, lossScaleWindow: 3 });
  for (const [i, overflows] of PATTERN.entries()) {
    const { loss } = await t.step(batchOf(overflows));
    expect(Number.isFinite(loss)).toBe(true);
    expect(seen(t), `step ${i + 1}`).toEqual(RECORDED[i]);
  }
  expect([t.stepCount, t.skippedCount]).toEqual([15, 4]);
  await t.release();
});

it('does so in one run of many steps, and tells which of them were updates', async () => {
  const t = await trainer({ ...LOSS, optimizer: SGD, lossScaleWindow: 3, clipGradNorm: 10 });
  await t.steps({
    x: floatsOf(
      PATTERN.map(overflows => (overflows ? HUGE : 1)),
      [PATTERN.length, 1, 1],
    ),
  });
  expect(seen(t)).toEqual(RECORDED.at(-1));
  expect(t.lastSteps.map(s => s.lossScale! / 2 ** 14)).toEqual(RECORDED.map(([scale]) => scale));
  expect(t.lastSteps.map(s => s.skipped)).toEqual(
    PATTERN.map((_, i) => PATTERN.slice(0, i + 1).filter(overflows => overflows).length),
  );
  // Norms are those of the gradients without the scale.
  expect(t.lastSteps.map(s => s.gradNorm)).toEqual(PATTERN.map(overflows => (overflows ? undefined : 1)));
  await t.release();
});

it('starts from the given scale, which a resumed run keeps', async () => {
  const first = await trainer({ ...LOSS, optimizer: SGD, lossScale: 8, lossScaleWindow: 2 });
  for (const overflows of [0, 0, 1, 0]) await first.step(batchOf(overflows && 1e38));
  expect([number(first, 'loss_scale'), number(first, 'loss_scale_steps')]).toEqual([8, 1]);
  const second = await Trainer.create(first.snapshot());
  await second.step(batchOf(0));
  expect([number(second, 'loss_scale'), second.skippedCount]).toEqual([16, 1]);
  await Promise.all([first.release(), second.release()]);
});

it('stops where gradients overflow at any scale, and where a loss does', async () => {
  const s = new Sketch();
  const root = s.add('Sqrt', [s.add('Mul', [s.input('x', ['n', 1]), s.weight('w', [1])], 'xw')], 'root');
  const model = s.model([s.add('ReduceSum', [root], 'sum', { keepdims: 0 })]);
  const t = await trainer({ ...LOSS, optimizer: SGD, lossScale: 2 ** -22 }, model);
  const zero = { x: floatsOf([0], [1, 1]) };
  await t.step(zero);
  await t.step(zero);
  await expect(t.step(zero)).rejects.toThrow(
    'Gradients overflow float16 at any loss scale, down to 2.9802322387695312e-8. The state is that of the last good step; try --precision bf16 or fp32.',
  );
  await expect(t.step({ x: floatsOf([1e9], [1, 1]) })).rejects.toThrow(
    /is NaN at step 1.*a wider type: --precision bf16 or fp32/,
  );
  await t.release();
});

it.each(OPTIMIZER_NAMES)('%s loses nothing to first steps that overflow', async name => {
  // The scale times the weight of the loss is infinite at first.
  const loss = { kind: 'cross-entropy', weight: 8 } as const;
  const of = (lossScale: number) =>
    trainer({ loss, train: [], optimizer: { name }, lossScale, accumulate: 2, ema: 0.9 }, mlp());
  const [late, calm] = [await of(2 ** 127), await of(2 ** 8)];
  const batch = Object.fromEntries(mlpData(16));
  const before = new Map(late.state);
  const changed = () =>
    [...late.state].flatMap(([n, { bytes }]) => (`${bytes}` === `${before.get(n)!.bytes}` ? [] : [n])).sort();
  await late.step(batch);
  expect(changed()).toEqual(['loss_scale', 'skipped']);
  while (late.stepCount < 6) await late.step(batch);
  while (calm.stepCount < 6) await calm.step(batch);
  expect([late.skippedCount > 2, calm.skippedCount]).toEqual([true, 0]);
  for (const { name: p } of calm.description.parameters) {
    const [a, b] = [late, calm].map(t => t.state.get(p)!.numbers());
    const worst = Math.max(...a!.map((x, i) => Math.abs(x - b![i]!)));
    expect(worst, p).toBeLessThan(1e-4);
  }
  await Promise.all([late.release(), calm.release()]);
});
