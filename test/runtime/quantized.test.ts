/** Quantized weights whose scales train: what the runtime's kernels make of them in training, in validation and in checks. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { loadModel } from '../../src/graph/files.js';
import type { Model, Value } from '../../src/graph/ir.js';
import { Tensor } from '../../src/graph/tensor.js';
import { inject } from '../../src/passes/inject.js';
import { checkGradients } from '../../src/runtime/check-gradients.js';
import { exportFile } from '../../src/runtime/export.js';
import { gradients } from '../../src/runtime/gradients.js';
import { sessionShapes } from '../../src/runtime/session.js';
import { Trainer } from '../../src/runtime/train/trainer.js';
import { floatsOf, spread } from '../ops/vjp.js';
import { Sketch } from '../sample.js';

const [K, N, BLOCK] = [64, 8, 32];

const bytes = (dims: readonly number[], dtype: 'uint8' | 'int4' = 'uint8') => {
  const count = dims.reduce((n, d) => n * d, 1) / (dtype === 'int4' ? 2 : 1);
  return new Tensor(
    dtype,
    dims,
    Uint8Array.from({ length: count }, (_, i) => (97 * i + 31) % 256),
  );
};

/** x @ w of four bits, as the generation tools write it: computed on activations of 8 bits, says `accuracy_level` 4. */
function blocks(s: Sketch, x: Value, name: string): Value {
  const scales = s.weight(`${name}.scales`, spread([N, K / BLOCK], [0.01, 0.03], name.length));
  const inputs = [x, s.weight(`${name}.q4`, bytes([N, K / BLOCK, BLOCK / 2])), scales];
  const y = s.add('MatMulNBits', inputs, name, { K, N, bits: 4, block_size: BLOCK, accuracy_level: 4 });
  s.graph.nodes.at(-1)!.domain = 'com.microsoft';
  return y;
}

/** The same as ONNX's own operators, which the runtime fuses to that one. */
function dequantized(s: Sketch, x: Value, name: string): Value {
  const scales = s.weight(`${name}.scales`, spread([K / BLOCK, N], [0.01, 0.03], name.length));
  const inputs = [s.weight(`${name}.q4`, bytes([K, N], 'int4')), scales];
  const w = s.add('DequantizeLinear', inputs, `${name}_w`, { axis: 0, block_size: BLOCK });
  return s.add('MatMul', [x, w], name);
}

/** x[batch,64] -> Tanh((x * v) @ w) @ u -> y[batch,3]. */
function net(product: typeof blocks): Model {
  const s = new Sketch();
  const scaled = s.add('Mul', [s.input('x', ['batch', K]), s.weight('v', [K])], 'scaled');
  const h = s.add('Tanh', [product(s, scaled, 'h')], 't');
  return made(s, s.add('MatMul', [h, s.weight('u', [N, 3])], 'y'));
}

function made(s: Sketch, y: Value): Model {
  const model = s.model([y], 21);
  model.opsetImports.set('com.microsoft', 1);
  model.irVersion = 10;
  return model;
}

const feeds = { x: spread([6, K], [-1, 1]), target: spread([6, 3], [-1, 1], 5) };
const loss = { kind: 'mse' } as const;

/** The losses of a step of no length and of the validation after it. */
async function losses(model: Model, options: object = {}, fed: Record<string, Tensor> = feeds) {
  const { model: step } = await inject(model, { loss, optimizer: { lr: 1e-12 }, ...options }, sessionShapes);
  const trainer = await Trainer.create(step);
  const trained = (await trainer.step(fed)).loss;
  const validated = (await trainer.evaluate([{ inputs: fed, size: 6 }])).loss;
  await trainer.release();
  return { trained, validated, step };
}

async function passes(model: Model, options: object = {}, fed: Record<string, Tensor> = feeds) {
  const wanted = { ...('cotangents' in options ? {} : { loss }), ...options };
  const found = await gradients(model, wanted, fed);
  return Object.fromEntries(
    (await checkGradients(model, wanted, fed, found)).map(c => [c.name, c.unchecked ?? c.passed]),
  );
}

describe.each([
  ['MatMulNBits at accuracy_level 4', blocks],
  ['weights of four bits behind DequantizeLinear', dequantized],
])('%s', (_, product) => {
  it('has the same loss in validation as in training', async () => {
    const { trained, validated } = await losses(net(product));
    expect(Math.abs(validated - trained) / trained).toBeLessThan(1e-6);
  });
  it('has gradients that finite differences confirm', async () => {
    const found = await passes(net(product));
    expect(found).toMatchObject({ v: true, u: true });
    expect(Object.values(found)).not.toContain(false);
    const cotangents = { x: feeds.x, y_cotangent: feeds.target };
    const options = { cotangents: ['y'], wrt: ['x', 'h.scales'] };
    expect(await passes(net(product), options, cotangents)).toEqual({ x: true, 'h.scales': true });
  });
});

