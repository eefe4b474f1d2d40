import { describe, expect, it } from 'vitest';
import type { Model, Value } from '../../../src/graph/ir.js';
import { decodeModel, encodeModel } from '../../../src/graph/proto/codec.js';
import { Tensor } from '../../../src/graph/tensor.js';
import {
  findOptimizer,
  OPTIMIZER_NAMES,
  type OptimizerName,
  type OptimizerSpec,
} from '../../../src/ops/optimizers/index.js';
import { inject } from '../../../src/passes/inject.js';
import type { InjectOptions } from '../../../src/passes/options.js';
import { trainedModel } from '../../../src/runtime/export.js';
import { type Feeds, sessionShapes } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { mlp, mlpData, Sketch } from '../../sample.js';

const LOSS = { kind: 'cross-entropy' } as const;

async function injected(optimizer: OptimizerSpec, options: InjectOptions = {}): Promise<Model> {
  const { model } = await inject(mlp(), { loss: LOSS, optimizer, ...options }, sessionShapes);
  return model;
}

const batch = (count: number, seed?: number) => Object.fromEntries(mlpData(count, seed));

/** The first (`i` is 0) or second half of the samples. */
function half(samples: Feeds, i: number): Feeds {
  const cut = ({ dtype, dims: [count, ...dims], bytes }: Tensor) =>
    new Tensor(
      dtype,
      [count! / 2, ...dims],
      bytes.slice((i * bytes.length) / 2, ((i + 1) * bytes.length) / 2),
    );
  return Object.fromEntries(Object.entries(samples).map(([name, tensor]) => [name, cut(tensor)]));
}

/** 64 samples as four batches of a run. */
const inRuns = (samples: Feeds): Feeds =>
  Object.fromEntries(
    Object.entries(samples).map(([key, { dtype, dims, bytes }]) => [
      key,
      new Tensor(dtype, [4, 16, ...dims.slice(1)], bytes),
    ]),
  );

/** Losses of so many steps on one batch. */
async function losses(trainer: Trainer, steps: number): Promise<number[]> {
  const result = [];
  for (let k = 0; k < steps; k++) result.push((await trainer.step(batch(16))).loss);
  return result;
}

const WRAPPERS: Pick<
  InjectOptions,
  'cautious' | 'stateBits' | 'stateRounding' | 'sam' | 'wsam' | 'scheduleFree' | 'compensate'
>[] = [
  { cautious: true },
  { stateBits: 8 },
  { cautious: true, stateBits: 4 },
  { sam: { rho: 0.02 } },
  { wsam: { rho: 0.02, gamma: 0.5 }, cautious: true, stateBits: 8, stateRounding: 'stochastic' },
  { scheduleFree: { momentum: 0.8, weightDecayAtY: 0.01 }, compensate: true },
  { scheduleFree: {}, cautious: true, stateBits: 8, wsam: { rho: 0.02, gamma: 0.3 } },
];

/** A model with one weight whose state is quantized. */
function wide(): Model {
  const s = new Sketch();
  const layer = (x: Value, i: number, dims: [number, number]) =>
    s.add('Gemm', [x, s.weight(`fc${i}.weight`, dims), s.weight(`fc${i}.bias`, [dims[1]])], `fc${i}`);
  const first = s.add('Tanh', [layer(s.input('x', ['batch', 4]), 1, [4, 64])], 'a');
  const second = s.add('Tanh', [layer(first, 2, [64, 70])], 'b');
  return s.model([s.add('Identity', [layer(second, 3, [70, 3])], 'logits')]);
}

/** Rates other than 0.05, where learning needs them. */
const RATES: Partial<Record<OptimizerName, OptimizerSpec>> = {
  sgd: { name: 'sgd', lr: 0.5 },
  lars: { name: 'lars', lr: 0.5, eta: 0.1 },
  muon: { name: 'muon', lr: 0.05, adamLr: 0.05 },
  rmsprop: { name: 'rmsprop', lr: 0.01 },
  shampoo: { name: 'shampoo', lr: 0.2 },
  prodigy: { name: 'prodigy', lr: 1, d0: 1e-3 },
  'schedule-free-sgd': { name: 'schedule-free-sgd', lr: 0.5 },
};
/** Options of single parameters, where an optimizer has them. */
const OWN: InjectOptions = { layerDecay: 0.9, groups: [{ match: '*.bias', options: { lr: 0.01 } }] };

