/** Gradients in the forms that have kernels on CUDA devices: the same numbers from other operators. */
import { describe, expect, it } from 'vitest';
import { allGraphs, type Graph } from '../../src/graph/ir.js';
import { Names } from '../../src/graph/names.js';
import { Tensor } from '../../src/graph/tensor.js';
import { type AttrInit, Builder } from '../../src/ops/core/builder.js';
import { Attributes } from '../../src/ops/core/rule.js';
import { correction } from '../../src/ops/optimizers/optimizer.js';
import { modelWithLoss } from '../../src/passes/run/evaluation-model.js';
import { gradients } from '../../src/runtime/gradients.js';
import { Session, sessionShapes } from '../../src/runtime/session.js';
import { decoder, tokenData } from '../decoder.js';
import { Sketch } from '../sample.js';
import { checkVjp, spread, vjpOf } from './vjp.js';

const WITHOUT_KERNEL = ['MaxUnpool', 'BitShift', 'BitwiseAnd', 'GroupQueryAttention'];

/** cuDNN pads an axis equally on both sides; some operators have kernels of other types only, or none. */
function hasKernels(graph: Graph): void {
  const nodes = [...allGraphs(graph)].flatMap(part => part.nodes);
  for (const { opType, attrs, label } of nodes.map(node => ({
    ...node,
    label: node.label,
    opType: node.opType,
    attrs: new Attributes(node),
  }))) {
    expect(WITHOUT_KERNEL, label).not.toContain(opType);
    if (opType !== 'ConvTranspose') continue;
    const pads = attrs.ints('pads') ?? [];
    const n = pads.length / 2;
    expect(pads.slice(0, n), label).toEqual(pads.slice(n));
    expect(attrs.ints('output_padding')?.some(p => p) ?? false, label).toBe(false);
  }
}

type Case = [what: string, x: number[], w: number[], attrs: AttrInit];
const CONVOLUTIONS: Case[] = [
  ['kernel 3, stride 2, even extent', [2, 3, 8, 8], [4, 3, 3, 3], { strides: [2, 2], pads: [1, 1, 1, 1] }],
  ['kernel 3, stride 2, odd extent', [1, 2, 7, 7], [3, 2, 3, 3], { strides: [2, 2], pads: [1, 1, 1, 1] }],
  ['kernel 1, stride 2', [2, 3, 8, 8], [4, 3, 1, 1], { strides: [2, 2] }],
  ['elements after the last window, none before', [1, 2, 9], [2, 2, 3], { strides: [4] }],
  ['pads before only', [1, 2, 10], [2, 2, 3], { strides: [3], pads: [2, 0] }],
  ['pads after only', [1, 2, 10], [2, 2, 3], { strides: [3], pads: [0, 2] }],
  ['more pads than the kernel reaches', [1, 1, 6], [2, 1, 3], { strides: [2], pads: [3, 4] }],
  ['SAME_UPPER', [1, 2, 7, 6], [2, 2, 3, 2], { strides: [2, 3], auto_pad: 'SAME_UPPER' }],
  ['SAME_LOWER', [1, 2, 7, 6], [2, 2, 3, 2], { strides: [2, 3], auto_pad: 'SAME_LOWER' }],
  ['groups', [1, 4, 8, 8], [4, 2, 3, 3], { strides: [2, 2], pads: [1, 1, 1, 1], group: 2 }],
  ['dilations', [1, 2, 9, 9], [2, 2, 3, 3], { strides: [2, 2], dilations: [2, 2], pads: [1, 0, 2, 1] }],
  ['no stride, no pads', [1, 2, 6, 6], [2, 2, 3, 3], {}],
  ['three axes', [1, 1, 4, 5, 6], [2, 1, 2, 3, 2], { strides: [2, 2, 2], pads: [0, 1, 0, 1, 1, 0] }],
];
const POOLS: [what: string, x: number[], attrs: AttrInit][] = [
  ['windows side by side', [2, 2, 6, 6], { kernel_shape: [2, 2], strides: [2, 2] }],
  ['elements after the last window', [1, 2, 7, 5], { kernel_shape: [2, 2], strides: [3, 2] }],
  ['windows that overlap', [1, 2, 7, 7], { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] }],
  ['ceil_mode', [1, 1, 7, 7], { kernel_shape: [2, 2], strides: [2, 2], ceil_mode: 1 }],
];

