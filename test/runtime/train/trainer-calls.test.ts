/** What callers of a trainer may do: calls at once, inputs of other kinds, element types. */
import * as ort from 'onnxruntime-node';
import { expect, it, vi } from 'vitest';
import { Tensor } from '../../../src/graph/tensor.js';
import { inject } from '../../../src/passes/inject.js';
import type { InjectOptions } from '../../../src/passes/options.js';
import { convert } from '../../../src/runtime/data/convert.js';
import { Session, sessionShapes } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { mlp, mlpData, Sketch } from '../../sample.js';

const made = async (model = mlp(), options: Partial<InjectOptions> = {}) =>
  Trainer.create((await inject(model, { loss: { kind: 'cross-entropy' }, ...options }, sessionShapes)).model);

const batch = () => Object.fromEntries(mlpData(8)) as { x: Tensor; target: Tensor };

it('takes steps asked for at once one after the other', async () => {
  const [once, queued] = [await made(), await made()];
  for (let i = 0; i < 3; i++) await once.step(batch());
  const evaluation = { inputs: batch(), size: 8 };
  const [, , , metrics] = await Promise.all([
    ...[0, 1, 2].map(() => queued.step(batch())),
    queued.evaluate([evaluation]),
  ]);
  expect(queued.stepCount).toBe(3);
  expect([...queued.state]).toEqual([...once.state]);
  expect(metrics).toEqual(await once.evaluate([evaluation]));
  await Promise.all([once.release(), queued.step(batch()), queued.release()]);
  expect(queued.stepCount).toBe(4);
});

it('goes on after a step that failed', async () => {
  const t = await made();
  const bad = { ...batch(), x: Tensor.filled('float32', [8, 4], Number.NaN) };
  const results = await Promise.allSettled([t.step(bad), t.step(batch())]);
  expect(results.map(r => r.status)).toEqual(['rejected', 'fulfilled']);
  expect(t.stepCount).toBe(1);
  await t.release();
});

it('neither reads nor replaces the state as a whole while a step is under way', async () => {
  const t = await made();
  const step = t.step(batch());
  for (const call of ['snapshot', 'checkpoint'] as const)
    expect(() => t[call]()).toThrow(`A step is running: await it before ${call}().`);
  expect(() => t.restore(new Map())).toThrow('await it before restore()');
  await step;
  expect(t.snapshot().graph.inputs.length).toBeGreaterThan(0);
  await t.release();
  await t.release();
  await expect(t.step(batch())).rejects.toThrow('The trainer was released');
});

it("takes onnxruntime's tensors, and says what else it was given", async () => {
  const [own, theirs] = [await made(), await made()];
  const { x, target } = batch();
  const foreign = {
    x: new ort.Tensor('float32', Float32Array.from(x.numbers()), [8, 4]),
    target: new ort.Tensor('int64', BigInt64Array.from(target.numbers(), BigInt), [8]),
  };
  expect(await theirs.step(foreign as never)).toEqual(await own.step({ x, target }));
  const wrong: [unknown, string][] = [
    [[[1, 2, 3, 4]], "Input 'x' is fed an Array, but takes a Tensor"],
    [new Float32Array(4), "Input 'x' is fed a Float32Array"],
    [3, "Input 'x' is fed 3"],
    [null, "Input 'x' is fed null"],
  ];
  for (const [given, message] of wrong) {
    await expect(own.step({ x: given as never, target })).rejects.toThrow(message);
    await expect(own.evaluate([{ inputs: { x: given as never, target }, size: 8 }])).rejects.toThrow(message);
  }
  await expect(own.step({ x })).rejects.toThrow("No array for input 'target'; given: 'x'.");
  await own.release();
  await theirs.release();
  const session = await Session.create(mlp());
  await expect(session.run({ x: [1] as never })).rejects.toThrow("Input 'x' is fed an Array");
  await session.release();
});

it('says of what it was given for a step what does not fit', async () => {
  const t = await made();
  const { x, target } = batch();
  const fails = (given: object, message: string) =>
    expect(t.step({ x, target, ...given })).rejects.toThrow(message);
  await fails(
    { x: Tensor.filled('float64', [8, 4], 0) },
    "Input 'x' takes float32 [batch,4], but its array is float64 [8,4].",
  );
  await fails(
    { x: Tensor.filled('float32', [8, 5], 0) },
    "Input 'x' takes float32 [batch,4], but its array is float32 [8,5].",
  );
  await fails(
    { target: Tensor.ints([0, 1]) },
    "Input 'target' takes int64 [batch], batch = 8, but its array is int64 [2].",
  );
  await t.release();
});

it('refuses labels that the loss does not take', async () => {
  const t = await made();
  const { x } = batch();
  const target = Tensor.from('int64', [8], BigInt64Array.from([0, 1, 2, -1, 0, 1, 2, 0], BigInt));
  await expect(t.step({ x, target })).rejects.toThrow("Array 'target' holds -1");
  await expect(t.evaluate([{ inputs: { x, target }, size: 8 }])).rejects.toThrow("Array 'target' holds -1");
  await t.release();
});

