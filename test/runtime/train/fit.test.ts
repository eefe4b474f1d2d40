import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { defineLoss, defineMetric } from '../../../src/extend.js';
import { loadModel, saveModel } from '../../../src/graph/files.js';
import { Model } from '../../../src/graph/ir.js';
import { encodeModel } from '../../../src/graph/proto/codec.js';
import {
  type FitOptions,
  fit as fitModel,
  inject,
  openData,
  type StepEvent,
  Tensor,
  type TrainEvent,
  toTensor,
} from '../../../src/internal.js';
import { isInjected } from '../../../src/passes/file/step-metadata.js';
import { localCollectives } from '../../../src/runtime/collective/local.js';
import { bindData } from '../../../src/runtime/data/bind.js';
import { writeNpz } from '../../../src/runtime/data/npz.js';
import { readRun } from '../../../src/runtime/train/run-state.js';
import { runTrainJob } from '../../../src/runtime/train/train-job.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { mlp, mlpData } from '../../sample.js';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'agd-onnx-test-'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

const [TRAIN, VAL] = [mlpData(64, 1), mlpData(32, 2)];
const CE = { loss: 'cross-entropy', batchSize: 8 } as const;
const bytes = (model: Awaited<ReturnType<typeof loadModel>>) => Buffer.from(encodeModel(model));
const weights = (model: Awaited<ReturnType<typeof loadModel>>) =>
  Object.fromEntries([...model.graph.initializers].map(([v, t]) => [v.name, t.numbers()]));

it('trains as a job from files to files does', async () => {
  const [model, data, val, output] = ['m.onnx', 't.npz', 'v.npz', 'o.onnx'].map(name => join(folder, name));
  await saveModel(mlp(), model!);
  await writeNpz(data!, TRAIN);
  await writeNpz(val!, VAL);
  const job = { model: model!, data: data!, validation: val!, output: output!, batchSize: 8, epochs: 3 };
  await runTrainJob({ ...job, inject: { loss: { kind: 'cross-entropy' } }, seed: 3 }, () => {});
  const wanted = weights(await loadModel(output!));
  const options = { ...CE, epochs: 3, seed: 3 };
  const fromArrays = await fitModel(mlp(), TRAIN, { ...options, validation: VAL });
  expect(weights(fromArrays.model)).toEqual(wanted);
  expect(fromArrays.history.losses).toHaveLength(24);
  expect(fromArrays).toMatchObject({ reason: 'epochs', best: { metric: 'loss' } });
  const fromFiles = await fitModel(model!, data!, { ...options, validation: val! });
  expect(weights(fromFiles.model)).toEqual(wanted);
});

describe('data', () => {
  const plain = {
    x: Array.from({ length: 64 }, (_, i) =>
      TRAIN.get('x')!
        .numbers()
        .slice(4 * i, 4 * i + 4),
    ),
    target: TRAIN.get('target')!.numbers(),
  };
  const samples = plain.x.map((x, i) => ({ x, target: plain.target[i]! }));
  async function* streamed() {
    yield* samples;
  }
  it.each([
    ['nested arrays', plain],
    ['rows of typed arrays', { ...plain, x: plain.x.map(row => Float32Array.from(row)) }],
    ['a typed array with dims', { ...plain, x: { data: Float32Array.from(plain.x.flat()), dims: [64, 4] } }],
    ['a list of samples', samples],
    ['an asynchronous sequence of samples', { [Symbol.asyncIterator]: streamed }],
  ])('may be %s', async (_, data) => {
    const { model } = await fitModel(mlp(), data as never, CE);
    expect(weights(model)).toEqual(weights((await fitModel(mlp(), TRAIN, CE)).model));
  });
  it('may be a dataset that is bound', async () => {
    const { model: injected } = await inject(mlp(), { loss: { kind: 'cross-entropy' } });
    const trainer = await Trainer.create(injected);
    const data = bindData(TRAIN, trainer.inputs, { labels: ['target'] });
    await trainer.release();
    const { model } = await fitModel(injected, data, { batchSize: 8 });
    expect(weights(model)).toEqual(weights((await fitModel(mlp(), TRAIN, CE)).model));
  });
  it.each([
    [
      { x: [[1, 2], [3]] },
      "Array 'x' has rows of different shapes: one has 1 elements where the first has 2.",
    ],
    [
      { x: [1, 'a'] },
      "Array 'x' has 'a' among its elements; expected numbers, bigints, booleans or strings of one kind.",
    ],
    [
      { x: [1, undefined] },
      "Array 'x' has undefined among its elements; expected numbers, bigints, booleans or strings of one kind.",
    ],
    [{ x: {} }, "Array 'x' is an Object; expected nested arrays, a typed array or a Tensor."],
    [[{ x: 1 }, { y: 1 }], "Sample 1 has other names than those before it: 'y' is not in all of them."],
    [7, '7 is not data: expected arrays by name, samples, a Dataset or a path.'],
  ])('that is %j is refused', async (data, message) => {
    await expect(fitModel(mlp(), data as never, CE)).rejects.toThrow(message);
  });
  it('becomes tensors of the types of its values', () => {
    const types = [[1, 2], [1.5], [true], ['a'], [1n], new Uint8Array(2), [new Int32Array(2)]];
    expect(types.map(given => toTensor(given).dtype)).toEqual([
      'int64',
      'float64',
      'bool',
      'string',
      'int64',
      'uint8',
      'int32',
    ]);
    expect(toTensor([[[1], [2]]]).dims).toEqual([1, 2, 1]);
    const tensor = Tensor.from('float32', [1], Float32Array.of(1));
    expect(toTensor(tensor)).toBe(tensor);
  });
});