describe.each([false, true])('for CUDA, with hidden extents: %j', symbolic => {
  const c = { provider: 'cuda', written: hasKernels } as const;
  it.each(CONVOLUTIONS)('Conv: %s', async (_, x, w, attrs) => {
    const hidden = symbolic && !attrs.auto_pad ? [0] : undefined;
    const options = { attrs: { kernel_shape: w.slice(2), ...attrs }, symbolic: hidden };
    await checkVjp('Conv', [x, w], { ...options, ...c });
  });

  it.each(POOLS)('MaxPool: %s', (_, x, attrs) => checkVjp('MaxPool', [x], { attrs, symbolic, ...c }));

  it('means over axes and a batch whose extents are not known', () =>
    checkVjp('BatchNormalization', [[3, 2, 4], [2], [2], spread([2]), spread([2], [0.5, 1.5])], {
      attrs: { training_mode: 1 },
      outputs: 3,
      cotangents: [0],
      wrt: [0, 1, 2],
      symbolic,
      provider: 'cuda',
    }));
});

it.each(CONVOLUTIONS)('Conv: %s, equals the form for the CPU', async (_, x, w, attrs) => {
  const tensors = [spread(x), spread(w, [-1, 1], 2)];
  const s = new Sketch();
  const y = s.add('Conv', [s.input('x', x), s.input('w', w)], 'y', attrs);
  const forward = await Session.create(s.model([y]));
  const { y: out } = await forward.run({ x: tensors[0]!, w: tensors[1]! });
  await forward.release();
  const dy = spread(out!.dims, [-1, 1], 3);
  const [usual] = await vjpOf('Conv', tensors, dy, { attrs });
  const [own] = await vjpOf('Conv', tensors, dy, { attrs, provider: 'cuda' });
  const scale = Math.max(...usual!.numbers().map(Math.abs));
  const off = own!.numbers().map((v, i) => Math.abs(v - usual!.numbers()[i]!));
  expect(Math.max(...off)).toBeLessThan(1e-6 * scale);
});

it('counts elements of unknown extents where it computes with them, not from their Shape', async () => {
  const s = new Sketch();
  const x = s.input('x', ['n', 3, 'm']);
  const model = s.model([]);
  const g = new Builder(model.graph, {
    names: Names.of(model),
    opsets: model.opsetImports,
    provider: 'cuda',
  });
  const count = g.rename(g.of(x).count('float32'), 'count');
  model.graph.outputs = [count];
  expect(model.graph.nodes.some(n => n.opType === 'Cast' || n.opType === 'ReduceProd')).toBe(false);
  const session = await Session.create(model);
  expect((await session.run({ x: spread([5, 3, 7]) })).count!.numbers()).toEqual([105]);
  await session.release();
});

it('corrects a bias in float32 within its rounding, from the first step to the last', async () => {
  for (const beta of [0, 0.9, 0.99, 0.999, 0.9999]) {
    const s = new Sketch();
    const step = s.input('step', []);
    const model = s.model([]);
    const scope = { names: Names.of(model), opsets: model.opsetImports, provider: 'cuda' } as const;
    const g = new Builder(model.graph, scope);
    model.graph.outputs = [g.rename(correction(g.of(step), beta), 'y')];
    expect(model.graph.nodes.map(n => n.opType)).not.toContain('Sinh');
    if (beta === 0) continue;
    const session = await Session.create(model);
    for (const t of [1, 2, 3, 10, 100, 1000, 12345, 1e6, 2 ** 24]) {
      const { y } = await session.run({ step: spread([], [t, t]) });
      const exact = -Math.expm1(t * Math.log(beta));
      expect(Math.abs(y!.numbers()[0]! / exact - 1), `1 - ${beta}^${t}`).toBeLessThan(3e-7);
    }
    await session.release();
  }
});

