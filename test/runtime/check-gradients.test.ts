import { describe, expect, it } from 'vitest';
import type { Model } from '../../src/graph/ir.js';
import { Tensor } from '../../src/graph/tensor.js';
import type { GradientOptions } from '../../src/passes/differentiate.js';
import { inject } from '../../src/passes/inject.js';
import { checkGradients } from '../../src/runtime/check-gradients.js';
import { gradients } from '../../src/runtime/gradients.js';
import { type Feeds, sessionShapes } from '../../src/runtime/session.js';
import { Trainer } from '../../src/runtime/train/trainer.js';
import { spread } from '../ops/vjp.js';
import { mlp, mlpData, Sketch } from '../sample.js';

const options = { loss: { kind: 'cross-entropy' } } as const;
const feeds = Object.fromEntries(mlpData(8));

/** The names that fail where one gradient is multiplied by `factor`. */
async function failing(
  model: Model,
  wanted: GradientOptions,
  fed: Feeds,
  name = '',
  factor = 1,
): Promise<string[]> {
  const found = await gradients(model, wanted, fed);
  const changed = [...found.gradients].map(([n, t]): [string, Tensor] => [
    n,
    n === name
      ? Tensor.from(
          'float32',
          t.dims,
          Float32Array.from(t.numbers(), x => factor * x),
        )
      : t,
  ]);
  const checks = await checkGradients(model, wanted, fed, { gradients: new Map(changed) });
  expect(checks.map(c => c.name)).toEqual(changed.map(([n]) => n));
  return checks.filter(c => !c.passed).map(c => c.name);
}

it('passes right gradients and tells wrong ones', async () => {
  expect(await failing(mlp(), options, feeds)).toEqual([]);
  expect(await failing(mlp(), options, feeds, 'fc2.bias', 1.1)).toEqual(['fc2.bias']);
  expect(await failing(mlp(), options, feeds, 'fc1.weight', -1)).toEqual(['fc1.weight']);
});

it('checks vector-Jacobian products', async () => {
  const fed = { x: feeds.x!, logits_cotangent: spread([8, 3]) };
  const product = { cotangents: ['logits'], wrt: ['x', 'fc1.*'] };
  expect(await failing(mlp(), product, fed)).toEqual([]);
  expect(await failing(mlp(), product, fed, 'x', 1.05)).toEqual(['x']);
});

/** A net of many Relus on few samples, and of a weight whose gradient is tiny beside the loss. */
function kinked(): Model {
  const s = new Sketch();
  const h = s.add('MatMul', [s.input('x', ['batch', 4]), s.weight('w1', [4, 64])], 'h');
  const y = s.add('MatMul', [s.add('Relu', [h], 'r'), s.weight('w2', [64, 3])], 'y');
  const small = s.add(
    'Mul',
    [s.weight('tiny', [3]), s.weight('scale', Tensor.filled('float32', [3], 1e-4))],
    'small',
  );
  return s.model([s.add('Add', [y, small], 'logits')]);
}

it('knows kinks and rounding from mistakes', async () => {
  const frozen = { ...options, freeze: ['scale'] };
  expect(await failing(kinked(), frozen, feeds)).toEqual([]);
  expect(await failing(kinked(), frozen, feeds, 'w1', 1.1)).toEqual(['w1']);
  expect(await failing(kinked(), frozen, feeds, 'tiny', 1.5)).toEqual(['tiny']);
});

it('expects no gradient of what is not read', async () => {
  const model = mlp();
  const s = new Sketch();
  model.graph.inputs.push(s.input('unused', [2]));
  const fed = { ...feeds, unused: spread([2]) };
  expect(await failing(model, { ...options, wrt: ['unused'] }, fed)).toEqual([]);
  const one = new Map([['unused', Tensor.filled('float32', [2], 1)]]);
  const [check] = await checkGradients(model, { ...options, wrt: ['unused'] }, fed, { gradients: one });
  expect(check!.passed).toBe(false);
});

describe('random nodes', () => {
  /** Noise in the middle, and dropout. */
  const noisy = () => {
    const s = new Sketch();
    const x = s.input('x', ['batch', 4]);
    const mu = s.add('MatMul', [x, s.weight('w', [4, 6])], 'mu');
    const noise = s.add('Mul', [s.add('RandomNormalLike', [mu], 'e'), s.weight('s', [6])], 'noise');
    const z = s.add('Add', [mu, noise], 'z');
    const ratio = s.weight('ratio', Tensor.filled('float32', [], 0.4));
    const on = s.weight('training', Tensor.filled('bool', [], 1));
    const dropped = s.add('Dropout', [z, ratio, on], 'dropped');
    return s.model([s.add('MatMul', [dropped, s.weight('u', [6, 3])], 'logits')]);
  };
  const all = { freeze: ['ratio'], seed: 7 };
  it.each(['train', 'eval'] as const)('draw the same in all runs, dropout: %s', async dropout => {
    const wanted = { ...options, ...all, dropout };
    expect(await failing(noisy(), wanted, feeds)).toEqual([]);
    expect(await failing(noisy(), wanted, feeds, 's', -1)).toEqual(['s']);
  });
  it('draw the same for vector-Jacobian products', async () => {
    const fed = { x: feeds.x!, logits_cotangent: spread([8, 3]) };
    const product = { cotangents: ['logits'], wrt: ['x', 'w', 's', 'u'], seed: 7 };
    expect(await failing(noisy(), product, fed)).toEqual([]);
    expect(await failing(noisy(), product, fed, 'w', 1.1)).toEqual(['w']);
  });
  it('have gradients of the same mode as in training', async () => {
    const { loss } = await gradients(noisy(), options, feeds);
    const inMode = async (dropout: 'train' | 'eval') =>
      (await gradients(noisy(), { ...options, dropout }, feeds)).loss;
    expect(loss).toBe(await inMode('train'));
    expect(loss).not.toBe(await inMode('eval'));
  });
});

it('takes batch normalization in the mode of training', async () => {
  const s = new Sketch();
  const h = s.add('MatMul', [s.input('x', ['batch', 4]), s.weight('w', [4, 3])], 'h');
  const statistics = [s.weight('mean', [3]), s.weight('var', Tensor.filled('float32', [3], 4))];
  const inputs = [h, s.weight('scale', [3]), s.weight('bias', [3]), ...statistics];
  const model = s.model([s.add('BatchNormalization', inputs, 'logits')]);
  const inMode = async (batchNorm?: 'train' | 'eval') =>
    (await gradients(model, { ...options, batchNorm }, feeds)).loss;
  expect(await inMode()).toBe(await inMode('train'));
  expect(await inMode()).not.toBe(await inMode('eval'));
  expect(await failing(model, options, feeds)).toEqual([]);
  const { model: step } = await inject(model, options, sessionShapes);
  const trainer = await Trainer.create(step);
  expect((await trainer.step(feeds)).loss).toBeCloseTo((await inMode())!, 6);
  await trainer.release();
});