describe('callbacks', () => {
  it('are called in the order of the run, with the trainer', async () => {
    const calls: string[] = [];
    const note = (name: string) => (event: { type: string }, trainer: Trainer) => {
      expect(event.type).toBe(name);
      calls.push(`${name} ${trainer.stepCount}`);
    };
    const callbacks = {
      onStart: note('start'),
      onStep: note('step'),
      onEpoch: note('epoch'),
      onEnd: note('end'),
    };
    await fitModel(mlp(), TRAIN, { ...CE, batchSize: 32, epochs: 2, callbacks });
    expect(calls).toEqual(['start 0', 'step 1', 'step 2', 'epoch 2', 'step 3', 'step 4', 'epoch 4', 'end 4']);
  });
  it('stop after any step, with the state of that step', async () => {
    const onStep = ({ step, epoch }: StepEvent) => (epoch === 2 && step === 3 ? 'stop' : undefined);
    const stopped = await fitModel(mlp(), TRAIN, { ...CE, epochs: 9, callbacks: { onStep } });
    expect(stopped).toMatchObject({ reason: 'callback' });
    expect(stopped.history.losses).toHaveLength(11);
    const resumed = await fitModel(stopped.state, TRAIN, { batchSize: 8, epochs: 3 });
    const whole = await fitModel(mlp(), TRAIN, { ...CE, epochs: 3 });
    expect(bytes(resumed.model).equals(bytes(whole.model))).toBe(true);
    expect(resumed.history.losses).toEqual(whole.history.losses);
  });
  it.each(['onStart', 'onEpoch'] as const)('stop the run in %s', async name => {
    const callbacks = [{}, { [name]: async () => 'stop' as const }];
    const { reason, history } = await fitModel(mlp(), TRAIN, { ...CE, epochs: 9, callbacks });
    expect(reason).toBe('callback');
    expect(history.epochs).toHaveLength(name === 'onStart' ? 0 : 1);
  });
});

it('reports the settings in which a resumed run differs, as train does', async () => {
  const { state } = await fitModel(mlp(), TRAIN, { ...CE, epochs: 1, seed: 3 });
  const notes: string[] = [];
  const onEvent = (event: TrainEvent) => event.type === 'note' && notes.push(event.text);
  await fitModel(state, TRAIN, { batchSize: 8, epochs: 2, seed: 3, onEvent });
  expect(notes.filter(text => text.startsWith('resumed'))).toEqual([]);
  const other = await fitModel(state, TRAIN, { batchSize: 16, epochs: 2, onEvent });
  expect(notes).toContain(
    'resumed with --batch-size 16 (was 8), --seed 0 (was 3): results differ from an uninterrupted run',
  );
  expect((await readRun(other.state))?.settings).toMatchObject({ batchSize: 16, seed: 0 });
});

it('stops early and returns the best epoch by a metric of its own', async () => {
  const wrong = { name: 'wrong', better: 'lower', create: () => ({ add() {}, value: () => 1 }) } as const;
  defineMetric(wrong);
  const options = { ...CE, epochs: 9, validation: VAL, monitor: 'wrong', metrics: ['wrong'], patience: 2 };
  const { reason, best, history } = await fitModel(mlp(), TRAIN, options);
  expect(reason).toBe('patience');
  expect(best).toEqual({ epoch: 1, metric: 'wrong', value: 1 });
  expect(history.epochs).toHaveLength(3);
});

it('takes losses of extensions', async () => {
  const cubic = defineLoss('cubic', {
    target: 'values',
    terms: (output, target) => ({ loss: output.sub(target).abs().pow(3) }),
  });
  const data = { x: TRAIN.get('x')!, target: Array.from({ length: 64 }, () => [0, 0, 0]) };
  const { history } = await fitModel(mlp(), data, { loss: cubic(), epochs: 30, batchSize: 64, lr: 0.01 });
  expect(history.losses.at(-1)!).toBeLessThan(history.losses[0]! / 2);
});

it('keeps the state of the last good step where the loss is no longer finite', async () => {
  const data = new Map(TRAIN);
  const x = Float32Array.from(TRAIN.get('x')!.numbers());
  x[4 * 40] = Number.NaN;
  data.set('x', Tensor.from('float32', [64, 4], x));
  const error = await fitModel(mlp(), data, { ...CE, epochs: 1 }).catch(found => found);
  expect(error).toMatchObject({ code: 'non-finite' });
  const { history } = await fitModel(error.state, TRAIN, { batchSize: 8, epochs: 1 });
  expect(history.losses).toHaveLength(8);
  expect(history.losses.at(-1)).not.toBeNaN();
});

