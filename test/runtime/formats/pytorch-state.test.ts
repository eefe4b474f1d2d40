import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { Tensor } from '../../../src/graph/tensor.js';
import type { OptimizerSpec } from '../../../src/ops/optimizers/index.js';
import { inject } from '../../../src/passes/inject.js';
import type { InjectOptions } from '../../../src/passes/options.js';
import { readSafetensors } from '../../../src/runtime/data/safetensors.js';
import { toPytorch } from '../../../src/runtime/formats/pytorch-state.js';
import { sessionShapes } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { floatsOf } from '../../ops/vjp.js';
import { mlp, mlpData } from '../../sample.js';

/**
 * What PyTorch 2.13 with the authors' AGD, or with its own optimizers, made of `mlp()` and the 16 samples of
 * `mlpData(16)`, all in one batch, after so many steps with the options below: each parameter, and beside it
 * `{f"{name}.{key}": value for key, value in optimizer.state[p].items() if value is not None}`. `pytorch/make.py` wrote it.
 */
const checkpoint = async (steps: 10 | 20, name = 'agd') => {
  const path = fileURLToPath(new URL(`pytorch/${name}-${steps}.safetensors`, import.meta.url));
  return (await readSafetensors(path)).tensors;
};
const OPTIONS: InjectOptions = {
  loss: { kind: 'cross-entropy' },
  optimizer: { lr: 1e-2 },
  groups: [
    { match: 'fc1.*', options: { amsgrad: true, weightDecay: 0.1 } },
    { match: 'fc2.*', options: { win: true, weightDecay: 0.05, lr: 3e-3 } },
  ],
};

const RIVALS: OptimizerSpec[] = [
  { name: 'sgd', lr: 0.1, momentum: 0.9, dampening: 0.1, weightDecay: 0.01 },
  { name: 'adam', lr: 1e-2, weightDecay: 0.1 },
  { name: 'adamw', lr: 1e-2, betas: [0.5, 0.9] },
  { name: 'amsgrad', lr: 1e-2 },
  { name: 'radam', lr: 1e-2, weightDecay: 0.1, decoupledWeightDecay: true },
];

const trainer = async (options: Partial<InjectOptions> = {}) =>
  Trainer.create((await inject(mlp(), { ...OPTIONS, ...options }, sessionShapes)).model);
const batch = Object.fromEntries(mlpData(16));

const norm = (x: readonly number[]) => Math.hypot(...x);
const minus = (a: Tensor, b: Tensor) => a.numbers().map((x, i) => x - b.numbers()[i]!);

it.each<[string, Partial<InjectOptions>]>([
  ['agd', OPTIONS],
  ...RIVALS.map(optimizer => [optimizer.name!, { optimizer, groups: [] }] as [string, InjectOptions]),
])('goes on where PyTorch stopped, and hands back what PyTorch would have: %s', async (name, options) => {
  const [before, after] = [await checkpoint(10, name), await checkpoint(20, name)];
  const t = await trainer(options);
  expect(t.restore(before)).toEqual([]);
  // PyTorch's SGD counts no steps.
  const counted = before.has('fc1.bias.step');
  expect(t.stepCount).toBe(counted ? 10 : 1);
  for (let k = 0; k < 10; k++) await t.step(batch);
  const ours = t.checkpoint();
  const kept = [...ours.keys()].filter(key => counted || !key.endsWith('.step'));
  expect(kept.sort()).toEqual([...after.keys()].sort());
  for (const [name, want] of after) {
    const got = ours.get(name)!;
    expect([got.dtype, got.dims], name).toEqual([want.dtype, want.dims]);
    expect(norm(minus(got, want)) / norm(minus(want, before.get(name)!)), name).toBeLessThan(1e-4);
  }
  await t.release();
});

it('is the same state after it was handed out and taken back', async () => {
  const [t, other] = [await trainer({ ema: 0.9 }), await trainer({ ema: 0.9 })];
  for (let k = 0; k < 3; k++) await t.step(batch);
  other.restore(t.checkpoint());
  for (const [name, tensor] of t.state)
    for (const [i, x] of other.state.get(name)!.numbers().entries())
      expect(Math.abs(x - tensor.numbers()[i]!), name).toBeLessThanOrEqual(2e-7 * Math.abs(x));
  await t.release();
  await other.release();
});

it('can be taken before the first step', async () => {
  const [t, other] = [await trainer(), await trainer()];
  const untouched = t.checkpoint();
  expect(untouched.get('fc1.bias.exp_avg')!.numbers()).toEqual(Array(8).fill(0));
  await other.step(batch);
  other.restore(untouched);
  for (const [name, tensor] of t.state) expect(other.state.get(name)!.bytes, name).toEqual(tensor.bytes);
  await t.release();
  await other.release();
});

it('begins averages as the weights, and sums of gradients and rounding at 0', async () => {
  const t = await trainer({ ema: 0.9, accumulate: 2, compensate: true });
  for (const _ of [1, 2]) await t.step(batch);
  expect(t.state.get('fc1.bias_carry')!.numbers()).not.toEqual(Array(8).fill(0));
  const tensors = await checkpoint(10);
  t.restore(tensors);
  expect(t.state.get('fc1.bias_ema')).toEqual(tensors.get('fc1.bias'));
  for (const zero of ['grad_mean', 'carry'])
    expect(t.state.get(`fc1.bias_${zero}`)!.numbers()).toEqual(Array(8).fill(0));
  expect(t.batchCount).toBe(20);
  await t.release();
});

it('says what does not fit', async () => {
  const t = await trainer();
  const tensors = await checkpoint(10);
  const changed = (name: string, tensor?: Tensor) => {
    const copy = new Map(tensors);
    if (tensor) copy.set(name, tensor);
    else copy.delete(name);
    return () => t.restore(copy);
  };
  expect(changed('fc2.bias.z')).toThrow("The checkpoint lacks 'fc2.bias.z'");
  expect(changed('fc2.bias.step')).toThrow("The checkpoint lacks 'fc2.bias.step'");
  expect(changed('fc2.bias', floatsOf([1, 2]))).toThrow(
    "'fc2.bias' has shape [2] in the checkpoint, but [3] in the model.",
  );
  expect(changed('fc2.bias.step', Tensor.filled('float32', [], 9))).toThrow('at different steps (10, 9)');
  expect(changed('other', floatsOf([1]))()).toEqual(['other']);
  await t.release();
});

it('refuses names that coincide in PyTorch', async () => {
  const t = await trainer();
  const { description, state } = t;
  const [first, ...others] = description.parameters;
  const parameters = [{ ...first!, name: 'fc1.bias' }, ...others.map(p => ({ ...p, name: 'fc1.bias' }))];
  expect(() => toPytorch({ ...description, parameters }, state)).toThrow(
    'Two tensors of the state would have the same name in PyTorch: rename a parameter.',
  );
  await t.release();
});
