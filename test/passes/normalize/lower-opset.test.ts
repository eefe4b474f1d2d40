import { expect, it } from 'vitest';
import type { Model, Value } from '../../../src/graph/ir.js';
import { encodeModel } from '../../../src/graph/proto/codec.js';
import type { AttrInit } from '../../../src/ops/core/builder.js';
import { inject } from '../../../src/passes/inject.js';
import { lowerOpset } from '../../../src/passes/normalize/lower-opset.js';
import { gradients } from '../../../src/runtime/gradients.js';
import { sessionShapes } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { floatsOf, ints, spread } from '../../ops/vjp.js';
import { Sketch } from '../../sample.js';

/** A convolution, an operator, and the mean of the squares. */
function pooled(opType: string, opset: number, attrs: AttrInit, before = 'Relu', own: AttrInit = {}): Model {
  const s = new Sketch();
  const x = s.input('x', ['batch', 1, 5, 5]);
  const h = s.add(before, [s.add('Conv', [x, s.weight('w', [2, 1, 2, 2])], 'c')], 'h', own);
  const rest: Record<string, () => Value[]> = {
    RoiAlign: () => [s.weight('rois', floatsOf([0, 0, 3, 3], [1, 4])), s.weight('index', ints([0]))],
    MaxRoiPool: () => [s.weight('rois', floatsOf([0, 0, 0, 3, 3], [1, 5]))],
  };
  const y = s.add(opType, [h, ...(rest[opType]?.() ?? [])], 'y', attrs);
  return s.model([s.add('ReduceSumSquare', [y], 'loss', { keepdims: 0 })], opset);
}

const loss = { kind: 'output', output: 'loss' } as const;
const x = spread([1, 1, 5, 5]);
const found = async (model: Model) => {
  const { gradients: all, loss: value } = await gradients(model, { loss, train: ['w'] }, { x });
  return [value, all.get('w')!.numbers()];
};

it.each<[string, AttrInit]>([
  ['RoiAlign', { output_height: 2, output_width: 2 }],
  ['MaxRoiPool', { pooled_shape: [2, 2] }],
  ['GlobalLpPool', {}],
])('%s of versions without a kernel runs as that of version 21', async (opType, attrs) => {
  const want = await found(pooled(opType, 21, attrs));
  for (const opset of [22, 24, 26]) expect(await found(pooled(opType, opset, attrs))).toEqual(want);
  const source = pooled(opType, 22, attrs);
  const { model } = await inject(source, { loss, train: ['w'] }, sessionShapes);
  expect([source.opset, model.opset]).toEqual([22, 21]);
  const t = await Trainer.create(model);
  expect((await t.step({ x })).loss).toBe(want[0]);
  await t.release();
});

it.each<[string, Model]>([
  ['has kernels of every operator', pooled('GlobalAveragePool', 24, {})],
  ['is of an older version', pooled('GlobalLpPool', 20, {})],
  ['holds an operator that came later', pooled('GlobalLpPool', 24, {}, 'Swish')],
  ['holds an attribute that came later', pooled('GlobalLpPool', 24, {}, 'Cast', { to: 1, round_mode: 'up' })],
])('leaves a model as it is that %s', (_, model) => {
  const before = encodeModel(model);
  expect(lowerOpset(model)).toBe(false);
  expect(encodeModel(model)).toEqual(before);
});
