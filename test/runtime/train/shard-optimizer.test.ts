/** Ranks that have the optimizer state of some of the parameters each. */
import { describe, expect, it } from 'vitest';
import type { Model } from '../../../src/graph/ir.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { inject } from '../../../src/passes/inject.js';
import type { InjectOptions } from '../../../src/passes/options.js';
import type { Collective } from '../../../src/runtime/collective/collective.js';
import { localCollectives } from '../../../src/runtime/collective/local.js';
import { type Feeds, sessionShapes } from '../../../src/runtime/session.js';
import type { TrainerOptions } from '../../../src/runtime/train/load-step.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { mlp, mlpData, Sketch } from '../../sample.js';

const LOSS = { kind: 'cross-entropy', ignoreIndex: 0 } as const;
const injected = async (options: Partial<InjectOptions> = {}, model = mlp()) =>
  (await inject(model, { loss: LOSS, lossDivisor: true, ...options }, sessionShapes)).model;

/** Layers that are too large to be updated together. */
function wide(): Model {
  const s = new Sketch();
  const h = s.add('MatMul', [s.input('x', ['batch', 4]), s.weight('w1', [4, 300])], 'h');
  const a = s.add('Tanh', [s.add('Add', [h, s.weight('b1', [300])], 'hb')], 'a');
  const z = s.add('Tanh', [s.add('MatMul', [a, s.weight('w2', [300, 300])], 'm')], 'z');
  return s.model([s.add('MatMul', [z, s.weight('w3', [300, 3])], 'logits')]);
}

const SAMPLES = 8;
function partOf(step: number, size: number, rank: number): Feeds {
  const count = SAMPLES / size;
  return Object.fromEntries(
    [...mlpData(SAMPLES, 30 + step)].map(([name, { dtype, dims, bytes }]) => {
      const each = bytes.length / SAMPLES;
      const own = bytes.slice(rank * count * each, (rank + 1) * count * each);
      return [name, new Tensor(dtype, [1, count, ...dims.slice(1)], own)];
    }),
  );
}

type Trained = { snapshot: Map<string, Tensor> | undefined; names: string[]; bytes: number };

function onRanks(size: number, model: Model, steps: [number, number], given: TrainerOptions) {
  return Promise.all(
    localCollectives(size).map(async (collective): Promise<Trained & { model?: Model }> => {
      try {
        return await onRank(collective, size, model, steps, given);
      } catch (error) {
        collective.abort(String(error));
        throw error;
      }
    }),
  );
}

async function onRank(
  collective: Collective,
  size: number,
  model: Model,
  steps: [number, number],
  given: TrainerOptions,
): Promise<Trained & { model?: Model }> {
  const trainer = await Trainer.create(model, { ...given, collective, threads: 1 });
  for (let step = steps[0]; step < steps[1]; step++) await trainer.steps(partOf(step, size, collective.rank));
  const names = [...trainer.state.keys()];
  const bytes = [...trainer.state.values()].reduce((n, t) => n + t.byteLength, 0);
  await trainer.settle();
  const saved = collective.rank === 0 || !given.shardOptimizer ? trainer.snapshot() : undefined;
  await trainer.release();
  const snapshot = saved && new Map([...saved.graph.initializers].map(([v, t]) => [v.name, t]));
  return { snapshot, names, bytes, ...(saved ? { model: saved } : {}) };
}

const bits = (state: ReadonlyMap<string, Tensor>) =>
  Object.fromEntries([...state].map(([name, t]) => [name, Buffer.from(t.bytes).toString('hex')]));

