/** What a step computes in 16 bits, and what in float32. */
import { readFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { isHalf } from '../../../src/graph/dtype.js';
import type { Model } from '../../../src/graph/ir.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { PRECISION_RULES } from '../../../src/passes/differentiate/precision-rules.js';
import { inject } from '../../../src/passes/inject.js';
import { parseQat } from '../../../src/passes/options/quantization.js';
import type { InjectOptions } from '../../../src/passes/options.js';
import { convert } from '../../../src/runtime/data/convert.js';
import { trainedModel } from '../../../src/runtime/export.js';
import { sessionShapes } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { floatsOf, ints, spread } from '../../ops/vjp.js';
import { mlp, Sketch } from '../../sample.js';

type Float = 'float32' | 'float16' | 'float64';
const LOSS = { loss: { kind: 'cross-entropy' } } as const;

/** A token model: embedding, residual stream, normalization, attention with a mask, and a head. */
function transformer(dtype: Float = 'float32'): Model {
  const s = new Sketch();
  const weight = (name: string, dims: number[]) =>
    s.weight(name, convert(convert(spread(dims, [-0.5, 0.5], name.length), 'float16'), dtype));
  const constant = (name: string, value: number) => s.weight(name, Tensor.filled(dtype, [], value));
  const rows = s.add('Gather', [weight('table', [7, 4]), s.input('ids', ['n', 3], 'int64')], 'rows');
  const normed = s.add('LayerNormalization', [rows, weight('gain', [4]), weight('shift', [4])], 'normed');
  const q = s.add('MatMul', [normed, weight('wq', [4, 4])], 'q');
  const turned = s.add('Transpose', [q], 'turned', { perm: [0, 2, 1] });
  const scores = s.add('MatMul', [q, turned], 'scores');
  const scaled = s.add('Div', [scores, constant('two', 2)], 'scaled');
  const visible = s.weight('visible', Tensor.from('bool', [3, 3], Uint8Array.of(1, 0, 0, 1, 1, 0, 1, 1, 1)));
  const masked = s.add(
    'Where',
    [visible, scaled, constant('lowest', dtype === 'float32' ? -1e9 : -6e4)],
    'masked',
  );
  const shares = s.add('Softmax', [masked], 'shares');
  const mixed = s.add('MatMul', [shares, normed], 'mixed');
  const residual = s.add('Add', [rows, mixed], 'residual');
  const hidden = s.add('MatMul', [residual, weight('w1', [4, 8])], 'hidden');
  const active = s.add('Relu', [s.add('Add', [hidden, weight('b1', [8])], 'biased')], 'active');
  const mean = s.add('ReduceMean', [active, s.weight('axes', ints([1]))], 'mean', { keepdims: 0 });
  return s.model([s.add('Gemm', [mean, weight('head', [8, 3])], 'y')]);
}

/** Convolution, batch normalization and pooling. */
function convolution(): Model {
  const s = new Sketch();
  const h = s.add('Conv', [s.input('x', ['n', 2, 6, 6]), s.weight('kernel', [4, 2, 3, 3])], 'h');
  const [gain, shift, mean] = ['gain', 'shift', 'mean'].map(name => s.weight(name, [4]));
  const variance = s.weight('var', Tensor.filled('float32', [4], 1));
  const normed = s.add('BatchNormalization', [h, gain!, shift!, mean!, variance], 'normed');
  const pool = s.add('MaxPool', [s.add('Relu', [normed], 'positive')], 'pool', { kernel_shape: [2, 2] });
  const flat = s.add('Flatten', [s.add('GlobalAveragePool', [pool], 'average')], 'flat');
  return s.model([s.add('Gemm', [flat, s.weight('head', [4, 3])], 'y')]);
}

const injected = async (model: Model, options: Partial<InjectOptions>) =>
  (await inject(model, { ...LOSS, ...options } as InjectOptions, sessionShapes)).model;

/** The element types that the forward nodes compute in, by the names of their nodes. */
function computes({ graph }: Model): Record<string, string> {
  const named = graph.nodes.filter(node => node.name.endsWith('_node') && node.opType !== 'Cast');
  return Object.fromEntries(
    named.map(node => [
      node.name.slice(0, -5),
      node.inputs.find(v => v?.dtype === 'float32' || isHalf(v?.dtype))?.dtype ?? '',
    ]),
  );
}

const QAT = parseQat('int8');
const [wide, half, brain] = ['float32', 'float16', 'bfloat16'];
const batch = { ids: ints([0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4], [4, 3]), target: ints([0, 1, 2, 0]) };

async function losses(model: Model, steps: number, feeds: Record<string, Tensor> = batch) {
  const t = await Trainer.create(model);
  const found: number[] = [];
  for (let i = 0; i < steps; i++) found.push((await t.step(feeds)).loss);
  const [skipped, snapshot] = [t.skippedCount, t.snapshot()];
  await t.release();
  return { found, skipped, snapshot };
}
const worst = (a: readonly number[], b: readonly number[]) =>
  Math.max(...a.map((x, i) => Math.abs(x - b[i]!)));

describe('by rule', () => {
  it('products are float16; embedding, normalization, softmax, reductions and what a mask exceeds are float32', async () => {
    const model = await injected(transformer(), { precision: 'fp16', provider: 'cuda' });
    expect(computes(model)).toEqual({
      ...{ rows: wide, normed: wide, q: half, turned: half, scores: half, scaled: half, masked: wide },
      ...{
        shares: wide,
        mixed: half,
        residual: wide,
        hidden: half,
        biased: half,
        active: half,
        mean: wide,
        y: half,
      },
    });
  });

  it.each(['fp16', 'bf16'] as const)('so are those of a float16 model, in %s', async precision => {
    const model = await injected(transformer('float16'), { precision, provider: 'cuda' });
    const low = precision === 'fp16' ? half : brain;
    expect(computes(model)).toMatchObject({
      normed: wide,
      q: low,
      shares: wide,
      mixed: low,
      mean: wide,
      y: low,
    });
  });

  it('in fp32, a float16 model computes in float32, but looks up rows in its tables', async () => {
    const model = await injected(transformer('float16'), { precision: 'fp32', provider: 'cuda' });
    const { rows, ...others } = computes(model);
    expect([rows, new Set(Object.values(others))]).toEqual([half, new Set([wide])]);
  });

  it('convolutions and pooling are float16 and normalized in float32', async () => {
    const model = await injected(convolution(), { precision: 'fp16', provider: 'cuda' });
    expect(computes(model)).toEqual({
      ...{ h: half, normed: wide, positive: half, pool: half, average: wide, flat: wide, y: half },
    });
  });

  it('convolutions, which operator set 18 does not define for bfloat16, are float32 in bf16', async () => {
    const model = await injected(convolution(), { precision: 'bf16', provider: 'cuda' });
    expect(computes(model)).toMatchObject({ h: wide, pool: wide, y: brain });
  });

  it('gradients of products are Gemm in float32 only, as the CPU has no other kernel of it', async () => {
    const gemms = async (precision: 'fp32' | 'fp16' | 'bf16') => {
      const s = new Sketch();
      const model = s.model([s.add('MatMul', [s.input('x', ['n', 4]), s.weight('w', [4, 3])], 'y')]);
      const { graph } = await injected(model, { precision, provider: 'cuda' });
      return graph.nodes.filter(n => n.opType === 'Gemm').length;
    };
    expect(await gemms('fp32')).toBe(1);
    expect(await gemms('fp16')).toBe(0);
    expect(await gemms('bf16')).toBe(0);
  });

  it('on the CPU, which has no 16-bit kernels, nothing but casts is of 16 bits', async () => {
    for (const precision of ['fp16', 'bf16'] as const) {
      const { graph } = await injected(convolution(), { precision });
      const low = graph.nodes.filter(node => node.outputs.some(v => isHalf(v?.dtype)));
      expect(low.length).toBeGreaterThan(4);
      expect(new Set(low.map(node => node.opType))).toEqual(new Set(['Cast']));
    }
  });
});

it.each<[string, Partial<InjectOptions>, number]>([
  ['fp16', { precision: 'fp16' }, 2e-3],
  ['bf16', { precision: 'bf16' }, 2e-2],
])('%s rounds, and trains as float32 does', async (_, options, tolerance) => {
  const optimizer = { lr: 1e-2 };
  const [want, got] = [
    await losses(await injected(transformer(), { optimizer }), 15),
    await losses(await injected(transformer(), { optimizer, ...options }), 15),
  ];
  expect(worst(got.found, want.found)).toBeLessThan(tolerance);
  expect(got.found[0]).not.toBe(want.found[0]);
  expect(got.skipped).toBe(0);
});

it('a value read in bfloat16 and in float32 trains on the CPU, which has no kernel to add its bfloat16 cotangents', async () => {
  const s = new Sketch();
  const q = s.add('MatMul', [s.input('x', ['n', 4]), s.weight('w', [4, 3])], 'q');
  const y = s.add('Add', [s.add('Neg', [q], 'low'), s.add('Softmax', [q], 'wide')], 'y');
  const feeds = { x: spread([6, 4], [-1, 1], 9), target: ints([0, 1, 2, 0, 1, 2]) };
  const [want, got] = await Promise.all(
    (['fp32', 'bf16'] as const).map(async precision =>
      losses(await injected(s.model([y]), { precision }), 8, feeds),
    ),
  );
  expect(worst(got!.found, want!.found)).toBeLessThan(2e-2);
});

it.each(['fp32', 'fp16', 'bf16', undefined] as const)(
  'a float16 model trained in %s is exported as float16',
  async precision => {
    const optimizer = { name: 'adamw', lr: 1e-2 } as const;
    const want = await losses(await injected(transformer(), { optimizer }), 15);
    const got = await losses(await injected(transformer('float16'), { optimizer, precision }), 15);
    expect(worst(got.found, want.found)).toBeLessThan(precision === 'bf16' ? 2e-2 : 5e-3);
    const { graph } = await trainedModel(got.snapshot);
    const types = [...graph.initializers.values()].map(t => t.dtype).filter(t => t.startsWith('float'));
    expect(new Set(types)).toEqual(new Set([half]));
  },
);

it('a float32 model trained in fp16 is exported as float32, with weights that float16 does not hold', async () => {
  const { snapshot } = await losses(await injected(transformer(), { precision: 'fp16' }), 3);
  const head = [...(await trainedModel(snapshot)).graph.initializers].find(([v]) => v.name === 'head')![1];
  expect(head.dtype).toBe(wide);
  expect(convert(convert(head, 'float16'), 'float32').numbers()).not.toEqual(head.numbers());
});

it.each<[string, Partial<InjectOptions>]>([
  ['accumulation, clipping and averages', { accumulate: 2, clipGradNorm: 0.5, ema: 0.9 }],
  ['recomputed activations', { checkpointActivations: 2 }],
  ['rows of tables', { lazyRows: ['table'] }],
  ['low-rank adapters', { lora: [{ match: ['wq', 'w1'], r: 2 }] } as Partial<InjectOptions>],
  ['frozen layers', { freeze: ['w*', 'table'] }],
])('works with %s', async (_, options) => {
  const optimizer = { lr: 1e-2 };
  for (const dtype of ['float32', 'float16'] as const) {
    const [want, got] = [
      await losses(await injected(transformer(), { optimizer, ...options }), 8),
      await losses(await injected(transformer(dtype), { optimizer, precision: 'fp16', ...options }), 8),
    ];
    expect(worst(got.found, want.found), dtype).toBeLessThan(5e-3);
  }
});

it.each<[string, () => Model, Partial<InjectOptions>, RegExp]>([
  ['float64', doubles, { precision: 'fp16' }, /--precision takes models of float32.*'w' is float64/],
  ['bf16 on WebGPU', mlp, { precision: 'bf16', provider: 'webgpu' }, /WebGPU has no bfloat16/],
  ['a scale in bf16', mlp, { precision: 'bf16', lossScale: 8 }, /Only --precision fp16 scales the loss/],
  ['a window without precision', mlp, { lossScaleWindow: 8 }, /Only --precision fp16 scales the loss/],
  ['private runs', mlp, { precision: 'fp16', dpSgd: { clip: 1 } }, /precision cannot be combined with dpSgd/],
  ['rounded models', mlp, { precision: 'fp16', qat: QAT }, /precision cannot be combined with qat/],
  ['an unknown type', mlp, { precision: 'fp8' } as never, /precision/],
  ['a scale of 0', mlp, { precision: 'fp16', lossScale: 0 }, /lossScale/],
])('refuses %s', async (_, model, options, message) => {
  await expect(injected(model(), options)).rejects.toThrow(message);
});

function doubles(): Model {
  const s = new Sketch();
  const w = s.weight('w', convert(floatsOf([1, 2, 3, 4, 5, 6], [2, 3]), 'float64'));
  return s.model([s.add('MatMul', [s.input('x', ['n', 2], 'float64'), w], 'y')]);
}

it('the rules in docs/guide/precision.md are up to date', async () => {
  const page = new URL('../../../docs/guide/precision.md', import.meta.url);
  const text = await readFile(page, 'utf8');
  const table = /<!-- rules -->\n\n([\s\S]*?)\n\n<!-- end -->/.exec(text)![1]!;
  const rows = table.split('\n').slice(2);
  const listed = rows.map(line => {
    const [, rule, , operators] = line.split('|').map(cell => cell.trim());
    return [rule, operators!.split(', ')] as const;
  });
  const of = (rule: string) => [...PRECISION_RULES].flatMap(([op, own]) => (own === rule ? [op] : []));
  expect(listed).toEqual(
    ['product', 'elementwise', 'movement', 'normalization'].map(rule => [rule, of(rule)]),
  );
});