it('weights in blocks within a branch are computed alike too', async () => {
  const s = new Sketch();
  const x = s.input('x', ['batch', K]);
  const then = new Sketch();
  then.model([blocks(then, x, 'h')]);
  for (const [value, tensor] of then.graph.initializers) s.graph.initializers.set(value, tensor);
  then.graph.initializers.clear();
  const otherwise = new Sketch();
  otherwise.model([otherwise.add('MatMul', [x, s.weight('v', [K, N])], 'xv')]);
  const most = s.add('ReduceMax', [x], 'most', { keepdims: 0 });
  const h = s.add('If', [s.add('Less', [most, s.weight('bound', floatsOf([2], []))], 'below')], 'branched', {
    then_branch: then.graph,
    else_branch: otherwise.graph,
  });
  const model = made(s, s.add('MatMul', [h, s.weight('u', [N, 3])], 'y'));
  const { trained, validated } = await losses(model, { train: ['h.scales', 'u'] });
  expect(Math.abs(validated - trained) / trained).toBeLessThan(1e-6);
});

it('the exported file computes as it did before', async () => {
  const { step } = await losses(net(blocks));
  const folder = await mkdtemp(join(tmpdir(), 'agd-'));
  await exportFile(step, join(folder, 'model.onnx'));
  const exported = await loadModel(join(folder, 'model.onnx'));
  await rm(folder, { recursive: true });
  const node = exported.graph.nodes.find(n => n.opType === 'MatMulNBits')!;
  expect(node.attrs.get('accuracy_level')).toMatchObject({ value: 4 });
});

describe('a model that rounds its weights when it runs', () => {
  /** x @ rounded(w) + b. */
  const rounded = () => {
    const s = new Sketch();
    const scale = s.weight('scale', floatsOf([0.07], []));
    const q = s.add('QuantizeLinear', [s.weight('w', [4, 3]), scale], 'q');
    const w = s.add('DequantizeLinear', [q, scale], 'w_rounded');
    const y = s.add('MatMul', [s.input('x', ['batch', 4]), w], 'p');
    return s.model([s.add('Add', [y, s.weight('b', [3])], 'y')]);
  };
  const fed = { ...feeds, x: spread([6, 4], [-1, 1]) };
  it('has no finite differences where the gradient passes straight through, and the others are checked', async () =>
    expect(await passes(rounded(), { straightThrough: true, freeze: ['scale'] }, fed)).toEqual({
      w: 'straight-through',
      b: true,
    }));
  it('is not called wrong in what does not pass the rounding', async () =>
    expect(await passes(rounded(), { train: ['b'] }, fed)).toEqual({ b: true }));
});

it('a convolution between integers computes its step and its validation in floating point', async () => {
  const s = new Sketch();
  const rounded = (v: Value, name: string, zero: number) => {
    const zeroPoint = new Tensor('uint8', [], Uint8Array.of(zero));
    const how = [s.weight(`${name}.scale`, floatsOf([0.01], [])), s.weight(`${name}.zero`, zeroPoint)];
    return s.add('DequantizeLinear', [s.add('QuantizeLinear', [v, ...how], `${name}.q`), ...how], name);
  };
  const stored = (dtype: 'int8' | 'int32', dims: readonly number[], size: number, scale: number) => {
    const levels = Uint8Array.from({ length: size }, (_, i) => (dtype === 'int8' ? (97 * i + 31) % 256 : 0));
    const name = dtype === 'int8' ? 'kernel' : 'bias';
    const parts = [new Tensor(dtype, dims, levels), floatsOf([scale], []), Tensor.filled(dtype, [], 0)];
    return s.add(
      'DequantizeLinear',
      parts.map((part, i) => s.weight(`${name}${i}`, part)),
      name,
    );
  };
  const inputs = [
    rounded(s.input('x', ['batch', 1, 6, 6]), 'image', 128),
    stored('int8', [6, 1, 3, 3], 54, 0.003),
    stored('int32', [6], 24, 0.00003),
  ];
  const h = rounded(s.add('Relu', [s.add('Conv', inputs, 'conv')], 'relu'), 'h', 0);
  const pooled = s.add('MaxPool', [h], 'pool', { kernel_shape: [2, 2], strides: [2, 2] });
  const flat = s.add('Flatten', [rounded(pooled, 'pooled', 0)], 'flat');
  const y = s.add('MatMul', [flat, s.weight('head', [24, 3])], 'y');
  const images = { x: spread([6, 1, 6, 6], [-1, 1]), target: feeds.target };
  const { trained, validated } = await losses(made(s, y), {}, images);
  expect(Math.abs(validated - trained) / trained).toBeLessThan(1e-6);
});
