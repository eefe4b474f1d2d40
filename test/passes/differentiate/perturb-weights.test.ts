import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import type { Model } from '../../../src/graph/ir.js';
import { decodeModel, encodeModel } from '../../../src/graph/proto/codec.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { inject } from '../../../src/passes/inject.js';
import type { InjectOptions } from '../../../src/passes/options.js';
import { type Feeds, sessionShapes } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { mlp, mlpData, normalized, Sketch } from '../../sample.js';

type FloatType = 'float32' | 'float64';

const RECORDED: Record<string, Record<string, number[]>> = JSON.parse(
  readFileSync(new URL('perturb-weights.json', import.meta.url), 'utf8'),
);
const LOSS = { kind: 'cross-entropy' } as const;
const sgd = (lr: number) => ({ name: 'sgd', lr, momentum: 0.9, weightDecay: 0.01 }) as const;
const adamw = { name: 'adamw', lr: 1 / 128, weightDecay: 0.1 } as const;
const PARITY: Record<string, InjectOptions> = {
  sam: { optimizer: sgd(1 / 8), sam: { rho: 0.05 } },
  'sam, adaptive': { optimizer: adamw, sam: { rho: 0.5, adaptive: true } },
  'sam, clipped': { optimizer: sgd(1 / 8), sam: { rho: 0.2 }, clipGradNorm: 0.1 },
  'sam, accumulated': { optimizer: adamw, sam: { rho: 0.1 }, accumulate: 2 },
  wsam: { optimizer: sgd(1 / 16), wsam: { rho: 0.05 } },
  'wsam, adaptive': { optimizer: adamw, wsam: { rho: 0.5, gamma: 0.6, adaptive: true } },
  'wsam, clipped': { optimizer: adamw, wsam: { rho: 0.1, gamma: 0.9 }, clipGradNorm: 0.1 },
  'wsam, accumulated': {
    optimizer: sgd(1 / 16),
    wsam: { rho: 0.1, gamma: 0.5 },
    clipGradNorm: 0.1,
    accumulate: 2,
  },
};

const SHAPES: Record<string, number[]> = { w1: [4, 5], b1: [5], w2: [5, 3], b2: [3] };
const numbers = (count: number, of: (i: number) => number) => Array.from({ length: count }, (_, i) => of(i));
const floats = (dtype: FloatType, dims: number[], of: (i: number) => number) => {
  const values = numbers(
    dims.reduce((n, d) => n * d, 1),
    of,
  );
  return Tensor.from(
    dtype,
    dims,
    dtype === 'float64' ? Float64Array.from(values) : Float32Array.from(values),
  );
};

/** That of `perturb-weights.py`. */
function network(dtype: FloatType): Model {
  const s = new Sketch();
  const weight = (name: string) =>
    s.weight(
      name,
      floats(dtype, SHAPES[name]!, i => 0.5 * Math.cos(2.3 * i + 2 + name.charCodeAt(1))),
    );
  const x = s.input('x', ['batch', 4], dtype);
  const hidden = s.add('Add', [s.add('MatMul', [x, weight('w1')], 'm1'), weight('b1')], 'h');
  const product = s.add('MatMul', [s.add('Tanh', [hidden], 'a'), weight('w2')], 'm2');
  return s.model([s.add('Add', [product, weight('b2')], 'logits')]);
}

const batchOf = (t: number, dtype: FloatType): Feeds => ({
  x: floats(dtype, [6, 4], i => Math.sin(1.3 * t + 0.7 * i + 0.01 * i * i)),
  target: Tensor.from(
    'int64',
    [6],
    BigInt64Array.from(
      numbers(6, n => (2 * n + t) % 3),
      BigInt,
    ),
  ),
});

async function trainerOf(model: Model, options: InjectOptions): Promise<Trainer> {
  const { model: injected } = await inject(model, { loss: LOSS, ...options }, sessionShapes);
  return Trainer.create(decodeModel(encodeModel(injected)));
}

/** The parameters after so many steps, and the loss of each. */
async function trained(model: Model, options: InjectOptions, batches: readonly Feeds[]) {
  const trainer = await trainerOf(model, options);
  const losses: number[] = [];
  for (const batch of batches) losses.push((await trainer.step(batch)).loss);
  const state = new Map([...trainer.state].map(([name, t]) => [name, t.numbers()]));
  await trainer.release();
  return { state, losses };
}

