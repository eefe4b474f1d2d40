import { expect, it } from 'vitest';
import type { Value } from '../../../src/graph/ir.js';
import { encodeModel } from '../../../src/graph/proto/codec.js';
import { originalBytes } from '../../../src/passes/file/embed-original.js';
import { inject } from '../../../src/passes/inject.js';
import { splitMergedInitializers } from '../../../src/passes/normalize/split-merged-initializers.js';
import { Session, sessionShapes } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { floatsOf, ints, spread } from '../../ops/vjp.js';
import { Sketch } from '../../sample.js';

/** Two layers whose biases, all zero, an exporter merged, and whose weights are tied on purpose. */
function merged() {
  const s = new Sketch();
  const zeros = s.weight('fc1.bias', floatsOf([0, 0, 0]));
  const tied = s.weight('weight', [3, 3]);
  const alias = s.add('Identity', [zeros], 'fc2.bias');
  const same = s.add('Identity', [tied], 'tied');
  const h = s.add('Tanh', [s.add('Gemm', [s.input('x', ['batch', 3]), tied, zeros], 'a')], 'h');
  return s.model([s.add('Gemm', [h, same, alias], 'logits')]);
}

it('gives a renamed parameter its own initializer, and leaves tied weights tied', () => {
  const model = merged();
  expect(splitMergedInitializers(model)).toBe(true);
  expect([...model.graph.initializers.keys()].map(v => v.name).sort()).toEqual([
    'fc1.bias',
    'fc2.bias',
    'weight',
  ]);
  expect(model.graph.nodes.filter(n => n.opType === 'Identity')).toHaveLength(1);
  expect(splitMergedInitializers(model)).toBe(false);
});

it('splits scales that several nodes read', () => {
  const s = new Sketch();
  const ones = s.weight('norm.weight', floatsOf([1, 1, 1]));
  const first = s.add('LayerNormalization', [s.input('x', ['batch', 3]), ones], 'first');
  const model = s.model([s.add('LayerNormalization', [first, ones], 'second')]);
  expect(splitMergedInitializers(model)).toBe(true);
  expect([...model.graph.initializers.keys()].map(v => v.name)).toEqual(['norm.weight', 'norm.weight_1']);
});

it('splits biases and scales that are terms and factors', () => {
  const s = new Sketch();
  const [zeros, ones] = [
    s.weight('a.bias', floatsOf([0, 0, 0])),
    s.weight('norm.weight', floatsOf([1, 1, 1])),
  ];
  const layer = (x: Value, name: string) => {
    const product = s.add('MatMul', [x, s.weight(`${name}.weight`, [3, 3])], `${name}.product`);
    return s.add('Mul', [ones, s.add('Add', [zeros, product], `${name}.sum`)], name);
  };
  const model = s.model([layer(layer(s.input('x', ['batch', 3]), 'a'), 'b')]);
  expect(splitMergedInitializers(model)).toBe(true);
  expect([...model.graph.initializers.keys()].map(v => v.name).sort()).toEqual([
    ...['a.bias', 'a.bias_1', 'a.weight', 'b.weight', 'norm.weight', 'norm.weight_1'],
  ]);
});

it('leaves a layer one that is used twice, but not two layers that read the same', () => {
  const s = new Sketch();
  const [zeros, ones] = [s.weight('bias', floatsOf([0, 0, 0])), s.weight('scale', floatsOf([1, 1, 1]))];
  const weight = s.weight('weight', [3, 3]);
  const tower = (name: string) => {
    const product = s.add('MatMul', [s.input(name, ['batch', 3]), weight], `${name}.product`);
    const norms = ['first', 'second'].map(n => s.add('LayerNormalization', [product, ones], `${name}.${n}`));
    return [s.add('Add', [product, zeros], `${name}.sum`), ...norms];
  };
  const model = s.model([...tower('x'), ...tower('y')]);
  expect(splitMergedInitializers(model)).toBe(true);
  expect([...model.graph.initializers.keys()].map(v => v.name)).toEqual([
    ...['bias', 'scale', 'weight', 'scale_1'],
  ]);
  const scales = model.graph.nodes.flatMap(n =>
    n.opType === 'LayerNormalization' ? [n.inputs[1]?.name] : [],
  );
  expect(scales).toEqual(['scale', 'scale_1', 'scale', 'scale_1']);
});

/** Layers that were copied from one, as PyTorch's TransformerEncoder makes them. */
it('splits the weights of fresh layers that are copies, but not those of trained ones', () => {
  const layers = (bias: number[]) => {
    const s = new Sketch();
    const [w, b] = [s.weight('layers.0.weight', [3, 3]), s.weight('layers.0.bias', floatsOf(bias))];
    const h = s.add('Gemm', [s.input('x', ['batch', 3]), w, b], 'h');
    const [w1, b1] = [s.add('Identity', [w], 'layers.1.weight'), s.add('Identity', [b], 'layers.1.bias')];
    return s.model([s.add('Gemm', [h, w1, b1], 'y')]);
  };
  const [fresh, trained] = [layers([0, 0, 0]), layers([0.1, 0.2, 0.3])];
  expect(splitMergedInitializers(fresh)).toBe(true);
  expect(fresh.graph.initializers.size).toBe(4);
  expect(splitMergedInitializers(trained)).toBe(false);
});

it('trains them separately, and exports both', async () => {
  const { model } = await inject(
    merged(),
    { loss: { kind: 'cross-entropy' }, original: encodeModel(merged()) },
    sessionShapes,
  );
  const trainer = await Trainer.create(model);
  for (let i = 0; i < 3; i++) await trainer.step({ x: spread([4, 3]), target: ints([0, 1, 2, 0]) });
  const [one, two] = ['fc1.bias', 'fc2.bias'].map(name => trainer.state.get(name)!.numbers());
  expect(one).not.toEqual(two);
  const session = await Session.create(originalBytes(trainer.snapshot()));
  const { logits } = await session.run({ x: spread([4, 3]) });
  const { loss } = await trainer.evaluate([
    { inputs: { x: spread([4, 3]), target: ints([0, 1, 2, 0]) }, size: 4 },
  ]);
  const rows = Array.from({ length: 4 }, (_, i) => logits!.numbers().slice(3 * i, 3 * i + 3));
  const own = rows.map(
    (row, i) => Math.log(row.reduce((sum, v) => sum + Math.exp(v), 0)) - row[[0, 1, 2, 0][i]!]!,
  );
  expect(loss).toBeCloseTo(own.reduce((a, b) => a + b) / 4, 5);
  await session.release();
  await trainer.release();
});