it('counts the accuracy of 16-bit floats by their numbers', async () => {
  const s = new Sketch();
  const x = s.input('x', ['n', 3], 'float16');
  const diagonal = Tensor.from('float32', [3, 3], Float32Array.of(-1, 0, 0, 0, -1, 0, 0, 0, -1));
  const model = s.model([s.add('MatMul', [x, s.weight('w', convert(diagonal, 'float16'))], 'y')]);
  const t = await made(model);
  // The bits of negative numbers, read as whole numbers, are in the reverse order.
  const values = Float32Array.of(1, 2, 3, 3, 1, 2, 2, 3, 1, 1, 3, 2);
  const inputs = {
    x: convert(Tensor.from('float32', [4, 3], values), 'float16'),
    target: Tensor.ints([0, 1, 2, 1]),
  };
  expect((await t.evaluate([{ inputs, size: 4 }])).accuracy).toBe(0.75);
  await t.release();
});

it('writes the state into the arrays of the one before last', async () => {
  const t = await made();
  expect(t.writesInPlace).toBe(true);
  const runs = vi.spyOn(Session.prototype, 'runInto');
  for (let i = 0; i < 4; i++) await t.step(batch());
  const arrays = runs.mock.calls.map(([, outputs]) => Object.values(outputs).map(o => o.bytes.buffer));
  runs.mockRestore();
  // Of the losses, which come last, each run has its own.
  const states = arrays.map(buffers => buffers.slice(0, -1));
  for (const i of [2, 3])
    for (const [k, buffer] of states[i]!.entries()) expect(buffer).toBe(states[i - 2]![k]);
  expect(states[1]![0]).not.toBe(states[0]![0]);
  await t.release();
});

it('leaves states that a caller has as they were', async () => {
  const [t, other] = [await made(), await made()];
  const copies = (state: ReadonlyMap<string, Tensor>) => [...state].map(([n, v]) => [n, v.numbers()]);
  const snapshots = [];
  for (let i = 0; i < 5; i++) {
    await t.step(batch());
    await other.step(batch());
    if (i === 1) snapshots.push({ state: t.state, copy: copies(t.state) });
    if (i === 2) {
      const initializers = new Map([...t.snapshot().graph.initializers].map(([v, value]) => [v.name, value]));
      snapshots.push({ state: initializers, copy: copies(initializers) });
    }
  }
  for (const { state, copy } of snapshots) expect(copies(state)).toEqual(copy);
  expect(copies(t.state)).toEqual(copies(other.state));
  await Promise.all([t.release(), other.release()]);
});

it.each<[string, Partial<InjectOptions>]>([
  ['plain', {}],
  [
    'accumulated and skipped',
    { accumulate: 2, onNonfinite: 'skip', clipGradNorm: 1, telemetry: 1, ema: 0.9 },
  ],
  ['in 16 bits', { precision: 'fp16' }],
])('gives the same numbers as runs whose outputs are copied: %s', async (_, options) => {
  const [t, copied] = [await made(mlp(), options), await made(mlp(), options)];
  const steps = (n: number, bad?: number) =>
    Object.fromEntries(
      Object.entries(batch()).map(([name, { dtype, dims, bytes }]) => {
        const all = new Uint8Array(n * bytes.length);
        for (let i = 0; i < n; i++) all.set(bytes, i * bytes.length);
        if (bad !== undefined && name === 'x') all.fill(0xff, bad * bytes.length, (bad + 1) * bytes.length);
        return [name, new Tensor(dtype, [n, ...dims], all)];
      }),
    );
  const told = async (trainer: Trainer) => {
    const results: unknown[] = [];
    for (const feeds of [steps(3), steps(4, 2), steps(1), steps(5, 4), steps(2)]) {
      results.push(await trainer.steps(feeds).catch((error: Error) => error.message));
      results.push(trainer.lastSteps, trainer.telemetry);
    }
    return [...results, ...[...trainer.state].map(([n, v]) => [n, v.numbers()])];
  };
  const runInto = vi.spyOn(Session.prototype, 'runInto');
  const results = await told(t);
  expect(runInto.mock.calls.length).toBeGreaterThan(4);
  runInto.mockImplementation(async function (this: Session, feeds, outputs) {
    const found = await this.run(feeds, Object.keys(outputs));
    for (const [name, { bytes }] of Object.entries(outputs)) bytes.set(found[name]!.bytes);
  });
  expect(await told(copied)).toEqual(results);
  runInto.mockRestore();
  await Promise.all([t.release(), copied.release()]);
});

it('says where a run wrote nothing', async () => {
  const t = await made();
  const session = (t as unknown as { loaded: { session: { session: { run: unknown } } } }).loaded.session
    .session;
  session.run = async () => ({});
  await expect(t.step(batch())).rejects.toThrow('did not write into the arrays');
  session.run = async () => {
    throw new Error('no memory left');
  };
  await expect(t.step(batch())).rejects.toThrow('ONNX Runtime stopped: no memory left');
  expect(t.stepCount).toBe(0);
});
