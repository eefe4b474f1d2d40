import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { loadModel } from '../../src/graph/files.js';
import { readDescription } from '../../src/passes/file/step-metadata.js';
import { agdOnnx, workplace } from './run.js';

const outputs = async (path: string) => (await loadModel(path)).graph.outputs.map(v => v.shape);

describe('adapt', () => {
  it('writes a model with a new head, which trains alone', async () => {
    const folder = await workplace();
    const { code, out } = agdOnnx(folder, 'adapt', 'model.onnx', '--classes', '5', '--seed', '3');
    expect(code).toBe(0);
    expect(out).toBe(
      [
        'head       fc2 (Gemm): 3 outputs before, 5 after',
        'new        fc2.weight, fc2.bias',
        'outputs    logits float32[batch,5]',
        'wrote model.adapted.onnx\n',
      ].join('\n'),
    );
    expect(await outputs(join(folder, 'model.adapted.onnx'))).toEqual([['batch', 5]]);
    const train = ['train', 'model.adapted.onnx', '--loss', 'cross-entropy', '--freeze', 'backbone'];
    const run = agdOnnx(folder, ...train, '--data', 'train.npz', '-o', 'head.onnx');
    expect(run.err).toBe('');
    const [before, after] = [
      await loadModel(join(folder, 'model.adapted.onnx')),
      await loadModel(join(folder, 'head.onnx')),
    ].map(m => new Map([...m.graph.initializers].map(([v, t]) => [v.name, t.numbers()])));
    expect(after!.get('fc1.weight')).toEqual(before!.get('fc1.weight'));
    expect(after!.get('fc2.weight')).not.toEqual(before!.get('fc2.weight'));
  });

  it.each([
    ['--classes 4 --keep 2,0 --head fc2', 'head       fc2 (Gemm): 3 outputs before, 4 after', 4],
    ['--classes 4 --head-mlp 6,5', 'fc2.hidden.1.weight', 4],
    ['--outputs 1 --regression', 'head       fc2 (Gemm): 3 outputs before, 1 after', 1],
  ])('takes %s', async (flags, said, count) => {
    const folder = await workplace();
    const { code, out } = agdOnnx(folder, 'adapt', 'model.onnx', ...flags.split(' '), '-o', 'new.onnx');
    expect(code).toBe(0);
    expect(out).toContain(said);
    expect(await outputs(join(folder, 'new.onnx'))).toEqual([['batch', count]]);
  });

  it.each([
    [[], '--classes N, --outputs N'],
    [['--classes', '2', '--outputs', '3'], '--classes cannot be combined with --outputs.'],
    [['--classes', 'two'], '--classes must be a whole number of at least 1'],
    [['--classes', '2', '--keep', '0,x'], "--keep: expected comma-separated numbers, not '0,x'."],
    [['--classes', '2', '--head', 'fc3'], "--head 'fc3' names no linear layer; there are 'fc2'"],
    [['--vocabulary', '9'], "No table is looked up by an integer input of the model ('x')"],
    [['--classes', '2', '-o', 'model.onnx'], 'model.onnx would overwrite what it is made from'],
  ])('refuses %j in one line', async (flags, message) => {
    const { code, err } = agdOnnx(await workplace(), 'adapt', 'model.onnx', ...flags);
    expect(code).toBe(1);
    expect(err).toContain(message);
    expect(err.trim().split('\n').length).toBeLessThanOrEqual(2);
  });
});

describe('training layer by layer', () => {
  const step = async (folder: string, file: string) => readDescription(await loadModel(join(folder, file)));

  it('begins with each layer after the epochs that are asked for', async () => {
    const folder = await workplace();
    const train = ['train', 'model.onnx', '--loss', 'cross-entropy', '--data', 'train.npz', '--epochs', '3'];
    const { err } = agdOnnx(
      folder,
      ...train,
      '--unfreeze-every',
      '1epoch',
      '--state',
      'state.onnx',
      '-o',
      'a.onnx',
    );
    expect(err).toBe('');
    const { parameters } = await step(folder, 'state.onnx');
    expect(parameters.map(p => p.begins)).toEqual([8, 8, undefined, undefined]);
  });

  it('has rates by layer, and layers that stay', async () => {
    const folder = await workplace();
    const inject = ['inject', 'model.onnx', '--loss', 'cross-entropy', '--lr', '0.5'];
    agdOnnx(folder, ...inject, '--layer-decay', '0.5', '--unfreeze-every', '20', '-o', 'a.onnx');
    const { parameters } = await step(folder, 'a.onnx');
    expect(parameters.map(p => [p.options?.lr, p.begins])).toEqual([
      ...[
        [0.25, 20],
        [0.25, 20],
      ],
      ...[
        [undefined, undefined],
        [undefined, undefined],
      ],
    ]);
    agdOnnx(folder, ...inject, '--unfreeze-last', '1', '-o', 'b.onnx');
    expect((await step(folder, 'b.onnx')).parameters.map(p => p.name)).toEqual(['fc2.weight', 'fc2.bias']);
  });

  it.each([
    [
      ['--unfreeze-every', 'week'],
      "--unfreeze-every: expected a number of updates or epochs, as 500 or 1epoch, not 'week'.",
    ],
    [['--unfreeze-every', '2epochs'], 'Epochs of --unfreeze-every have a length only where there are data'],
    [['--layer-decay', '0'], '--layer-decay must be a number from 0 to 1, not 0'],
    [['--unfreeze-last', '9'], '--unfreeze-last 9: the model has 2 layers that train: fc1, fc2.'],
    [['--freeze', 'backbones'], "--freeze 'backbones' matches no floating-point initializer"],
  ])('refuses %j', async (flags, message) => {
    const { code, err } = agdOnnx(
      await workplace(),
      'inject',
      'model.onnx',
      '--loss',
      'cross-entropy',
      ...flags,
    );
    expect(code).toBe(1);
    expect(err).toContain(message);
  });
});
