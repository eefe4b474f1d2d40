/** Files as others write them: names that mean something to us, outputs that nothing computes, inputs without samples. */
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { loadModel, saveModel } from '../../src/graph/files.js';
import type { Model } from '../../src/graph/ir.js';
import type { Tensor } from '../../src/graph/tensor.js';
import { loadArrays } from '../../src/runtime/data/load.js';
import { writeSafetensors } from '../../src/runtime/data/safetensors.js';
import { spread } from '../ops/vjp.js';
import { Sketch } from '../sample.js';
import { agdOnnx, workplace } from './run.js';

let folder: string;
beforeAll(async () => {
  folder = await workplace();
});
const file = (name: string) => join(folder, name);
const ok = (...args: string[]) => {
  const result = agdOnnx(folder, ...args);
  expect(result).toMatchObject({ code: 0, err: '' });
  return result.out;
};

/** x -> tanh(x w1 + b1) w2 + b2, under these names; the last is that of the hidden values. */
function network([x, w1, b1, w2, b2, y, h]: readonly string[]): Model {
  const s = new Sketch();
  const weight = (name: string, dims: number[], seed: number) =>
    s.weight(name, spread(dims, [-0.5, 0.5], seed));
  const first = s.add('MatMul', [s.input(x!, ['loss', 4]), weight(w1!, [4, 5], 1)], `${h}1`);
  const hidden = s.add('Tanh', [s.add('Add', [first, weight(b1!, [5], 2)], `${h}2`)], h!);
  const second = s.add('MatMul', [hidden, weight(w2!, [5, 3], 3)], `${h}3`);
  const model = s.model([s.add('Add', [second, weight(b2!, [3], 4)], y!)]);
  for (const node of model.graph.nodes) node.name = '';
  return model;
}

const samples = () => ({ x: spread([16, 4], [-1, 1], 7), t: spread([16, 3], [-1, 1], 8) });
const write = (name: string, arrays: Record<string, Tensor>) =>
  writeSafetensors(file(name), new Map(Object.entries(arrays)));

describe('names', () => {
  let plain: ReturnType<typeof results> | undefined;
  let count = 0;
  const PLAIN = ['x', 'w1', 'b1', 'w2', 'b2', 'y', 'h'];

  /** What the five commands make of the network under these names, by the names' places. */
  async function results(names: readonly string[], as: string) {
    const [model, data, injected] = [`${as}.onnx`, `${as}.safetensors`, `${as}.agd.onnx`];
    await saveModel(network(names), file(model));
    const { x, t } = samples();
    await write(data, { [names[0]!]: x, target: t });
    const { parameters } = JSON.parse(ok('inspect', model, '--json'));
    ok('grad', model, '--loss', 'mse', '--inputs', data, '-o', `${as}.grad`, '--check');
    ok('inject', model, '--loss', 'mse', '-o', injected);
    const [direct, state] = [`${as}.direct.onnx`, `${as}.state.onnx`];
    ok('train', model, '--loss', 'mse', '--data', data, '--batch-size', '8', '-o', direct);
    ok('train', injected, '--data', data, '--batch-size', '8', '-o', `${as}.other.onnx`, '--state', state);
    ok('export', state, '-o', `${as}.exported.onnx`);
    const grads = await loadArrays(file(`${as}.grad`));
    const weights = async (path: string) => {
      const { graph } = await loadModel(file(path));
      return names.slice(1, 5).map(n => [...graph.initializers].find(([v]) => v.name === n)![1].numbers());
    };
    const trained = await weights(direct);
    expect(await weights(`${as}.other.onnx`)).toEqual(trained);
    expect(await weights(`${as}.exported.onnx`)).toEqual(trained);
    return {
      trains: names.slice(1, 5).map(n => parameters.find((p: { name: string }) => p.name === n).trains),
      gradients: names.slice(1, 5).map(n => grads.get(n)!.numbers()),
      trained,
    };
  }

  it.each([
    ['those that a step adds', ['lr', 'step', 'loss', 'w', 'w_grad', 'target', 'w_new']],
    [
      'those of its states',
      ['x', 'w', 'w_exp_avg', 'w_exp_avg_corrected', 'w_exp_avg_sq', 'loss', 'sample_losses'],
    ],
    [
      'those of the evaluation',
      ['batch', 'sample_weights', 'target_1', 'target_2', 'batch_index', 'y', 'target'],
    ],
    [
      'those that objects inherit',
      ['constructor', 'toString', 'valueOf', '__defineGetter__', 'hasOwnProperty', 'y', '__proto__'],
    ],
    ['unlike in case alone', ['X', 'W', 'w', 'B', 'b', 'Y', 'y']],
    ['of other signs', ['Eingabe ü/日本:0', 'W*[0]{a,b}', 'a/b:0', 'two words', 'it\'s "so"', '😀', '../h']],
  ])('%s are names like others', async (_, names) => {
    plain ??= results(PLAIN, 'plain');
    expect(await results(names, `odd${++count}`)).toEqual(await plain);
  });
});

