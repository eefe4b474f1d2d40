import { expect, it } from 'vitest';
import type { Value } from '../../../src/graph/ir.js';
import { decodeModel, encodeModel } from '../../../src/graph/proto/codec.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { floats } from '../../../src/ops/core/builder.js';
import { inject } from '../../../src/passes/inject.js';
import { inspect } from '../../../src/passes/inspect.js';
import { sessionShapes } from '../../../src/runtime/session.js';
import { floatsOf, spread } from '../../ops/vjp.js';
import { Sketch } from '../../sample.js';

/** A model with one of everything that looks like a parameter. */
function everything() {
  const s = new Sketch();
  const x = s.input('x', ['batch', 3]);
  const hidden = s.add('MatMul', [x, s.weight('weight', [3, 3])], 'xw');
  const biased = s.add('Add', [hidden, s.weight('bias', [3])], 'biased');
  const shifted = s.add('Add', [biased, s.weight('epsilon', floatsOf([1e-5]))], 'shifted');
  const scaled = s.add('Mul', [shifted, s.weight('scale', floatsOf([0.5], []))], 'scaled');
  const masked = s.add('Add', [scaled, s.weight('mask', floatsOf([0, 0, -1e9]))], 'masked');
  const kept = s.add('Mul', [masked, s.weight('keep', floatsOf([1, 0, 1]))], 'kept');
  const clipped = s.add(
    'Clip',
    [kept, s.weight('low', floatsOf([-3], [])), s.weight('high', floatsOf([3], []))],
    'clipped',
  );
  const constant = s.add('Constant', [], 'hidden_weight', { value: spread([3, 1]) });
  const unit = s.add('MatMul', [clipped, constant], 'unit');
  const y = s.add('Add', [unit, s.weight('unit.bias', floatsOf([0.1]))], 'y');
  s.weight('unused', [2]);
  s.weight('integers', Tensor.ints([1, 2]));
  return s.model([y]);
}

const trained = (found: Awaited<ReturnType<typeof inspect>>) =>
  found.parameters.filter(p => p.trains).map(p => p.name);

it('takes weights and leaves constants of the arithmetic, with reasons', async () => {
  const found = await inspect(everything(), {}, sessionShapes);
  expect(trained(found)).toEqual(['weight', 'bias', 'unit.bias', 'hidden_weight']);
  const why = Object.fromEntries(found.parameters.map(p => [p.name, p.why]));
  expect(why).toMatchObject({
    epsilon: 'a constant of the arithmetic',
    scale: 'a constant of the arithmetic',
    mask: 'a mask',
    keep: 'a mask',
    low: 'a setting of Clip',
    unused: expect.stringContaining('does not depend'),
  });
});

it('is overruled by globs, of which freezing is the stronger', async () => {
  expect(
    trained(await inspect(everything(), { train: ['scale'], freeze: ['*bias'] }, sessionShapes)),
  ).toEqual(['weight', 'scale', 'hidden_weight']);
  expect(
    trained(await inspect(everything(), { train: ['bias'], freeze: ['bias'] }, sessionShapes)),
  ).not.toContain('bias');
});

/** A step of recurrence from zeros of the batch, as exporters unroll it, with fresh biases beside. */
it('leaves what the forward pass filled, and takes fresh weights', async () => {
  const s = new Sketch();
  const x = s.input('x', [2, 3]);
  const zeros = s.weight('zeros', Tensor.zeros('float32', [2, 3]));
  const fresh = s.weight('fresh.bias', Tensor.zeros('float32', [3]));
  const rank = s.add(
    'MatMul',
    [s.weight('lora.B', Tensor.zeros('float32', [3, 1])), s.weight('A', [1, 3])],
    'ba',
  );
  const hidden = s.add('Gemm', [zeros, s.weight('weight_hh', [3, 3]), fresh], 'hidden');
  const gate = s.add('Sigmoid', [s.add('Add', [s.add('MatMul', [x, rank], 'xw'), hidden], 'sum')], 'gate');
  const kept = s.add('Mul', [gate, zeros], 'kept');
  const embedded = s.add(
    'Add',
    [kept, s.weight('position', Tensor.filled('float32', [1, 3], 1))],
    'embedded',
  );
  const ones = s.weight('ones', Tensor.filled('float32', [2, 1], 1));
  const y = s.add('Add', [s.add('Mul', [embedded, ones], 'weighted'), gate], 'y');
  const found = await inspect(s.model([y]), {}, sessionShapes);
  expect(trained(found)).toEqual(['fresh.bias', 'lora.B', 'A', 'weight_hh', 'position']);
  for (const name of ['zeros', 'ones'])
    expect(found.parameters.find(p => p.name === name)!.why).toBe('filled in the forward pass');
});

const why = (found: Awaited<ReturnType<typeof inspect>>, name: string) =>
  found.parameters.find(p => p.name === name)!.why;

it('leaves what fills the place of a scale that a normalization does not have', async () => {
  const s = new Sketch();
  const x = s.input('x', ['batch', 4, 6]);
  const [one, zero] = [Tensor.filled('float32', [2], 1), Tensor.zeros('float32', [2])];
  const norm = (name: string, x: Value, [scale, bias]: [string, string]) =>
    s.add('InstanceNormalization', [x, s.weight(scale, one), s.weight(bias, zero)], name);
  const cut = s.add('Reshape', [x, s.weight('groups', Tensor.ints([0, 2, -1]))], 'cut');
  const whole = s.add(
    'Reshape',
    [norm('grouped', cut, ['ones_of_groups', 'zeros_of_groups']), s.weight('shape', Tensor.ints([0, 4, 6]))],
    'whole',
  );
  const scaled = s.add(
    'Mul',
    [whole, s.weight('norm.weight', Tensor.filled('float32', [4, 1], 1))],
    'scaled',
  );
  const pair = s.add('Conv', [scaled, s.weight('conv.weight', [2, 4, 3])], 'pair');
  const plain = norm('plain', pair, ['val_3', '/norm/Constant_1_output_0']);
  const y = norm('y', plain, ['fresh.weight', 'fresh.bias']);
  const found = await inspect(s.model([y]), {}, sessionShapes);
  expect(trained(found)).toEqual(['norm.weight', 'conv.weight', 'fresh.weight', 'fresh.bias']);
  expect(why(found, 'ones_of_groups')).toBe('fills a place of InstanceNormalization');
});

