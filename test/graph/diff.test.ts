/** How much tensors of two models differ, by their values. */
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { diffModels, isSameModel } from '../../src/graph/diff.js';
import type { DType } from '../../src/graph/dtype.js';
import { loadModel, saveModel } from '../../src/graph/files.js';
import { numberToBfloat, numberToHalf, Tensor } from '../../src/graph/tensor.js';
import { spread } from '../ops/vjp.js';
import { Sketch } from '../sample.js';

function model(weight: Tensor, bias = Tensor.from('float32', [2], Float32Array.of(1, 2))) {
  const s = new Sketch();
  const wide = s.add('Cast', [s.weight('w', weight)], 'wide', { to: 1 });
  return s.model([s.add('Gemm', [s.input('x', ['n', 2]), wide, s.weight('b', bias)], 'y')]);
}

const of = (dtype: DType, values: readonly number[]): Tensor => {
  const dims = [2, values.length / 2];
  if (dtype === 'float16') return Tensor.from(dtype, dims, Uint16Array.from(values, numberToHalf));
  if (dtype === 'bfloat16') return Tensor.from(dtype, dims, Uint16Array.from(values, numberToBfloat));
  if (dtype === 'uint4')
    return Tensor.from(
      dtype,
      dims,
      Uint8Array.of(values[0]! | (values[1]! << 4), values[2]! | (values[3]! << 4)),
    );
  if (dtype === 'int8') return Tensor.from(dtype, dims, Int8Array.from(values));
  return Tensor.from('float32', dims, Float32Array.from(values));
};

it.each(['float32', 'float16', 'bfloat16', 'int8', 'uint4'] as const)('measures how far %s moved', dtype => {
  const found = diffModels(model(of(dtype, [3, 4, 0, 0])), model(of(dtype, [3, 4, 0, 5])));
  expect(found.unchanged).toBe(1);
  expect(found.moved).toEqual([
    {
      ...{ name: 'w', dtype, shape: [2, 2], elements: 4, changed: 1 },
      ...{ relative: 1, maxAbs: 5, cosine: 25 / (5 * Math.sqrt(50)) },
    },
  ]);
});

it('compares tensors in parts of a million elements', () => {
  const size = 2 ** 20 + 10;
  const [a, b] = [new Float32Array(size).fill(1), new Float32Array(size).fill(1)];
  b[size - 1] = 3;
  b[0] = 0;
  const [moved] = diffModels(
    model(Tensor.from('float32', [2, size / 2], a)),
    model(Tensor.from('float32', [2, size / 2], b)),
  ).moved;
  expect(moved).toMatchObject({ changed: 2, maxAbs: 2 });
  expect(moved!.relative).toBeCloseTo(Math.sqrt(5 / size), 12);
});

it('puts what is not a number first, and a tensor that was zero before others', () => {
  const [zero, moved, broken] = [
    [0, 0],
    [1, 1],
    [1, NaN],
  ].map(v => Tensor.from('float32', [2], Float32Array.from(v)));
  const weights = (a: Tensor, b: Tensor) => {
    const s = new Sketch();
    const sum = s.add(
      'Add',
      [s.weight('small', Tensor.from('float32', [2], Float32Array.of(5, 5))), s.weight('a', a)],
      's',
    );
    return s.model([s.add('Add', [sum, s.weight('b', b)], 'y')]);
  };
  const found = diffModels(weights(zero!, moved!), weights(moved!, broken!));
  expect(found.moved.map(({ name }) => name)).toEqual(['a', 'b']);
  expect(found.moved[0]).toMatchObject({ relative: Infinity, cosine: NaN });
  expect(found.moved[1]).toMatchObject({ relative: NaN, maxAbs: NaN, changed: 1 });
});

it('reads external data, and finds a constant that became an initializer by its name', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'agd-onnx-test-'));
  const weight = spread([2, 1024]);
  await saveModel(model(weight), join(folder, 'inside.onnx'));
  await saveModel(model(weight), join(folder, 'outside.onnx'), { externalData: 'always' });
  const [inside, outside] = await Promise.all(
    ['inside.onnx', 'outside.onnx'].map(name => loadModel(join(folder, name))),
  );
  const kept = [...outside!.graph.initializers.values()].some(tensor => tensor.external);
  expect(kept).toBe(true);
  expect(isSameModel(diffModels(inside!, outside!))).toBe(true);
  const s = new Sketch();
  const w = s.add('Constant', [], 'w', { value: weight });
  const constant = s.model([
    s.add(
      'Gemm',
      [
        s.input('x', ['n', 2]),
        s.add('Cast', [w], 'wide', { to: 1 }),
        s.weight('b', Tensor.from('float32', [2], Float32Array.of(1, 2))),
      ],
      'y',
    ),
  ]);
  const found = diffModels(inside!, constant);
  expect(found).toMatchObject({ moved: [], unchanged: 2, tensors: { added: [], removed: [], changed: [] } });
  expect(found.nodes.added).toEqual([{ operator: 'Constant', name: 'w' }]);
});

it('tells attributes, inputs and operator sets apart', () => {
  const relu = (alpha: number, shape: readonly (number | string)[], opset: number) => {
    const s = new Sketch();
    return s.model([s.add('LeakyRelu', [s.input('x', shape)], 'y', { alpha })], opset);
  };
  const found = diffModels(relu(0.5, ['n', 2], 18), relu(0.25, ['n', 3], 19));
  expect(found.nodes.changed).toEqual([
    { name: 'y', from: { operator: 'LeakyRelu' }, to: { operator: 'LeakyRelu' } },
  ]);
  expect(found.inputs.changed).toEqual([
    { name: 'x', from: { type: 'float32[n,2]' }, to: { type: 'float32[n,3]' } },
  ]);
  expect(found.opsets.changed).toEqual([
    {
      name: 'ai.onnx',
      from: { version: 18 },
      to: { version: 19 },
    },
  ]);
});