describe.each(['float64', 'float32'] as const)('30 steps in %s are those of PyTorch', dtype => {
  it.each(Object.keys(PARITY))('%s', async name => {
    const options = PARITY[name]!;
    const batches = numbers(30 * (options.accumulate ?? 1), t => t).map(t => batchOf(t, dtype));
    const { state } = await trained(network(dtype), options, batches);
    for (const [param, expected] of Object.entries(RECORDED[name]!))
      for (const [i, x] of state.get(param)!.entries())
        expect(Math.abs(x - expected[i]!), `${param}[${i}]`).toBeLessThan(
          (dtype === 'float64' ? 1e-10 : 1e-5) * Math.max(1, Math.abs(expected[i]!)),
        );
  });
});

const batches = (count: number): Feeds[] =>
  numbers(count, k => k).map(k => Object.fromEntries(mlpData(16, k + 1)));
const optimizer = { name: 'sgd', lr: 0.1 } as const;

describe('what both passes share', () => {
  it('is the mask of a dropout: in a ball of no size, the step is that of the optimizer alone', async () => {
    const model = () => normalized({ dropout: true });
    const plain = await trained(model(), { optimizer, seed: 3 }, batches(4));
    for (const ball of [{ sam: { rho: 1e-9 } }, { wsam: { rho: 1e-9, gamma: 0.5 } }]) {
      const other = await trained(model(), { optimizer, seed: 3, ...ball }, batches(4));
      for (const [name, values] of plain.state)
        for (const [i, x] of other.state.get(name)!.entries())
          expect(x, `${name}[${i}]`).toBeCloseTo(values[i]!, 5);
    }
  });

  it('is one update of running statistics, with those of the unperturbed weights', async () => {
    const [plain, sharp] = await Promise.all(
      [{}, { sam: { rho: 0.5 } }].map(ball => trained(normalized(), { optimizer, ...ball }, batches(1))),
    );
    for (const name of ['bn.mean', 'bn.var'])
      expect(sharp!.state.get(name), name).toEqual(plain!.state.get(name));
    expect(sharp!.state.get('fc1.weight')).not.toEqual(plain!.state.get('fc1.weight'));
    expect(sharp!.losses).toEqual(plain!.losses);
  });
});

it.each(['sam', 'wsam'] as const)('%s of recomputed activations is the same', async kind => {
  const options: InjectOptions = { optimizer, [kind]: { rho: 0.3 } };
  const [plain, again] = await Promise.all(
    [{}, { checkpointActivations: 2 }].map(rest => trained(mlp(), { ...options, ...rest }, batches(3))),
  );
  for (const [name, values] of plain!.state)
    for (const [i, x] of again!.state.get(name)!.entries()) expect(x, name).toBeCloseTo(values[i]!, 6);
});

/** Rows of a table, some of them twice in a batch. */
function embedding(): { model: Model; batch: Feeds } {
  const s = new Sketch();
  const ids = s.input('ids', ['batch', 2], 'int64');
  const looked = s.add('Gather', [s.weight('table', [9, 4]), ids], 'looked', { axis: 0 });
  const flat = s.add('Reshape', [looked, s.weight('shape', Tensor.ints([-1, 8]))], 'flat');
  const logits = s.add(
    'Gemm',
    [s.add('Tanh', [flat], 'a'), s.weight('w', [8, 3]), s.weight('b', [3])],
    'logits',
  );
  const rows = [1, 4, 4, 7, 1, 1, 2, 5];
  return {
    model: s.model([logits]),
    batch: {
      ids: Tensor.from('int64', [4, 2], BigInt64Array.from(rows, BigInt)),
      target: Tensor.from('int64', [4], BigInt64Array.from([0, 1, 2, 1], BigInt)),
    },
  };
}

it.each([false, true])(
  'perturbs only looked-up rows, each by its whole gradient (adaptive: %s)',
  async adaptive => {
    const { batch } = embedding();
    const options: InjectOptions = { optimizer, sam: { rho: 0.3, adaptive } };
    const run = (rest: InjectOptions) =>
      trained(embedding().model, { ...options, ...rest }, [batch, batch, batch]);
    const [whole, lazy] = await Promise.all([run({}), run({ lazyRows: ['table'] })]);
    for (const [name, values] of whole!.state)
      for (const [i, x] of lazy!.state.get(name)!.entries())
        expect(x, `${name}[${i}]`).toBeCloseTo(values[i]!, 6);
  },
);

