/** Ranks that train for themselves and take the mean of their parameters now and then. */
import { describe, expect, it } from 'vitest';
import { withInitializers } from '../../../src/graph/clone.js';
import { AgdError } from '../../../src/graph/errors.js';
import type { Model } from '../../../src/graph/ir.js';
import { decodeModel, encodeModel } from '../../../src/graph/proto/codec.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { outerMomentumOf } from '../../../src/passes/file/outer-momentum.js';
import { inject } from '../../../src/passes/inject.js';
import type { InjectOptions } from '../../../src/passes/options.js';
import { localCollectives } from '../../../src/runtime/collective/local.js';
import { bindData } from '../../../src/runtime/data/bind.js';
import { type Feeds, sessionShapes } from '../../../src/runtime/session.js';
import { fit as fitModel } from '../../../src/runtime/train/fit.js';
import type { TrainerOptions } from '../../../src/runtime/train/load-step.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { trainingLoop } from '../../../src/runtime/train/training-loop.js';
import { floatsOf, ints } from '../../ops/vjp.js';
import { collect, mlp, mlpData, Sketch } from '../../sample.js';

const LOSS = { kind: 'cross-entropy' } as const;
const SGD: InjectOptions = { loss: LOSS, lossDivisor: true, optimizer: { name: 'sgd', lr: 0.3 } };
const injected = async (options: InjectOptions = SGD, model = mlp()) =>
  (await inject(model, options, sessionShapes)).model;

/** This rank's samples of a batch, with the axis of steps; nothing where it has none. */
function partOf(step: number, parts: readonly number[], rank: number): Feeds {
  const data = mlpData(
    parts.reduce((n, count) => n + count, 0),
    20 + step,
  );
  const from = parts.slice(0, rank).reduce((n, count) => n + count, 0);
  if (!parts[rank]) return {};
  return Object.fromEntries(
    [...data].map(([name, { dtype, dims, bytes }]) => {
      const size = bytes.length / dims[0]!;
      const own = bytes.slice(from * size, (from + parts[rank]!) * size);
      return [name, new Tensor(dtype, [1, parts[rank]!, ...dims.slice(1)], own)];
    }),
  );
}

async function onRanks(model: Model, parts: readonly number[], steps: number, given: TrainerOptions) {
  return Promise.all(
    localCollectives(parts.length).map(async collective => {
      const trainer = await Trainer.create(model, { ...given, collective, threads: 1 });
      for (let step = 0; step < steps; step++) await trainer.steps(partOf(step, parts, collective.rank));
      await trainer.settle();
      const state = new Map(trainer.state);
      await trainer.release();
      return state;
    }),
  );
}

const bits = (state: ReadonlyMap<string, Tensor>) =>
  Object.fromEntries([...state].map(([name, t]) => [name, Buffer.from(t.bytes).toString('hex')]));

function expectClose(found: ReadonlyMap<string, Tensor>, wanted: ReadonlyMap<string, readonly number[]>) {
  for (const [name, values] of wanted) {
    const numbers = found.get(name)!.numbers();
    values.forEach((value, i) => {
      expect(Math.abs(numbers[i]! - value), `${name}[${i}]`).toBeLessThan(1e-6);
    });
  }
}

