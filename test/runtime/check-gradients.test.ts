import { expect, it } from 'vitest';
import type { Model } from '../../src/graph/ir.js';
import { Tensor } from '../../src/graph/tensor.js';
import type { GradientOptions } from '../../src/passes/gradients.js';
import { checkGradients } from '../../src/runtime/check-gradients.js';
import { gradients } from '../../src/runtime/gradients.js';
import type { Feeds } from '../../src/runtime/session.js';
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

it('refuses dropout', async () => {
  const random = { ...options, dropout: 'train' } as const;
  await expect(checkGradients(mlp(), random, feeds, { gradients: new Map() })).rejects.toThrow('dropout off');
});