it.each(['sam', 'wsam'] as const)('%s trains in 16 bits', async kind => {
  const options: InjectOptions = { optimizer, [kind]: { rho: 0.3 } };
  const exact = await trained(mlp(), options, batches(6));
  const half = await trained(mlp(), { ...options, precision: 'fp16' }, batches(6));
  for (const [i, loss] of half.losses.entries()) expect(loss).toBeCloseTo(exact.losses[i]!, 2);
});

it('wsam moves z of a Schedule-Free optimizer: by half of the sharpness, it is sam', async () => {
  for (const asked of [
    { optimizer: { name: 'schedule-free-sgd', lr: 0.5, warmupSteps: 3 } },
    { optimizer, scheduleFree: { momentum: 0.8 } },
  ] satisfies InjectOptions[]) {
    const [sam, wsam, none] = await Promise.all(
      [{ sam: { rho: 0.3 } }, { wsam: { rho: 0.3, gamma: 0.5 } }, {}].map(ball =>
        trained(mlp(), { ...asked, ...ball }, batches(4)),
      ),
    );
    for (const [name, values] of sam!.state)
      for (const [i, x] of wsam!.state.get(name)!.entries()) expect(x, name).toBeCloseTo(values[i]!, 5);
    expect(sam!.state.get('fc1.weight_z')).not.toEqual(none!.state.get('fc1.weight_z'));
  }
});

it('wsam adds a step of d times lr to that of Prodigy', async () => {
  const [one, d0, lr] = [batches(1), 0.25, 0.5];
  const run = async (options: InjectOptions) => (await trained(mlp(), options, one)).state;
  const by = { optimizer: { name: 'sgd', lr: 1 } } as const;
  const prodigy = { optimizer: { name: 'prodigy', lr, d0 } } as const;
  const [plain, sharp, own, weighted] = await Promise.all([
    run(by),
    run({ ...by, sam: { rho: 0.3 } }),
    run(prodigy),
    run({ ...prodigy, wsam: { rho: 0.3, gamma: 0.75 } }),
  ]);
  for (const name of ['fc1.weight', 'fc2.bias'])
    for (const [i, x] of weighted.get(name)!.entries()) {
      const difference = plain.get(name)![i]! - sharp.get(name)![i]!;
      expect(x, `${name}[${i}]`).toBeCloseTo(own.get(name)![i]! - d0 * lr * 3 * difference, 5);
      expect(Math.abs(difference)).toBeGreaterThan(0);
    }
});

it('sam perturbs the point at which Schedule-Free takes its gradients', async () => {
  const asked = { optimizer: { name: 'schedule-free-sgd', lr: 0.5 } } as const;
  const [plain, tiny, sharp] = await Promise.all(
    [{}, { sam: { rho: 1e-9 } }, { sam: { rho: 0.3 } }].map(ball =>
      trained(mlp(), { ...asked, ...ball }, batches(4)),
    ),
  );
  for (const [name, values] of plain!.state)
    for (const [i, x] of tiny!.state.get(name)!.entries()) expect(x, name).toBeCloseTo(values[i]!, 5);
  expect(sharp!.state.get('fc1.weight')).not.toEqual(plain!.state.get('fc1.weight'));
});

describe.each(['sam', 'wsam'] as const)('%s is refused with', kind => {
  it.each([
    ['dpSgd', { dpSgd: { clip: 1, noise: 1 } }],
    ['unfreezeEvery', { unfreezeEvery: { updates: 3 } }],
    ['syncBatchNorm', { syncBatchNorm: true }],
    ['adahessian', { optimizer: { name: 'adahessian' } }],
    ...(kind === 'sam' ? [['wsam', { wsam: { rho: 0.1 } }]] : []),
  ] as [string, InjectOptions][])('%s', async (name, options) => {
    const asked = { loss: LOSS, [kind]: { rho: 0.1 }, ...options };
    await expect(inject(mlp(), asked, sessionShapes)).rejects.toThrow(
      `${kind} cannot be combined with ${name}`,
    );
  });
});