describe('grad --map', () => {
  it('feeds arrays of other names', async () => {
    await saveModel(network(['x', 'w1', 'b1', 'w2', 'b2', 'y', 'h']), file('map.onnx'));
    const { x, t } = samples();
    await write('named.safetensors', { x, target: t });
    await write('other.safetensors', { images: x, labels: t });
    const grad = async (inputs: string, ...more: string[]) => {
      ok('grad', 'map.onnx', '--loss', 'mse', '--inputs', inputs, '-o', 'map.grad', ...more);
      return Object.fromEntries([...(await loadArrays(file('map.grad')))].map(([n, g]) => [n, g.numbers()]));
    };
    const mapped = await grad('other.safetensors', '--map', 'x=images', '--map', 'target=labels');
    expect(mapped).toEqual(await grad('named.safetensors'));
  });
  it('names the arrays that there are', () => {
    const args = ['--loss', 'mse', '--inputs', 'other.safetensors', '-o', 'map.grad', '--map', 'x=pictures'];
    const { code, err } = agdOnnx(folder, 'grad', 'map.onnx', ...args);
    expect(code).toBe(1);
    expect(err).toContain(
      "--map x=pictures: other.safetensors has no array 'pictures', only 'images', 'labels'.",
    );
  });
});

it('train --whole feeds an array whole at every step', async () => {
  const s = new Sketch();
  const scaled = s.add('Mul', [s.input('x', ['n', 4]), s.input('scale', ['width'])], 'scaled');
  await saveModel(s.model([s.add('MatMul', [scaled, s.weight('w', [4, 3])], 'y')]), file('whole.onnx'));
  const { x, t } = samples();
  await write('whole.safetensors', { x, target: t, scale: spread([4], [1, 2], 3) });
  const args = ['whole.onnx', '--loss', 'mse', '--data', 'whole.safetensors', '-o', 'whole.trained.onnx'];
  const refused = agdOnnx(folder, 'train', ...args);
  expect(refused.code).toBe(1);
  expect(refused.err).toContain('--whole scale');
  expect(ok('train', ...args, '--whole', 'scale', '--batch-size', '8')).toContain('done after 2 steps');
});

it('outputs that no node computes are written as they were', async () => {
  const s = new Sketch();
  const [x, w, k] = [s.input('x', ['n', 4]), s.weight('w', [4, 3]), s.weight('k', [2])];
  await saveModel(s.model([s.add('MatMul', [x, w], 'y'), x, w, k]), file('direct.onnx'));
  const { x: array, t } = samples();
  await write('direct.safetensors', { x: array, target: t });
  const { parameters } = JSON.parse(ok('inspect', 'direct.onnx', '--json', '--output', 'y'));
  expect(parameters).toMatchObject([
    { name: 'w', trains: true },
    { name: 'k', trains: false },
  ]);
  ok('inject', 'direct.onnx', '--loss', 'mse', '--output', 'y', '-o', 'direct.agd.onnx');
  ok(
    'train',
    'direct.agd.onnx',
    '--data',
    'direct.safetensors',
    '--state',
    'direct.state.onnx',
    '-o',
    'a.onnx',
  );
  ok('export', 'direct.state.onnx', '-o', 'b.onnx');
  const read = async (name: string) => {
    const { graph } = await loadModel(file(name));
    const values = Object.fromEntries(
      [...graph.initializers].map(([v, tensor]) => [v.name, tensor.numbers()]),
    );
    return { outputs: graph.outputs.map(v => v.name), values };
  };
  const [before, trained] = [await read('direct.onnx'), await read('a.onnx')];
  expect(await read('b.onnx')).toEqual(trained);
  expect(trained.outputs).toEqual(['y', 'x', 'w', 'k']);
  expect(trained.values.k).toEqual(before.values.k);
  expect(trained.values.w).not.toEqual(before.values.w);
});

it('outputs that are no tensors, such as the maps of classes from scikit-learn, are in no way of the others', async () => {
  const s = new Sketch();
  const y = s.add('MatMul', [s.input('x', ['n', 4]), s.weight('w', [4, 3])], 'y');
  const maps = s.add('ZipMap', [y], 'maps', { classlabels_int64s: [4, 5, 6] });
  maps.producer!.domain = 'ai.onnx.ml';
  const model = s.model([maps, y]);
  model.opsetImports.set('ai.onnx.ml', 1);
  await saveModel(model, file('open-maps.onnx'));
  const map = { keyType: 7, valueType: { tensorType: { elemType: 1 } } };
  maps.type = { kind: 'sequence', elem: { kind: 'other', extra: { mapType: map } } };
  await saveModel(model, file('maps.onnx'));
  const { x, t } = samples();
  await write('maps.safetensors', { x, target: t });
  for (const args of [
    ['maps.onnx', '--loss', 'mse'],
    ['open-maps.onnx', '--loss', 'mse', '--output', 'y'],
  ]) {
    expect(ok('evaluate', ...args, '--data', 'maps.safetensors')).toContain('loss');
    ok('grad', ...args, '--inputs', 'maps.safetensors', '-o', 'maps.grad');
    expect(ok('train', ...args, '--data', 'maps.safetensors', '-o', 'maps.trained.onnx')).toContain('done');
  }
  ok('predict', 'maps.onnx', '--data', 'maps.safetensors', '-o', 'maps.npz');
  expect([...(await loadArrays(file('maps.npz'))).keys()]).toEqual(['y']);
  const asked = agdOnnx(folder, 'predict', 'maps.onnx', '--data', 'maps.safetensors', '--output', 'maps');
  expect(asked).toMatchObject({
    code: 1,
    err: expect.stringContaining("Output 'maps' is not a tensor: name an output that is"),
  });
  model.graph.outputs = [maps];
  await saveModel(model, file('only-maps.onnx'));
  const inner = ['only-maps.onnx', '--data', 'maps.safetensors', '--loss', 'mse'];
  expect(agdOnnx(folder, 'evaluate', ...inner)).toMatchObject({
    code: 1,
    err: expect.stringContaining('Name an inner value with --output.'),
  });
  expect(ok('evaluate', ...inner, '--output', 'y')).toContain('loss');
});
