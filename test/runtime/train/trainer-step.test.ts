/** What a step does besides the update, in the trainer's hands. */
import { expect, it } from 'vitest';
import { Value } from '../../../src/graph/ir.js';
import { decodeModel, encodeModel } from '../../../src/graph/proto/codec.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { originalBytes } from '../../../src/passes/file/embed-original.js';
import { inject } from '../../../src/passes/inject.js';
import type { InjectOptions } from '../../../src/passes/options.js';
import { averagedModel } from '../../../src/passes/update/average-weights.js';
import { bindData } from '../../../src/runtime/data/bind.js';
import { convert } from '../../../src/runtime/data/convert.js';
import { sessionShapes } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { trainingLoop } from '../../../src/runtime/train/training-loop.js';
import { floatsOf, spread } from '../../ops/vjp.js';
import { collect, mlp, mlpData, Sketch } from '../../sample.js';

const EVERYTHING: Partial<InjectOptions> = {
  optimizer: { lr: 1e-2, weightDecay: 0.1, amsgrad: true },
  groups: [{ match: 'fc2.*', options: { win: true, lr: 2e-3 } }],
  decayBiasNorm: false,
  schedule: { kind: 'cosine', total: 6, warmup: 2 },
  clipGradNorm: 0.5,
  clipGradValue: 0.3,
  accumulate: 3,
  ema: 0.9,
  onNonfinite: 'skip',
};

const injected = async (options: Partial<InjectOptions> = EVERYTHING) =>
  inject(mlp(), { loss: { kind: 'cross-entropy' }, ...options }, sessionShapes);
const trainer = async (options?: Partial<InjectOptions>) => Trainer.create((await injected(options)).model);

const bits = (t: Trainer) =>
  [...t.state].map(([name, tensor]) => `${name} ${Buffer.from(tensor.bytes).toString('hex')}`);

/** 64 samples, of which one is not a number. */
function poisoned(t: Trainer) {
  const data = mlpData(64);
  const x = Float32Array.from(data.get('x')!.numbers());
  x[4 * 29] = Number.NaN;
  return bindData(data.set('x', Tensor.from('float32', [64, 4], x)), t.inputs);
}

it('does the same in many steps of one run as in runs of one step', async () => {
  const [one, many] = [await trainer(), await trainer()];
  const data = poisoned(one);
  const losses: number[][] = [];
  for (const [t, size] of [
    [one, 1],
    [many, 5],
  ] as const) {
    const all: number[] = [];
    for await (const { inputs } of data.chunks({ batchSize: 8 }, () => size))
      all.push(...(await t.steps(inputs)));
    losses.push(all);
  }
  expect(bits(many)).toEqual(bits(one));
  expect(losses[1]).toEqual(losses[0]);
  expect(losses[0]!.map(Number.isNaN)).toEqual([false, false, false, true, false, false, false, false]);
  expect([one.stepCount, one.skippedCount, one.batchCount]).toEqual([2, 1, 8]);
  await one.release();
  await many.release();
});

it('goes on from a snapshot, in the middle of an accumulation, as if it had not stopped', async () => {
  const [whole, first] = [await trainer(), await trainer()];
  const data = poisoned(whole);
  const options = { epochs: 2, batchSize: 8, seed: 3 };
  const events = [];
  for await (const event of trainingLoop(whole, data, options)) events.push(event);
  const [chunk] = await collect(data.chunks({ batchSize: 8, shuffle: 3, epoch: 0 }, () => 5));
  await first.steps(chunk!.inputs);
  expect(first.state.get('micro_step')!.numbers()).not.toEqual([0]);
  const second = await Trainer.create(decodeModel(encodeModel(first.snapshot())));
  for await (const _ of trainingLoop(second, data, options));
  expect(bits(second)).toEqual(bits(whole));
  expect(whole.skippedCount).toBe(2);
  const means = events.flatMap(e => (e.type === 'epoch' ? [e.trainLoss] : []));
  expect(means.map(Number.isFinite)).toEqual([true, true]);
  for (const t of [whole, first, second]) await t.release();
});

