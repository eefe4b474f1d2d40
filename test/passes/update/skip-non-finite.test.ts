/** Steps that are not finite, written for CUDA: they are left out without an If, whose condition would be copied to the CPU. */
import { describe, expect, it } from 'vitest';
import { allGraphs, type Model } from '../../../src/graph/ir.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { inject } from '../../../src/passes/inject.js';
import type { InjectOptions } from '../../../src/passes/options.js';
import { type Feeds, sessionShapes } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { ints, spread } from '../../ops/vjp.js';
import { mlp, mlpData, Sketch } from '../../sample.js';

/** tokens[batch] -> a table -> tanh -> logits[batch,3], and a factor that is fed. */
function lookups(): Model {
  const s = new Sketch();
  const rows = s.add('Gather', [s.weight('table', [9, 4]), s.input('tokens', ['batch'], 'int64')], 'rows');
  const scaled = s.add('Mul', [rows, s.input('x', ['batch', 4])], 'scaled');
  return s.model([s.add('MatMul', [s.add('Tanh', [scaled], 'h'), s.weight('w', [4, 3])], 'logits')]);
}

const COUNT = 6;
const BATCH = 4;
const SAMPLES = COUNT * BATCH;
const DATA = mlpData(SAMPLES);

/** The batches with a leading axis; of the third and fourth one, a number is not finite. */
function batches(model: Model, from: number, to: number): Feeds {
  const x = Float32Array.from(DATA.get('x')!.numbers());
  x[2 * BATCH * 4] = Number.NaN;
  x[3 * BATCH * 4] = Number.POSITIVE_INFINITY;
  const tokens = spread([SAMPLES], [0, 9], 5)
    .numbers()
    .map(n => Math.min(8, Math.floor(n)));
  const all: Feeds = {
    x: Tensor.from('float32', [SAMPLES, 4], x),
    target: DATA.get('target')!,
    tokens: ints(tokens, [SAMPLES]),
  };
  const names = ['target', ...model.graph.inputs.map(v => v.name)];
  return Object.fromEntries(
    Object.entries(all).flatMap(([name, { dtype, dims, bytes }]) => {
      if (!names.includes(name)) return [];
      const size = (bytes.length / SAMPLES) * BATCH;
      return [
        [name, new Tensor(dtype, [to - from, BATCH, ...dims.slice(1)], bytes.slice(from * size, to * size))],
      ];
    }),
  );
}

const written = (model: Model, options: InjectOptions) =>
  inject(model, { loss: { kind: 'cross-entropy' }, ...options }, sessionShapes);
const ifs = (model: Model) =>
  [...allGraphs(model.graph)].flatMap(g => g.nodes).filter(({ opType }) => opType === 'If').length;
const numbers = (t: Trainer) => new Map([...t.state].map(([name, tensor]) => [name, tensor.numbers()]));

const SETTINGS: [string, Model, InjectOptions][] = [
  ['AGD', mlp(), {}],
  [
    'AMSGrad of AGD, an average and clipping',
    mlp(),
    { optimizer: { amsgrad: true }, ema: 0.9, clipGradNorm: 1 },
  ],
  ['scalar states', mlp(), { optimizer: { name: 'nadam' } }],
  ['sums over all parameters', mlp(), { optimizer: { name: 'prodigy', d0: 1e-2 } }],
  ['states of 8 bits', mlp(), { stateBits: 8 }],
  ['lazy rows', lookups(), { lazyRows: ['table'] }],
];

describe.each(SETTINGS)('with %s', (_, model, options) => {
  it('leaves out the steps that are not finite, as the form for the CPU does', async () => {
    const guarded = { ...options, onNonfinite: 'skip' } as const;
    const [cpu, cuda] = [
      (await written(model, { ...guarded, scalars: 'float32' })).model,
      (await written(model, { ...guarded, provider: 'cuda' })).model,
    ];
    expect([ifs(cpu), ifs(cuda)]).toEqual([1, 0]);
    const [one, other] = await Promise.all([cpu, cuda].map(m => Trainer.create(m, { threads: 1 })));
    await one!.steps(batches(model, 0, 4));
    await other!.steps(batches(model, 0, 2));
    const before = numbers(other!);
    await other!.steps(batches(model, 2, 3));
    await other!.steps(batches(model, 3, 4));
    const after = numbers(other!);
    expect(after.get('skipped')).toEqual([2]);
    expect([...after].filter(([name]) => name !== 'skipped')).toEqual(
      [...before].filter(([name]) => name !== 'skipped'),
    );
    await one!.steps(batches(model, 4, 6));
    await other!.steps(batches(model, 4, 6));
    const [wanted, found] = [numbers(one!), numbers(other!)];
    expect([...found.keys()].sort()).toEqual([...wanted.keys()].sort());
    for (const [name, values] of wanted) {
      const scale = Math.max(1e-3, ...values.map(Math.abs));
      values.forEach((value, i) => {
        expect(Math.abs(found.get(name)![i]! - value) / scale, name).toBeLessThan(1e-5);
      });
    }
    for (const t of [one!, other!]) await t.release();
  });
});

it('halves the loss scale without an If', async () => {
  const options = { precision: 'fp16', provider: 'cuda', lossScale: 1024, onNonfinite: 'skip' } as const;
  const { model } = await written(mlp(), options);
  expect(ifs(model)).toBe(0);
  const t = await Trainer.create(model, { threads: 1 });
  const scaling = () => ['loss_scale', 'loss_scale_steps'].map(name => t.state.get(name)!.numbers()[0]);
  await t.steps(batches(model, 0, 2));
  expect(scaling()).toEqual([1024, 2]);
  await t.steps(batches(model, 2, 4));
  expect(scaling()).toEqual([256, 0]);
  await t.steps(batches(model, 4, 5));
  expect(scaling()).toEqual([256, 1]);
  expect([t.stepCount, t.skippedCount]).toEqual([3, 2]);
  await t.release();
});

it('keeps the If of accumulation, which leaves out most updates', async () => {
  const options = { onNonfinite: 'skip', accumulate: 2 } as const;
  expect(ifs((await written(mlp(), options)).model)).toBe(2);
  expect(ifs((await written(mlp(), { ...options, provider: 'cuda' })).model)).toBe(1);
});