describe('a divided optimizer', () => {
  it.each<[string, number, Partial<InjectOptions>, Model]>([
    ['AGD on two ranks', 2, {}, wide()],
    ['AGD on four ranks, fewer parameters than ranks', 4, {}, mlp()],
    ['AdamW with a clipped norm', 2, { optimizer: { name: 'adamw' }, clipGradNorm: 0.1 }, wide()],
    ['AdaHessian', 2, { optimizer: { name: 'adahessian' } }, wide()],
    ['NAdam, which keeps a number per parameter', 2, { optimizer: { name: 'nadam' } }, wide()],
    ['steps that may be skipped', 2, { onNonfinite: 'skip', ema: 0.9 }, wide()],
    ['the same, for CUDA', 2, { onNonfinite: 'skip', ema: 0.9, provider: 'cuda' }, wide()],
    ['accumulated gradients', 2, { accumulate: 2, compensate: true }, wide()],
    ['Muon, which reads whole matrices', 2, { optimizer: { name: 'muon' } }, wide()],
    ['Schedule-Free AdamW', 2, { optimizer: { name: 'schedule-free-adamw' } }, wide()],
    ['AGD with averaged weights', 2, { scheduleFree: {}, compensate: true, ema: 0.9 }, wide()],
  ])('gives the bits of the whole one: %s', async (_, size, options, source) => {
    const model = await injected(options, source);
    const [one] = await onRanks(size, model, [0, 4], {});
    const ranks = await onRanks(size, model, [0, 4], { shardOptimizer: true });
    expect(bits(ranks[0]!.snapshot!)).toEqual(bits(one!.snapshot!));
    const owners = new Map<string, number>();
    for (const { names } of ranks) for (const name of names) owners.set(name, (owners.get(name) ?? 0) + 1);
    const states = one!.names.filter(name => name.includes('_exp_avg'));
    expect(states.length).toBeGreaterThan(0);
    for (const name of states) expect(owners.get(name), name).toBe(1);
    for (const name of source.graph.initializers.keys()) expect(owners.get(name.name)).toBe(size);
    // Gradients are taken between these and the parameters.
    for (const name of one!.names.filter(name => name.endsWith('_z'))) expect(owners.get(name)).toBe(size);
  });

  it('sums as much in float16 as the whole one', async () => {
    const model = await injected({}, wide());
    const [one] = await onRanks(2, model, [0, 3], { compress: 'fp16' });
    const ranks = await onRanks(2, model, [0, 3], { compress: 'fp16', shardOptimizer: true });
    expect(bits(ranks[0]!.snapshot!)).toEqual(bits(one!.snapshot!));
  });

  it.each<[string, Partial<InjectOptions>, boolean]>([
    ['sends gradients to the ranks that need them', {}, false],
    ['sends all gradients to all ranks for a norm of them', { clipGradNorm: 0.1 }, true],
  ])('%s', async (_, options, isForAll) => {
    const model = await injected(options, wide());
    const gradients = 300 * 300;
    const [whole, scattered] = [[] as number[], [] as number[]];
    await Promise.all(
      localCollectives(2).map(async collective => {
        const counted = new Proxy(collective, {
          get(target, key) {
            const value = Reflect.get(target, key, target);
            if (typeof value !== 'function') return value;
            return (...args: [{ length: number }]) => {
              if (key === 'allReduce') whole.push(args[0].length);
              if (key === 'reduceScatter') scattered.push(args[0].length);
              return value.apply(target, args);
            };
          },
        });
        await onRank(counted, 2, model, [0, 1], { shardOptimizer: true });
      }),
    );
    expect(whole.some(length => length >= gradients)).toBe(isForAll);
    expect(scattered.some(length => length >= gradients)).toBe(!isForAll);
  });

  it('takes the memory of a rank’s part', async () => {
    const s = new Sketch();
    let h = s.input('x', ['batch', 4]);
    for (let i = 0; i < 8; i++)
      h = s.add('Tanh', [s.add('MatMul', [h, s.weight(`w${i}`, [i ? 200 : 4, 200])], `m${i}`)], `h${i}`);
    const model = await injected({}, s.model([s.add('MatMul', [h, s.weight('w8', [200, 3])], 'logits')]));
    const [one] = await onRanks(4, model, [0, 1], {});
    const ranks = await onRanks(4, model, [0, 1], { shardOptimizer: true });
    const parameters = [...s.graph.initializers.values()].reduce((n, t) => n + t.byteLength, 0);
    const most = Math.max(...ranks.map(r => r.bytes - parameters));
    // Seven equal layers on four ranks: two each at most.
    expect(most / (one!.bytes - parameters)).toBeLessThan(0.3);
  });

  it('is resumed with another number of ranks', async () => {
    const model = await injected({}, wide());
    const [whole] = await onRanks(1, model, [0, 4], {});
    const [half] = await onRanks(4, model, [0, 2], { shardOptimizer: true });
    const [resumed] = await onRanks(2, half!.model!, [2, 4], { shardOptimizer: true });
    for (const [name, tensor] of whole!.snapshot!) {
      const found = resumed!.snapshot!.get(name)!.numbers();
      const scale = Math.max(1e-3, ...tensor.numbers().map(Math.abs));
      const worst = Math.max(...tensor.numbers().map((value, i) => Math.abs(found[i]! - value)));
      expect(worst / scale, name).toBeLessThan(1e-5);
    }
  });

  it('is not saved by a rank that has a part of it', async () => {
    const model = await injected({}, wide());
    const [collective] = localCollectives(1);
    const alone = await Trainer.create(model, { collective, shardOptimizer: true, threads: 1 });
    expect(() => alone.snapshot()).not.toThrow();
    await alone.release();
    await Promise.all(
      localCollectives(2).map(async c => {
        const trainer = await Trainer.create(model, { collective: c, shardOptimizer: true, threads: 1 });
        expect(() => trainer.snapshot()).toThrow('call settle() on all of them, and save on rank 0');
        await trainer.settle();
        if (c.rank === 0) expect(() => trainer.snapshot()).not.toThrow();
        else expect(() => trainer.snapshot()).toThrow('save on rank 0');
        await trainer.release();
      }),
    );
  });

  it('cannot be that of Prodigy, which sums over all parameters', async () => {
    const model = await injected({ optimizer: { name: 'prodigy' } }, wide());
    const [collective] = localCollectives(1);
    await expect(Trainer.create(model, { collective, shardOptimizer: true })).rejects.toThrow(
      "--shard-optimizer divides the optimizer's state, and prodigy reads that of all parameters in each step: leave out one.",
    );
  });

  it('cannot be observed as a whole', async () => {
    const model = await injected({ telemetry: 1 }, wide());
    const [collective] = localCollectives(1);
    const two = new Proxy(collective!, {
      get: (target, key) => (key === 'size' ? 2 : Reflect.get(target, key, target)),
    });
    await expect(Trainer.create(model, { collective: two, shardOptimizer: true })).rejects.toThrow(
      'leave out --telemetry',
    );
  });
});