/** Parameters of ranks that train alone for `every` steps, with the outer step by its formula in float64. */
async function byHand(model: Model, parts: readonly number[], steps: number, every: number, lr = 1, mu = 0) {
  const names = ['fc1.weight', 'fc1.bias', 'fc2.weight', 'fc2.bias'];
  const initial = new Map([...model.graph.initializers].map(([v, t]) => [v.name, t]));
  let anchor = new Map(names.map(name => [name, initial.get(name)!.numbers()]));
  const velocity = new Map(names.map(name => [name, anchor.get(name)!.map(() => 0)]));
  const total = parts.reduce((n, count) => n + count, 0);
  for (let first = 0; first < steps; first += every) {
    const sums = new Map(names.map(name => [name, anchor.get(name)!.map(() => 0)]));
    for (const [rank, count] of parts.entries()) {
      const start = withInitializers(model, name => {
        const values = anchor.get(name);
        return values && floatsOf(values, initial.get(name)!.dims);
      });
      const trainer = await Trainer.create(start, { threads: 1 });
      for (let step = first; step < Math.min(steps, first + every); step++)
        if (count) await trainer.steps(partOf(step, parts, rank));
      for (const name of names) {
        const sum = sums.get(name)!;
        trainer.state
          .get(name)!
          .numbers()
          .forEach((value, i) => {
            sum[i]! += (value * count) / total;
          });
      }
      await trainer.release();
    }
    anchor = new Map(
      names.map(name => {
        const v = velocity.get(name)!;
        const next = anchor.get(name)!.map((before, i) => {
          const change = before - sums.get(name)![i]!;
          v[i] = mu * v[i]! + change;
          return before - lr * (change + mu * v[i]!);
        });
        return [name, next];
      }),
    );
  }
  return anchor;
}