describe.each(OPTIMIZER_NAMES)('%s', name => {
  const optimizer: OptimizerSpec = { lr: 0.05, ...RATES[name], name } as OptimizerSpec;

  it('learns, and says what it is', async () => {
    const trainer = await Trainer.create(await injected(optimizer));
    const [first, ...others] = await losses(trainer, 60);
    expect(others.at(-1)).toBeLessThan(0.5 * first!);
    expect(trainer.description.optimizer).toMatchObject({ name, options: { lr: optimizer.lr } });
    await trainer.release();
  });

  it('goes on in a file it was kept in as if it had not stopped, bit for bit', async () => {
    const trainer = await Trainer.create(await injected(optimizer));
    await losses(trainer, 3);
    const other = await Trainer.create(decodeModel(encodeModel(trainer.snapshot())));
    expect(await losses(other, 3)).toEqual(await losses(trainer, 3));
    await trainer.release();
    await other.release();
  });

  it('does the same in many steps of one run as in runs of one step, bit for bit', async () => {
    const [many, one] = [
      await Trainer.create(await injected(optimizer)),
      await Trainer.create(await injected(optimizer)),
    ];
    const each = [0, 1, 2, 3].map(i => half(half(batch(64), i >> 1), i & 1));
    const losses = await many.steps(inRuns(batch(64)));
    for (const [i, samples] of each.entries()) expect((await one.step(samples)).loss).toBe(losses[i]);
    for (const [key, tensor] of one.state) expect(many.state.get(key)!.bytes, key).toEqual(tensor.bytes);
    await many.release();
    await one.release();
  });

  it('does the same with many options around it, in many steps of one run, and is exported', async () => {
    const options: InjectOptions = {
      ...{ accumulate: 2, clipGradNorm: 0.5, ema: 0.9, decayBiasNorm: false },
      ...(findOptimizer(name)!.totals ? {} : OWN),
      schedule: { kind: 'cosine', total: 8 },
    };
    const model = await injected({ ...optimizer, weightDecay: 0.1 } as OptimizerSpec, options);
    const [many, one] = [await Trainer.create(model), await Trainer.create(model)];
    const each = [0, 1, 2, 3].map(i => half(half(batch(64), i >> 1), i & 1));
    const losses = await many.steps(inRuns(batch(64)));
    for (const [i, samples] of each.entries()) expect((await one.step(samples)).loss).toBe(losses[i]);
    for (const [key, tensor] of one.state) expect(many.state.get(key)!.bytes, key).toEqual(tensor.bytes);
    const exported = await trainedModel(many.snapshot(), { ema: true });
    expect(exported.trainingInfo).toEqual([]);
    expect(exported.graph.outputs.map(v => v.name)).toEqual(mlp().graph.outputs.map(v => v.name));
    await many.release();
    await one.release();
  });

  // A second backward pass is not that of a Hessian.
  const own = WRAPPERS.filter(({ sam, wsam }) => name !== 'adahessian' || !(sam || wsam));
  // These average by themselves.
  const wrappers = own.filter(({ scheduleFree }) => !(scheduleFree && findOptimizer(name)!.inner));
  it.each(wrappers)('does the same in %j, and learns', async wrappers => {
    const step: InjectOptions = { ...wrappers, accumulate: 2, clipGradNorm: 5, ema: 0.9 };
    const { model } = await inject(wide(), { loss: LOSS, optimizer, ...step }, sessionShapes);
    const [many, one] = [await Trainer.create(model), await Trainer.create(decodeModel(encodeModel(model)))];
    const samples = half(batch(32), 0);
    for (let k = 0; k < 3; k++) {
      await many.steps(inRuns(batch(64)));
      for (const i of [0, 1, 2, 3]) await one.step(half(half(batch(64), i >> 1), i & 1));
    }
    for (const [key, tensor] of one.state) expect(many.state.get(key)!.bytes, key).toEqual(tensor.bytes);
    const { compensate: _, ...recorded } = wrappers;
    expect(one.description).toMatchObject(recorded);
    const exported = await trainedModel(one.snapshot(), { ema: true });
    expect(exported.graph.outputs.map(v => v.name)).toEqual(wide().graph.outputs.map(v => v.name));
    const { loss } = await one.step(samples);
    for (let k = 0; k < 40; k++) await one.step(samples);
    expect((await one.step(samples)).loss).toBeLessThan(0.9 * loss);
    await many.release();
    await one.release();
  });

  it('hands its state out in PyTorch’s terms, and takes it back', async () => {
    const [trainer, other] = [
      await Trainer.create(await injected(optimizer)),
      await Trainer.create(await injected(optimizer)),
    ];
    await losses(trainer, 3);
    expect(other.restore(trainer.checkpoint())).toEqual([]);
    for (const [key, tensor] of trainer.state)
      for (const [i, x] of other.state.get(key)!.numbers().entries())
        expect(Math.abs(x - tensor.numbers()[i]!), key).toBeLessThanOrEqual(2e-7 * Math.abs(x));
    await trainer.release();
    await other.release();
  });
});

