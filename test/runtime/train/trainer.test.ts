import { expect, it } from 'vitest';
import { decodeModel, encodeModel } from '../../../src/graph/proto/codec.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { originalBytes } from '../../../src/passes/file/embed-original.js';
import { inject } from '../../../src/passes/inject.js';
import { bindData } from '../../../src/runtime/data/bind.js';
import { Session, sessionShapes } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { trainingLoop } from '../../../src/runtime/train/training-loop.js';
import { floatsOf } from '../../ops/vjp.js';
import { collect, mlp, mlpData, Sketch } from '../../sample.js';

const trainer = async (lr = 1e-2) =>
  Trainer.create(
    (await inject(mlp(), { loss: { kind: 'cross-entropy' }, optimizer: { lr } }, sessionShapes)).model,
  );

const bits = (t: Trainer) =>
  [...t.state].map(([name, tensor]) => `${name} ${Buffer.from(tensor.bytes).toString('hex')}`);

const dataset = (t: Trainer, count = 64) => bindData(mlpData(count), t.inputs);

it('learns', async () => {
  const t = await trainer();
  const data = dataset(t, 512);
  const before = await t.evaluate(data.batches({ batchSize: 64 }));
  for await (const _ of trainingLoop(t, data, { epochs: 20, batchSize: 32 }));
  const after = await t.evaluate(data.batches({ batchSize: 64 }));
  expect(before.accuracy).toBeLessThan(0.7);
  expect(after.accuracy).toBeGreaterThan(0.95);
  expect(after.loss).toBeLessThan(before.loss / 2);
  await t.release();
});

it('gives the same bits however many steps are done in one run', async () => {
  const [one, many] = [await trainer(), await trainer()];
  const data = dataset(one);
  for await (const { inputs } of data.chunks({ batchSize: 8 }, () => 1)) await one.steps(inputs);
  for await (const { inputs } of data.chunks({ batchSize: 8 }, () => 5)) await many.steps(inputs);
  expect(bits(many)).toEqual(bits(one));
  expect(one.stepCount).toBe(8);
  await one.release();
  await many.release();
});

it('looks for its inputs in the graph once, not at each step', async () => {
  const t = await trainer();
  expect(t.inputs).toBe(t.inputs);
  await t.release();
});

it('goes on from a snapshot as if it had not stopped', async () => {
  const [whole, first] = [await trainer(), await trainer()];
  const data = dataset(whole);
  const options = { epochs: 2, batchSize: 8, seed: 3 };
  for await (const _ of trainingLoop(whole, data, options));
  let steps = 0;
  const signal = { aborted: false };
  for await (const _ of trainingLoop(first, data, { ...options, signal })) signal.aborted = ++steps >= 5;
  expect(first.stepCount).toBeLessThan(16);
  const second = await Trainer.create(decodeModel(encodeModel(first.snapshot())));
  for await (const _ of trainingLoop(second, data, options));
  expect(bits(second)).toEqual(bits(whole));
  for (const t of [whole, first, second]) await t.release();
});

it('stops at a loss that is not finite, with the state of the last good step', async () => {
  const [good, bad] = [await trainer(), await trainer()];
  const { inputs } = (await collect(dataset(good).chunks({ batchSize: 8 }, () => 4)))[0]!;
  await good.steps(Object.fromEntries(Object.entries(inputs).map(([n, t]) => [n, firstSteps(t, 2)])));
  const x = Float32Array.from(inputs.x!.numbers());
  x[2 * 8 * 4 + 5] = Number.NaN;
  await expect(bad.steps({ ...inputs, x: Tensor.from('float32', inputs.x!.dims, x) })).rejects.toThrow(
    "Loss is NaN at step 3: the data for 'x' are not finite",
  );
  expect(bits(bad)).toEqual(bits(good));
  await good.release();
  await bad.release();
});