it('puts averages into the original model in place of the weights', async () => {
  const t = await trainer({ ema: 0.5 });
  const { inputs } = (await collect(bindData(mlpData(8), t.inputs).batches({ batchSize: 8 })))[0]!;
  for (let k = 0; k < 3; k++) await t.step(inputs);
  const exported = decodeModel(originalBytes(averagedModel(t.snapshot())));
  for (const [{ name }, tensor] of exported.graph.initializers) {
    expect(tensor.numbers()).toEqual(t.state.get(`${name}_ema`)!.numbers());
    expect(tensor.numbers()).not.toEqual(t.state.get(name)!.numbers());
  }
  await t.release();
  const plain = (await injected({})).model;
  expect(() => averagedModel(plain)).toThrow('The model keeps no average of its weights');
});

it('updates running statistics with every batch but those that are skipped', async () => {
  const s = new Sketch();
  const ones = () => floatsOf([1, 1, 1]);
  const [scale, bias] = [s.weight('scale', ones()), s.weight('bias', [3])];
  const [mean, variance] = [s.weight('mean', [3]), s.weight('var', ones())];
  const y = s.add('BatchNormalization', [s.input('x', ['batch', 3]), scale, bias, mean, variance], 'y');
  const options = { accumulate: 2, onNonfinite: 'skip' } as const;
  const { model } = await inject(s.model([y]), { loss: { kind: 'mse' }, ...options }, sessionShapes);
  const t = await Trainer.create(model);
  const target = spread([4, 3]);
  const means = [];
  for (const first of [0.5, Number.NaN, -0.5]) {
    means.push(t.state.get('mean')!.numbers());
    const x = spread([4, 3]).numbers();
    await t.step({ x: floatsOf([first, ...x.slice(1)], [4, 3]), target });
  }
  expect(means[1]).not.toEqual(means[0]);
  expect(means[2]).toEqual(means[1]);
  expect(t.state.get('mean')!.numbers()).not.toEqual(means[2]);
  expect([t.stepCount, t.skippedCount]).toEqual([1, 1]);
  await t.release();
});

it('describes all of it', async () => {
  const { description } = (await injected()).report;
  expect(description).toMatchObject({
    schedule: { kind: 'cosine', total: 6, warmup: 2 },
    clipGradNorm: 0.5,
    clipGradValue: 0.3,
    accumulation: { batches: 3, counter: 'micro_step' },
    ema: 0.9,
    skipped: 'skipped',
  });
  expect(description.parameters.map(p => [p.name, p.options, p.gradSum, p.ema])).toEqual([
    ['fc1.weight', undefined, 'fc1.weight_grad_mean', 'fc1.weight_ema'],
    ['fc1.bias', { weightDecay: 0 }, 'fc1.bias_grad_mean', 'fc1.bias_ema'],
    ['fc2.weight', { win: true, lr: 2e-3 }, 'fc2.weight_grad_mean', 'fc2.weight_ema'],
    ['fc2.bias', { weightDecay: 0, win: true, lr: 2e-3 }, 'fc2.bias_grad_mean', 'fc2.bias_ema'],
  ]);
});

it.each([
  ['agd', ['update', 'grad_norm', 'update_norm', 'sgd_share', 'difference_norm']],
  ['sgd', ['update', 'grad_norm', 'update_norm']],
] as const)(
  'shows the updates of %s in the order they were done, whatever the runs',
  async (name, columns) => {
    const shown = await Promise.all(
      [1, 5].map(async size => {
        const t = await trainer({ optimizer: { name }, accumulate: 2, onNonfinite: 'skip', telemetry: 1 });
        const tables = [];
        for await (const { inputs } of poisoned(t).chunks({ batchSize: 8 }, () => size)) {
          await t.steps(inputs);
          tables.push(...t.telemetry);
        }
        await t.release();
        return tables;
      }),
    );
    expect(shown[1]).toEqual(shown[0]);
    // Of 8 batches one is skipped, and 2 make an update.
    expect(shown[0]!.map(rows => rows[0]!.values.update)).toEqual([1, 2, 3]);
    expect(shown[0]![0]!.map(row => row.parameter)).toEqual([
      'fc1.weight',
      'fc1.bias',
      'fc2.weight',
      'fc2.bias',
    ]);
    expect(Object.keys(shown[0]![0]![0]!.values)).toEqual(columns);
  },
);