describe('ranks that train for themselves', () => {
  it('and take the mean after each step do what ranks that exchange gradients do', async () => {
    const model = await injected();
    const [one] = await onRanks(model, [5, 3], 4, { syncEvery: 1 });
    const [other] = await onRanks(model, [5, 3], 4, {});
    expectClose(one!, new Map([...other!].map(([name, t]) => [name, t.numbers()])));
  });

  it.each<[string, number[], TrainerOptions & { syncEvery: number }]>([
    ['every three steps', [4, 4], { syncEvery: 3 }],
    ['by their samples', [6, 2, 0], { syncEvery: 2 }],
    ['with momentum', [4, 4], { syncEvery: 2, outerLr: 0.7, outerMomentum: 0.9 }],
  ])('go on from the mean of the parameters: %s', async (_, parts, options) => {
    const model = await injected();
    const states = await onRanks(model, parts, 6, options);
    const { syncEvery, outerLr, outerMomentum } = options;
    expectClose(states[0]!, await byHand(model, parts, 6, syncEvery, outerLr, outerMomentum));
    for (const state of states) expect(bits(state)).toEqual(bits(states[0]!));
    expect(states[0]!.get('step')!.numbers()).toEqual([6]);
  });

  it('take the mean of both weights of a Schedule-Free optimizer', async () => {
    const model = await injected({ ...SGD, optimizer: { name: 'schedule-free-sgd', lr: 0.1 } });
    const states = await onRanks(model, [4, 4], 4, { syncEvery: 2 });
    const z = [...states[0]!.keys()].filter(name => name.endsWith('_z'));
    expect(z).toHaveLength(4);
    for (const name of z) expect(states[1]!.get(name)!.bytes, name).toEqual(states[0]!.get(name)!.bytes);
  });

  it('leave the initial weights that Prodigy compares with as they are', async () => {
    const model = await injected({ ...SGD, optimizer: { name: 'prodigy', d0: 1e-2 } });
    const start = new Map([...model.graph.initializers].map(([v, t]) => [v.name, t]));
    // With these numbers of samples, the mean of three equal numbers is rounded.
    const states = await onRanks(model, [3, 2, 2], 7, { syncEvery: 2 });
    const initial = [...start.keys()].filter(name => name.endsWith('_p0'));
    expect(initial).toHaveLength(4);
    for (const state of states)
      for (const name of initial) expect(state.get(name)!.bytes, name).toEqual(start.get(name)!.bytes);
    expect(bits(states[1]!)).toEqual(bits(states[0]!));
  });

  it.each([0, 0.5])('move both by the outer step, with momentum %d', async outerMomentum => {
    const optimizer = { name: 'sgd', lr: 0.1 } as const;
    const model = await injected({ ...SGD, optimizer, scheduleFree: { momentum: 0.8 } });
    const initial = new Map([...model.graph.initializers].map(([v, t]) => [v.name, t.numbers()]));
    const [mean] = await onRanks(model, [4, 4], 2, { syncEvery: 2 });
    const states = await onRanks(model, [4, 4], 2, { syncEvery: 2, outerLr: 0.75, outerMomentum });
    const names = [...mean!.keys()].filter(name => /^fc\d\.(weight|bias)(_z)?$/.test(name));
    expect(names).toHaveLength(8);
    const wanted = names.map(name => {
      const before = initial.get(name)!;
      const after = mean!.get(name)!.numbers();
      return [name, before.map((x, i) => x - 0.75 * (1 + outerMomentum) * (x - after[i]!))] as const;
    });
    for (const state of states) expectClose(state, new Map(wanted));
  });

  it.each<[string, Partial<TrainerOptions>, Partial<InjectOptions>?]>([
    ['', {}],
    [', the momentum of the outer optimizer included', { outerLr: 0.7, outerMomentum: 0.9 }],
    [', that of other weights, too', { outerLr: 0.7, outerMomentum: 0.9 }, { scheduleFree: {} }],
  ])(
    'have the same whole state after an epoch, from which a run can be resumed%s',
    async (_, outer, more) => {
      const options: InjectOptions = { ...SGD, optimizer: { lr: 0.05, delta: 0.1 }, ema: 0.9, ...more };
      const run = (model: Model, epochs: number) =>
        Promise.all(
          localCollectives(3).map(async collective => {
            const trainer = await Trainer.create(model, { collective, syncEvery: 3, ...outer, threads: 1 });
            const data = bindData(mlpData(22), trainer.inputs, { labels: ['target'] });
            const loop = { epochs, batchSize: 4, seed: 2, validation: data };
            const events = await collect(trainingLoop(trainer, data, loop));
            const snapshot = trainer.snapshot();
            await trainer.release();
            return { snapshot, events: events.filter(e => e.type === 'epoch') };
          }),
        );
      const start = await injected(options);
      const whole = await run(start, 2);
      const half = await run(start, 1);
      const resumed = await run(decodeModel(encodeModel(half[2]!.snapshot)), 2);
      const saved = [...outerMomentumOf(half[2]!.snapshot).values()];
      expect(saved.map(t => t.numbers().some(x => x !== 0))).toEqual(
        outer.outerMomentum ? [...Array(more ? 8 : 4)].fill(true) : [],
      );
      const state = (model: Model) =>
        bits(new Map([...model.graph.initializers].map(([v, t]) => [v.name, t])));
      for (const { snapshot } of [...whole, ...resumed])
        expect(state(snapshot)).toEqual(state(whole[0]!.snapshot));
      expect(state(whole[0]!.snapshot)).not.toEqual(state(half[0]!.snapshot));
      const losses = whole.map(({ events }) => events.map(e => (e.type === 'epoch' ? e.trainLoss : 0)));
      expect(losses[1]).toEqual(losses[0]);
      expect(losses[0]![1]).toBeLessThan(losses[0]![0]!);
    },
  );

  it('take the mean of tables that change by rows', async () => {
    const s = new Sketch();
    const rows = s.add('Gather', [s.weight('table', [6, 4]), s.input('ids', ['batch'], 'int64')], 'rows');
    const source = s.model([s.add('MatMul', [rows, s.weight('w', [4, 3])], 'logits')]);
    const model = await injected({ ...SGD, lazyRows: ['table'] }, source);
    const feeds = (rank: number): Feeds => ({
      ids: ints(rank ? [3, 4] : [0, 3], [1, 2]),
      target: ints([0, 2], [1, 2]),
    });
    const states = await Promise.all(
      localCollectives(2).map(async collective => {
        const trainer = await Trainer.create(model, { collective, syncEvery: 2, threads: 1 });
        const before = new Map([...trainer.state].map(([name, t]) => [name, t.numbers()]));
        for (let i = 0; i < 2; i++) await trainer.steps(feeds(collective.rank));
        const state = new Map([...trainer.state].map(([name, t]) => [name, t.numbers()]));
        await trainer.release();
        return { before, state };
      }),
    );
    expect(states[1]!.state).toEqual(states[0]!.state);
    const [before, after] = [states[0]!.before.get('table')!, states[0]!.state.get('table')!];
    const changed = [0, 1, 2, 3, 4, 5].filter(row => after[4 * row] !== before[4 * row]);
    expect(changed).toEqual([0, 3, 4]);
  });

  it('drop other places on each rank', async () => {
    const s = new Sketch();
    const x = s.input('x', ['batch', 64]);
    const source = s.model([s.add('Dropout', [s.add('Mul', [x, s.weight('w', [64])], 'm')], 'd')]);
    const model = await injected({ ...SGD, loss: { kind: 'mse' } }, source);
    const feeds = { x: Tensor.filled('float32', [1, 64], 1), target: Tensor.filled('float32', [1, 64], 0) };
    const losses = await Promise.all(
      localCollectives(2).map(async collective => {
        const trainer = await Trainer.create(model, { collective, syncEvery: 2, threads: 1 });
        const { loss } = await trainer.step(feeds);
        await trainer.release();
        return loss;
      }),
    );
    expect(Math.abs(losses[0]! - losses[1]!)).toBeGreaterThan(1e-4);
  });

  it('count a step as done that one of them skipped', async () => {
    const model = await injected({ ...SGD, onNonfinite: 'skip' });
    const states = await Promise.all(
      localCollectives(2).map(async collective => {
        const trainer = await Trainer.create(model, { collective, syncEvery: 2, threads: 1 });
        for (let step = 0; step < 5; step++) {
          const feeds = partOf(step, [4, 4], collective.rank);
          const isBad = (step === 2 && collective.rank === 1) || step === 3;
          const x = Tensor.filled('float32', feeds.x!.dims, Number.NaN);
          await trainer.steps(isBad ? { ...feeds, x } : feeds);
        }
        await trainer.settle();
        const { batchCount, stepCount, skippedCount } = trainer;
        await trainer.release();
        return { batchCount, stepCount, skippedCount };
      }),
    );
    for (const state of states) expect(state).toEqual({ batchCount: 5, stepCount: 4, skippedCount: 1 });
  });

  it('count batches alike where one of them skipped a part of an update', async () => {
    const model = await injected({ ...SGD, onNonfinite: 'skip', accumulate: 2 });
    const bad = new Map([
      [1, [0]],
      [4, [1, 0]],
      [5, [1]],
    ]);
    for (const steps of [2, 3, 4, 5, 6, 7]) {
      const states = await Promise.all(
        localCollectives(2).map(async collective => {
          const trainer = await Trainer.create(model, { collective, syncEvery: 3, threads: 1 });
          for (let step = 0; step < steps; step++) {
            const feeds = partOf(step, [4, 4], collective.rank);
            const x = Tensor.filled('float32', feeds.x!.dims, Number.NaN);
            await trainer.steps(bad.get(step)?.includes(collective.rank) ? { ...feeds, x } : feeds);
          }
          await trainer.settle();
          const { batchCount, state } = trainer;
          await trainer.release();
          return { batchCount, state: bits(state) };
        }),
      );
      for (const { batchCount } of states) expect(batchCount, `after ${steps}`).toBe(steps);
      expect(states[1]!.state).toEqual(states[0]!.state);
    }
  });

  it('all stop at a step of one of them that is not finite, with the mean of what was good', async () => {
    const model = await injected();
    const ends = await Promise.all(
      localCollectives(3).map(async collective => {
        const trainer = await Trainer.create(model, { collective, syncEvery: 4, threads: 1 });
        let error: unknown;
        try {
          for (let step = 0; step < 8; step++) {
            const feeds = partOf(step, [4, 4, 4], collective.rank);
            const x = Tensor.filled('float32', feeds.x!.dims, Number.NaN);
            await trainer.steps(step === 5 && collective.rank === 1 ? { ...feeds, x } : feeds);
          }
        } catch (thrown) {
          error = thrown;
        }
        await trainer.settle();
        const saved = new Map([...trainer.snapshot().graph.initializers].map(([v, t]) => [v.name, t]));
        await trainer.release();
        return { error: error as AgdError, saved };
      }),
    );
    for (const { error, saved } of ends) {
      expect(error).toBeInstanceOf(AgdError);
      expect(error.code).toBe('non-finite');
      expect(error.message).toBe(
        "Rank 1: Loss is NaN at step 6: the data for 'x' are not finite. The state is the mean over the ranks of their last good steps; try a smaller --lr.",
      );
      expect(bits(saved)).toEqual(bits(ends[0]!.saved));
      expect([...saved.values()].flatMap(t => t.numbers()).every(Number.isFinite)).toBe(true);
    }
  });

  it('send nothing between two means', async () => {
    const start = await injected();
    const sent: string[][] = [[], []];
    await Promise.all(
      localCollectives(2).map(async inner => {
        const collective = new Proxy(inner, {
          get(target, key) {
            const value = Reflect.get(target, key, target);
            if (typeof value !== 'function') return value;
            return (...args: unknown[]) => {
              sent[inner.rank]!.push(String(key));
              return value.apply(target, args);
            };
          },
        });
        const options = { collective, syncEvery: 4, batchSize: 4, seed: 1, threads: 1 };
        const told: number[] = [];
        await fitModel(start, mlpData(32), {
          ...options,
          onEvent: e => e.type === 'step' && told.push(sent[0]!.length),
        });
        // Eight steps: after the 4th, and at the end.
        const between = told.slice(1).map((n, i) => n - told[i]!);
        expect(between.slice(0, 2)).toEqual([0, 0]);
        expect(between.slice(4, 6)).toEqual([0, 0]);
        expect(between[2]! + between[3]!).toBeGreaterThan(0);
      }),
    );
    expect(sent[1]).toEqual(sent[0]);
  });

  it('cannot divide the optimizer, nor send float16', async () => {
    const model = await injected();
    const [collective] = localCollectives(1);
    const create = (options: TrainerOptions) => Trainer.create(model, { collective, ...options });
    await expect(create({ syncEvery: 2, shardOptimizer: true })).rejects.toThrow('with shardOptimizer');
    await expect(create({ syncEvery: 2, compress: 'fp16' })).rejects.toThrow('with compress');
    await expect(create({ outerLr: 0.5 })).rejects.toThrow('need syncEvery');
    await expect(create({ syncEvery: 0 })).rejects.toThrow('at least 1, not 0');
    for (const name of ['syncEvery', 'shardOptimizer', 'compress'])
      await expect(Trainer.create(model, { [name]: 2 })).rejects.toThrow(
        `${name} is for distributed training`,
      );
  });

  it('cannot share states that they do not know', async () => {
    const model = await injected({ ...SGD, optimizer: { name: 'schedule-free-sgd', lr: 0.1 } });
    const [collective] = localCollectives(1);
    const create = (options: TrainerOptions) => Trainer.create(model, { collective, ...options });
    const entry = model.metadata.get('agd.training')!;
    const unknown = { name: 'theirs', options: {}, extension: true };
    model.metadata.set('agd.training', JSON.stringify({ ...JSON.parse(entry), optimizer: unknown }));
    for (const options of [{ syncEvery: 2 }, { shardOptimizer: true }])
      await expect(create(options)).rejects.toThrow("state of 'theirs' depends on its definition");
  });

  it('cannot take a mean of quantized states', async () => {
    const model = await injected({ ...SGD, stateBits: 8 });
    const [collective] = localCollectives(1);
    const create = (options: TrainerOptions) => Trainer.create(model, { collective, ...options });
    await expect(create({ syncEvery: 2 })).rejects.toThrow('syncEvery cannot be combined with stateBits');
    await (await create({})).release();
  });

  it('that differ cannot be saved', async () => {
    const model = await injected();
    const [collective] = localCollectives(1);
    const trainer = await Trainer.create(model, { collective, syncEvery: 3, threads: 1 });
    await trainer.steps(partOf(0, [4], 0));
    expect(() => trainer.snapshot()).toThrow('call settle() on all of them');
    await trainer.settle();
    expect(() => trainer.snapshot()).not.toThrow();
    await trainer.release();
  });
});