it('leaves masks, tables of positions and frequencies, and scales that only a resize reads', async () => {
  const s = new Sketch();
  const x = s.input('x', ['batch', 1, 4]);
  const time = s.input('time', ['batch', 1, 1]);
  const turns = [0, 1, 2, 3].flatMap(t => [Math.sin(t), Math.cos(t)]);
  const angle = s.add('Mul', [time, s.weight('inv_freq', [1, 1, 4])], 'angle');
  const waves = s.add('Add', [s.add('Sin', [angle], 'sin'), s.add('Cos', [angle], 'cos')], 'waves');
  const siren = s.add('Sin', [s.add('Mul', [x, s.weight('siren', [4])], 'sx')], 'siren_y');
  const terms = [
    waves,
    siren,
    s.weight('positions', floatsOf(turns, [1, 2, 4])),
    s.weight('window', floatsOf([0, -100, 0, -100], [1, 1, 4])),
    s.add('Mul', [x, s.weight('cosines', floatsOf([0.1, 0.2, 0.3, 0.4].map(Math.cos)))], 'xc'),
    s.add('Mul', [siren, s.weight('sines', floatsOf([0.1, 0.2, 0.3, 0.4].map(Math.sin)))], 'xs'),
  ];
  const sum = terms.reduce((a, b, i) => s.add('Add', [a, b], `sum${i}`), x);
  const scales = s.add(
    'Concat',
    [s.weight('kept', floatsOf([1, 1])), s.weight('factor', floatsOf([2]))],
    'scales',
    {
      axis: 0,
    },
  );
  const y = s.add('Resize', [sum, null, scales], 'y');
  const found = await inspect(s.model([y]), {}, sessionShapes);
  expect(trained(found)).toEqual(['siren']);
  expect(why(found, 'window')).toBe('a mask');
  for (const name of ['inv_freq', 'positions', 'cosines', 'sines'])
    expect(why(found, name)).toBe('sines and cosines, or their frequencies');
});

it('takes a fresh scale of ones and bias of zeros that are written out, though 1 and 0 are on the circle', async () => {
  const s = new Sketch();
  const x = s.input('x', ['batch', 4]);
  const scaled = s.add('Mul', [x, s.weight('scale', floatsOf([1, 1, 1, 1]))], 'scaled');
  const y = s.add('Add', [scaled, s.weight('bias', floatsOf([0, 0, 0, 0]))], 'y');
  const found = await inspect(s.model([y]), {}, sessionShapes);
  expect(trained(found)).toEqual(['scale', 'bias']);
});

it('does not read what lies outside the main job: kinds of models', async () => {
  const found = await inspect(everything(), {}, sessionShapes);
  expect(found.kind).toBe('forward');
  expect(found.operators.find(o => o.operator === 'MatMul')).toMatchObject({
    count: 2,
    gradient: 'yes',
    onPath: true,
  });
});

it('reads single elements of external weights, not the weights', async () => {
  const s = new Sketch();
  const [width, x] = [32, s.input('x', ['batch', 32])];
  const table = s.add(
    'Gather',
    [s.weight('table', [width, width]), s.input('ids', ['batch'], 'int64')],
    'row',
  );
  const hidden = s.add('MatMul', [x, s.weight('w1', [width, width])], 'hidden');
  const y = s.add('MatMul', [s.add('Mul', [hidden, table], 'h'), s.weight('w2', [width, width])], 'y');
  const model = s.model([y]);
  const contents = new Map([...model.graph.initializers].map(([v, t]) => [v.name, t.bytes]));
  const bytes = encodeModel(model, tensor => {
    const [location] = [...contents].find(([, content]) => content === tensor.bytes)!;
    return { location, offset: 0, length: tensor.byteLength, folder: '.' };
  });
  const lengths: number[] = [];
  const outside = decodeModel(bytes, '.', ({ location, offset, length }) => {
    lengths.push(length);
    return contents.get(location)!.slice(offset, offset + length);
  });
  const found = await inject(outside, { loss: { kind: 'mse' }, original: bytes }, sessionShapes);
  expect(found.report.parameters.filter(p => p.trains)).toHaveLength(3);
  expect(lengths.length).toBeGreaterThan(0);
  expect(Math.max(...lengths)).toBe(4);
});

it('says that the numbers of a classic estimator are attributes', async () => {
  const s = new Sketch();
  const y = s.add('LinearRegressor', [s.input('x', ['n', 3])], 'y', {
    coefficients: floats([1, 2, 3]),
    intercepts: floats([0]),
  });
  s.graph.nodes[0]!.domain = 'ai.onnx.ml';
  y.type = { kind: 'tensor', dtype: 'float32', shape: ['n', 1] };
  const model = s.model([y]);
  model.opsetImports.set('ai.onnx.ml', 1);
  await expect(inject(model, { loss: { kind: 'mse' } }, sessionShapes)).rejects.toThrow(
    'Nothing to train: the model has no floating-point initializers; the numbers of LinearRegressor are attributes of its node, which do not train.',
  );
});