describe('weights of a few bits', () => {
  const c = { domain: 'com.microsoft', provider: 'cuda', written: hasKernels } as const;
  const bytes = (dims: number[]) => {
    const count = dims.reduce((n, d) => n * d, 1);
    return new Tensor(
      'uint8',
      dims,
      Uint8Array.from({ length: count }, (_, i) => (53 * i + 7) % 256),
    );
  };

  it.each([2, 4, 8])('of %d bits are unpacked, with zero points', bits => {
    const tensors = [[2, 40], bytes([3, 3, 2 * bits]), [3, 3], bytes([3, Math.ceil((3 * bits) / 8)])];
    const attrs = { N: 3, K: 40, block_size: 16, bits };
    return checkVjp('MatMulNBits', tensors, { ...c, attrs, constants: [1, 3], range: [0.1, 0.4] });
  });

  it('are read some rows at a time, all of them where the last part would be smaller', async () => {
    const [N, K] = [6, 2 ** 18];
    const tensors = [spread([1, K]), bytes([N, K / 128, 64]), spread([N, K / 128], [0.01, 0.02])];
    const attrs = { N, K, block_size: 128, bits: 4 };
    const dy = spread([1, N], [-1, 1], 3);
    const [usual] = await vjpOf('MatMulNBits', tensors, dy, {
      ...c,
      provider: 'cpu',
      written: undefined,
      attrs,
    });
    const [own] = await vjpOf('MatMulNBits', tensors, dy, { ...c, attrs });
    const expected = usual!.numbers();
    const off = own!.numbers().map((v, i) => Math.abs(v - expected[i]!));
    expect(largest(off)).toBeLessThan(1e-6 * largest(expected));
  });
});

const largest = (values: readonly number[]) => values.reduce((most, v) => Math.max(most, Math.abs(v)), 0);

describe('a decoder of 4 bits, in the form that is shipped', () => {
  const loss = { kind: 'cross-entropy', output: 'logits' } as const;
  const deriveInputs = ['past*', 'attention_mask'];
  const data = tokenData(3, 5);

  it('has the loss and gradients of the usual form', async () => {
    const feeds = Object.fromEntries(data);
    const options = { loss, deriveInputs, wrt: ['*norm*', '*embed*'] };
    const usual = await gradients(decoder(), options, feeds);
    const own = await gradients(decoder(), { ...options, provider: 'cuda' }, feeds);
    expect(own.loss).toBeCloseTo(usual.loss!, 5);
    for (const [name, expected] of usual.gradients) {
      const [a, b] = [expected.numbers(), own.gradients.get(name)!.numbers()];
      const scale = Math.max(...a.map(Math.abs));
      const off = Math.max(...a.map((v, i) => Math.abs(v - b[i]!)));
      expect(off, name).toBeLessThan(1e-5 * scale);
    }
  });

  it('is evaluated without nodes that lack kernels, with the same loss', async () => {
    const made = (provider?: 'cuda') =>
      modelWithLoss(decoder(), loss, sessionShapes, { deriveInputs, provider });
    const run = async ({ model }: Awaited<ReturnType<typeof made>>) => {
      const session = await Session.create(model);
      const known = [...data].filter(([name]) => session.inputs.includes(name));
      const results = await session.run(Object.fromEntries(known));
      await session.release();
      return results;
    };
    const [usual, own] = [await made(), await made('cuda')];
    hasKernels(own.model.graph);
    expect(() => hasKernels(usual.model.graph)).toThrow('GroupQueryAttention');
    const [a, b] = [await run(usual), await run(own)];
    expect(Object.keys(b)).toEqual(Object.keys(a));
    for (const [name, t] of Object.entries(a))
      t.numbers().forEach((v, i) => {
        expect(b[name]!.numbers()[i]).toBeCloseTo(v, 5);
      });
  });
});