it('AdaHessian makes one update of two batches as of both in one', async () => {
  const optimizer = { name: 'adahessian', lr: 0.05 } as const;
  const [whole, halves] = [
    await Trainer.create(await injected(optimizer)),
    await Trainer.create(await injected(optimizer, { accumulate: 2 })),
  ];
  for (let k = 0; k < 3; k++) {
    const all = batch(16, k + 1);
    await whole.step(all);
    for (const i of [0, 1]) await halves.step(half(all, i));
  }
  for (const [key, tensor] of whole.state)
    for (const [i, x] of halves.state.get(key)!.numbers().entries())
      expect(x, key).toBeCloseTo(tensor.numbers()[i]!, 5);
  await whole.release();
  await halves.release();
});

// 18 blocks of 256 bytes, or 35 of 64, and 4 bytes of scale each, of two states.
it.each([
  [8, 2 * 18 * 260],
  [4, 2 * 35 * 68],
] as const)('keeps the state of a large matrix in %i bits: %i bytes', async (stateBits, bytes) => {
  const stateOf = async (options: InjectOptions) => {
    const { model } = await inject(wide(), { loss: LOSS, telemetry: 1, ...options }, sessionShapes);
    const trainer = await Trainer.create(model);
    const kept = () => [...trainer.state].filter(([key]) => /^fc2.weight_/.test(key));
    const size = kept().reduce((n, [, tensor]) => n + tensor.byteLength, 0);
    await losses(trainer, 3);
    const other = await Trainer.create(model);
    expect(other.restore(trainer.checkpoint())).toEqual([]);
    for (const [key, tensor] of kept())
      expect(other.state.get(key)!.numbers()[0], key).toBeCloseTo(tensor.numbers()[0]!, 6);
    const telemetry = trainer.state.get(trainer.description.telemetry!.name)!.numbers();
    await trainer.release();
    await other.release();
    return { bytes: size, telemetry, columns: trainer.description.telemetry!.columns };
  };
  const [float, rounded] = [await stateOf({}), await stateOf({ stateBits })];
  expect([float.bytes, rounded.bytes]).toEqual([2 * 4 * 64 * 70, bytes]);
  for (const [i, x] of rounded.telemetry.entries())
    expect(Math.abs(x - float.telemetry[i]!), float.columns[i % 5]).toBeLessThanOrEqual(
      0.5 * Math.abs(float.telemetry[i]!) + 0.2,
    );
});

it('keeps the states of small parameters in float32, however many are updated together', async () => {
  const s = new Sketch();
  let x = s.input('x', ['batch', 4]);
  for (const [i, [rows, columns]] of [
    [4, 50],
    [50, 50],
    [50, 50],
    [50, 3],
  ].entries()) {
    const product = s.add('MatMul', [x, s.weight(`w${i}`, [rows!, columns!])], `h${i}`);
    x = i < 3 ? s.add('Tanh', [product], `a${i}`) : product;
  }
  const model = s.model([x]);
  const lossesOf = async (options: InjectOptions) => {
    const trainer = await Trainer.create(
      (await inject(model, { loss: LOSS, ...options }, sessionShapes)).model,
    );
    const result = await losses(trainer, 3);
    await trainer.release();
    return result;
  };
  expect(await lossesOf({ stateBits: 8 })).toEqual(await lossesOf({}));
});

it('refuses to round what cannot be rounded', async () => {
  const optimizer = { name: 'rmsprop', centered: true } as const;
  await expect(injected(optimizer, { stateBits: 8 })).rejects.toThrow('cannot be combined with state_bits');
  await expect(injected({}, { stateRounding: 'stochastic' })).rejects.toThrow('add stateBits');
  await expect(injected({}, { stateBits: 6 })).rejects.toThrow('stateBits must be 8 or 4, not 6');
});