it('undoes an update that made a parameter non-finite, and names it', async () => {
  const t = await trainer();
  const { inputs } = (await collect(dataset(t).chunks({ batchSize: 8 }, () => 3)))[0]!;
  const [start, ...rest] = [firstSteps(inputs.x!, 1), firstSteps(inputs.target!, 1)];
  await t.steps({ x: start, target: rest[0]! });
  const before = bits(t);
  await expect(
    t.step({ x: slab(inputs.x!), target: slab(inputs.target!) }, { lr: Number.POSITIVE_INFINITY }),
  ).rejects.toThrow(/The update of step 2 made 'fc\d\.\w+' non-finite/);
  expect(bits(t)).toEqual(before);
  await t.release();
});

// Large states are looked at as a sum.
it.each([2, 2 ** 14])('undoes the last of several steps done in one run, of %d parameters', async size => {
  const of = (value: number, last = value) => [...Array(size - 1).fill(value), last];
  const s = new Sketch();
  const y = s.add('Mul', [s.input('x', ['batch']), s.weight('w', floatsOf(of(0.25)))], 'y');
  const model = s.model([s.add('ReduceMean', [y], 'mean', { keepdims: 0 })]);
  const { model: injected } = await inject(
    model,
    { loss: { kind: 'output', output: 'mean' } },
    sessionShapes,
  );
  const [once, t] = [await Trainer.create(injected), await Trainer.create(injected)];
  await once.step({ x: floatsOf(of(1)) });
  // The square of the second gradient overflows, its loss does not.
  await expect(t.steps({ x: floatsOf([...of(1), ...of(1, 3e38)], [2, size]) })).rejects.toThrow(
    "The update of step 2 made 'w_diff_sq_sum' non-finite",
  );
  expect(bits(t)).toEqual(bits(once));
  await once.release();
  await t.release();
});

it('takes a state for finite whose sum is not', async () => {
  const s = new Sketch();
  const w = s.weight('w', floatsOf(Array(2 ** 14).fill(3e38)));
  const y = s.add('Mul', [s.input('x', ['batch']), w], 'y');
  const model = s.model([s.add('ReduceMean', [y], 'mean', { keepdims: 0 })]);
  const { model: injected } = await inject(
    model,
    { loss: { kind: 'output', output: 'mean' }, train: ['w'] },
    sessionShapes,
  );
  const t = await Trainer.create(injected);
  expect(await t.step({ x: floatsOf(Array(2 ** 14).fill(0)) })).toEqual({ loss: 0 });
  await t.release();
});

it('puts the trained values back into the original file and nothing else', async () => {
  const original = encodeModel(mlp());
  const { model } = await inject(
    decodeModel(original),
    { loss: { kind: 'cross-entropy' }, original },
    sessionShapes,
  );
  const t = await Trainer.create(model);
  const data = dataset(t);
  expect(originalBytes(t.snapshot())).toEqual(original);
  for await (const { inputs } of data.batches({ batchSize: 8 })) await t.step(inputs);
  const trained = originalBytes(t.snapshot());
  expect(trained.length).toBe(original.length);
  const values = new Map(
    [...decodeModel(trained).graph.initializers].map(([v, tensor]) => [v.name, tensor.numbers()]),
  );
  for (const [name, numbers] of values) expect(numbers).toEqual(t.state.get(name)!.numbers());
  const session = await Session.create(trained);
  const { logits } = await session.run({ x: mlpData(4).get('x')! });
  expect(logits!.dims).toEqual([4, 3]);
  await session.release();
  await t.release();
});

/** The first `count` of a tensor's steps. */
function firstSteps(t: Tensor, count: number): Tensor {
  return new Tensor(
    t.dtype,
    [count, ...t.dims.slice(1)],
    t.bytes.subarray(0, (t.bytes.length / t.dims[0]!) * count),
  );
}

/** The first step alone, without the axis of steps. */
function slab(t: Tensor): Tensor {
  return new Tensor(t.dtype, t.dims.slice(1), firstSteps(t, 1).bytes);
}