it('refuses options that it does not know', async () => {
  const options = { ...CE, epoch: 3 } as never;
  await expect(fitModel(mlp(), TRAIN, options)).rejects.toThrow(
    "Unknown option 'epoch'; did you mean 'epochs'?",
  );
});

describe('the schedule plateau', () => {
  const options = {
    ...CE,
    optimizer: { name: 'sgd', lr: 0.1 },
    epochs: 7,
    validation: VAL,
    monitor: 'wrong-2',
    schedule: { kind: 'plateau', factor: 0.5, patience: 2, final: 0.2 },
    export: 'last',
  } as const;
  defineMetric({ name: 'wrong-2', create: () => ({ add() {}, value: () => 1 }) });
  const rates = (events: readonly TrainEvent[]) =>
    events.flatMap(e => (e.type === 'step' && e.step === 1 ? [e.lr!] : []));
  it('lowers the rate where the monitored value stays as it is, and goes on so after a resume', async () => {
    const events: TrainEvent[] = [];
    const whole = await fitModel(mlp(), TRAIN, { ...options, onEvent: e => events.push(e) });
    // The first epoch is the best one; 0.2 of the rate is the least.
    const wanted = [0.1, 0.1, 0.1, 0.05, 0.05, 0.025, 0.025];
    expect(rates(events).map(rate => Number(rate.toFixed(7)))).toEqual(wanted);
    const onEpoch = ({ epoch }: { epoch: number }) => (epoch === 4 ? 'stop' : undefined);
    const part = await fitModel(mlp(), TRAIN, { ...options, callbacks: { onEpoch } });
    const { loss, optimizer, schedule, ...rest } = { ...options };
    const more = await fitModel(part.state, TRAIN, rest);
    expect(bytes(more.model).equals(bytes(whole.model))).toBe(true);
  });
  it('needs validation data', async () => {
    const { validation, monitor, ...rest } = options;
    await expect(fitModel(mlp(), TRAIN, rest)).rejects.toThrow('plateau needs validation data');
  });
});

it('closes the data that it opens, and no others', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'agd-onnx-test-'));
  try {
    const path = join(folder, 'data.csv');
    const rows = Array.from({ length: 8 }, (_, i) => `${i},1,0,${-i},${i % 3}`);
    await writeFile(path, `a,b,c,d,kind\n${rows.join('\n')}\n`);
    const options = { ...CE, columns: { x: ['a', 'b', 'c', 'd'] }, label: 'kind' };
    const open = await openData(path, { columns: options.columns, label: 'kind' });
    const closed = vi.spyOn(Object.getPrototypeOf(open), 'close');
    await fitModel(mlp(), open, CE);
    expect(closed).not.toHaveBeenCalled();
    await fitModel(mlp(), path, { ...options, validation: path });
    expect(closed).toHaveBeenCalledTimes(2);
    await open.close();
  } finally {
    vi.restoreAllMocks();
    await rm(folder, { recursive: true });
  }
});

it('waits for no data that are in memory', async () => {
  const waits: (number | undefined)[] = [];
  const onEvent = (event: TrainEvent) => {
    if (event.type === 'epoch') waits.push(event.waitSeconds);
  };
  await fitModel(mlp(), TRAIN, { ...CE, epochs: 2, onEvent });
  expect(waits).toEqual([0, 0]);
});

it.each<[string, FitOptions]>([
  ['average their parameters', { syncEvery: 3, outerLr: 0.7, outerMomentum: 0.9 }],
  ['divide the optimizer', { shardOptimizer: true }],
])('ranks %s, and all return the best model and the state', async (_, how) => {
  const on = (size: number, start: Parameters<typeof fitModel>[0], epochs: number, more: FitOptions = how) =>
    Promise.all(
      localCollectives(size).map(async collective => {
        const options = { ...(start instanceof Model && isInjected(start) ? { batchSize: 8 } : CE), ...more };
        return fitModel(start, TRAIN, {
          ...options,
          epochs,
          seed: 3,
          validation: VAL,
          threads: 1,
          collective,
        });
      }),
    );
  const ranks = await on(2, mlp(), 2);
  const half = await on(2, mlp(), 1);
  const again = await on(2, half[1]!.state, 2);
  for (const result of [...ranks, ...again]) {
    expect(weights(result.state)).toEqual(weights(ranks[0]!.state));
    expect(weights(result.model)).toEqual(weights(ranks[0]!.model));
    expect(result.best).toEqual(ranks[0]!.best);
  }
  const whole = await on(2, mlp(), 2, {});
  if (how.shardOptimizer) expect(weights(ranks[1]!.state)).toEqual(weights(whole[0]!.state));
  else expect(weights(ranks[1]!.state)).not.toEqual(weights(whole[0]!.state));
});