it('shows updates of a model that takes no data', async () => {
  const s = new Sketch();
  const w = s.weight('w', [3]);
  const model = s.model([s.add('ReduceSumSquare', [w], 'y', { keepdims: 0 })]);
  const options = { loss: { kind: 'output', output: 'y' }, telemetry: 2 } as const;
  const t = await Trainer.create((await inject(model, options, sessionShapes)).model);
  const shown = [];
  for (let k = 0; k < 4; k++) {
    await t.steps({});
    shown.push(...t.telemetry.map(rows => rows[0]!.values.update));
  }
  expect(shown).toEqual([2, 4]);
  await t.release();
});

it('goes on where a norm that is shown is more than its element type holds', async () => {
  const s = new Sketch();
  const x = s.input('x', ['batch', 2]);
  const y = s.add('ReduceSum', [s.add('Mul', [x, s.weight('w', [2])], 'wx')], 'y', { keepdims: 0 });
  const options = { loss: { kind: 'output', output: 'y' }, optimizer: { name: 'sgd', lr: 0 } } as const;
  const { model } = await inject(s.model([y]), { ...options, telemetry: 1 }, sessionShapes);
  const t = await Trainer.create(model);
  for (let k = 0; k < 2; k++) await t.step({ x: floatsOf([3e38, 3e38], [1, 2]) });
  expect(t.telemetry[0]![0]!.values).toMatchObject({ update: 2, grad_norm: Infinity });
  await t.release();
});

it('stops where an update takes a weight of 16 bits beyond what these hold', async () => {
  const s = new Sketch();
  const half = (...values: number[]) => convert(floatsOf(values, [1, values.length]), 'float16');
  const terms = s.add('Mul', [s.input('x', [1, 2], 'float16'), s.weight('w', half(1, 1))], 'terms');
  const y = s.add('ReduceSum', [terms], 'y', { keepdims: 0 });
  const optimizer = { name: 'sgd', lr: 100 } as const;
  const options = { loss: { kind: 'output', output: 'y' }, optimizer, lossScale: 1 } as const;
  const t = await Trainer.create((await inject(s.model([y]), options, sessionShapes)).model);
  await expect(t.step({ x: half(1000, -1000) })).rejects.toThrow(/The update of step 1 made 'w' non-finite/);
  expect(t.state.get('w')!.numbers()).toEqual([1, 1]);
  await t.release();
});

/** Between 1 and 2 neighbours are 2^-10 apart: a step of 1e-4 alone rounds to none. */
it.each([
  ['moves by steps smaller than its rounding', undefined, 1e-2],
  ['does not without what rounding left', false, 0],
])('a weight of 16 bits %s', async (_, compensate, distance) => {
  const s = new Sketch();
  const w = s.weight('w', convert(floatsOf([1.5, 1.5]), 'float16'));
  const x = new Value('x', { kind: 'tensor', dtype: 'float16', shape: ['batch', 2] });
  s.graph.inputs.push(x);
  const loss = s.add('ReduceSum', [s.add('Mul', [w, x], 'wx')], 'total', { keepdims: 0 });
  const { model } = await inject(
    s.model([loss]),
    {
      loss: { kind: 'output', output: 'total' },
      optimizer: { name: 'sgd', lr: 1e-4, momentum: 0 },
      compensate,
    },
    sessionShapes,
  );
  const t = await Trainer.create(model);
  for (let i = 0; i < 100; i++) await t.step({ x: convert(floatsOf([1, 1], [1, 2]), 'float16') });
  const moved = 1.5 - t.state.get('w')!.numbers()[0]!;
  expect(Math.abs(moved - distance)).toBeLessThan(2 ** -10);
  await t.release();
});
