/** --precision, from the user's file to the user's file. */
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { loadModel, saveModel } from '../../src/graph/files.js';
import { readStep } from '../../src/passes/file/step-metadata.js';

import { convert } from '../../src/runtime/data/convert.js';
import { loadArrays } from '../../src/runtime/data/load.js';
import { writeNpz } from '../../src/runtime/data/npz.js';
import { Session } from '../../src/runtime/session.js';
import { mlp, mlpData } from '../sample.js';
import { agdOnnx } from './run.js';

it('a float16 file trains by a configuration, goes on with its loss scale, and is written as float16', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'agd-onnx-precision-'));
  try {
    const half = mlp();
    for (const [value, tensor] of half.graph.initializers) {
      half.graph.initializers.set(value, convert(tensor, 'float16'));
      value.type = { kind: 'tensor', dtype: 'float16', shape: tensor.dims };
    }
    for (const v of half.graph.inputs) v.type = { kind: 'tensor', dtype: 'float16', shape: v.shape };
    await saveModel(half, join(folder, 'half.onnx'), { externalData: 'always' });
    await writeNpz(join(folder, 'data.npz'), mlpData(64));
    const config = { loss: { kind: 'cross-entropy' }, precision: 'fp16', lossScale: 64, lossScaleWindow: 3 };
    await writeFile(join(folder, 'run.json'), JSON.stringify(config));
    const train = (epochs: number) =>
      agdOnnx(
        folder,
        ...[
          'train',
          epochs === 1 ? 'half.onnx' : 'state.onnx',
          '--data',
          'data.npz',
          '--epochs',
          `${epochs}`,
        ],
        ...['--batch-size', '16', '--state', 'state.onnx', '-o', 'out.onnx'],
        ...['--log', 'log.jsonl', '--csv', 'run.csv'],
        ...(epochs === 1 ? ['--config', 'run.json'] : []),
      );
    const scale = async () => {
      const model = await loadModel(join(folder, 'state.onnx'));
      const { precision, scaling } = readStep(model);
      const [, tensor] = [...model.graph.initializers].find(([v]) => v.name === scaling!.scale)!;
      return [precision, tensor.numbers()[0]];
    };
    expect(train(1)).toMatchObject({ code: 0 });
    expect(await scale()).toEqual(['fp16', 128]);
    expect(train(3)).toMatchObject({ code: 0 });
    expect(await scale()).toEqual(['fp16', 1024]);
    const events = (await readFile(join(folder, 'log.jsonl'), 'utf8'))
      .trim()
      .split('\n')
      .map(line => JSON.parse(line));
    const scales = events.filter(e => e.type === 'step').map(e => [e.lossScale, e.skipped]);
    expect(scales).toEqual([64, 64, 128, 128, 128, 256, 256, 256, 512, 512, 512, 1024].map(n => [n, 0]));
    const [head, ...rows] = (await readFile(join(folder, 'run.csv'), 'utf8')).trim().split('\n');
    expect(head!.split(',').filter(name => /scale|skipped/.test(name))).toEqual(['loss_scale']);
    const column = head!.split(',').indexOf('loss_scale');
    expect(rows.map(row => row.split(',')[column]).filter(Boolean)).toEqual(scales.map(([n]) => String(n)));
    const { graph } = await loadModel(join(folder, 'out.onnx'));
    expect(new Set([...graph.initializers.values()].map(t => t.dtype))).toEqual(new Set(['float16']));
    const wrong = agdOnnx(folder, 'train', 'state.onnx', '--data', 'data.npz', '--precision', 'bf16');
    expect([wrong.code, wrong.err]).toEqual([1, expect.stringContaining('--precision')]);
  } finally {
    await rm(folder, { recursive: true });
  }
});

it('a run that skips all batches is an error: no model is written, and a state with the lowered scale is', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'agd-onnx-precision-'));
  try {
    await saveModel(mlp(), join(folder, 'model.onnx'));
    await writeNpz(join(folder, 'data.npz'), mlpData(64));
    const data = ['--data', 'data.npz', '--batch-size', '16', '--precision', 'fp16', '--loss-scale', '1e24'];
    const train = (model: string, ...more: string[]) => agdOnnx(folder, 'train', model, ...more);
    const { code, err } = train('model.onnx', '--loss', 'cross-entropy', ...data, '-o', 'out.onnx');
    expect([code, err]).toEqual([
      1,
      expect.stringContaining(
        'Nothing was trained: all 4 batches were skipped, as gradients were not finite. Start with a lower --loss-scale, or ' +
          'resume for more epochs: each of them halved it.',
      ),
    ]);
    const files = await readdir(folder);
    expect(files.sort()).toEqual(['data.npz', 'model.onnx', 'out.agd.onnx']);
    const [scale] = [...(await loadModel(join(folder, 'out.agd.onnx'))).graph.initializers].flatMap(
      ([v, t]) => (v.name === 'loss_scale' ? t.numbers() : []),
    );
    expect(scale! / 1e24).toBeCloseTo(1 / 16);
    // In time the scale fits float16.
    const more = train('out.agd.onnx', ...data.slice(0, 4), '--epochs', '20', '-o', 'out.onnx');
    expect(more).toMatchObject({ code: 0 });
  } finally {
    await rm(folder, { recursive: true });
  }
});

it('the gradients of a bfloat16 file are those of the float32 file with its weights', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'agd-onnx-precision-'));
  try {
    const at = (name: string) => join(folder, name);
    const [half, full] = [mlp(), mlp()];
    for (const { graph } of [half, full])
      for (const [value, tensor] of graph.initializers) {
        const rounded = convert(tensor, 'bfloat16');
        const dtype = graph === half.graph ? 'bfloat16' : 'float32';
        graph.initializers.set(value, convert(rounded, dtype));
        value.type = { kind: 'tensor', dtype, shape: tensor.dims };
      }
    for (const v of half.graph.inputs) v.type = { kind: 'tensor', dtype: 'bfloat16', shape: v.shape };
    await saveModel(half, at('half.onnx'));
    await saveModel(full, at('full.onnx'));
    await writeNpz(at('data.npz'), mlpData(8));
    const found: Map<string, number[]>[] = [];
    for (const name of ['half', 'full']) {
      const task = [`${name}.onnx`, '--loss', 'cross-entropy'];
      const grad = agdOnnx(folder, 'grad', ...task, '--inputs', 'data.npz', '-o', `${name}.npz`);
      expect(grad, grad.err).toMatchObject({ code: 0 });
      const values = new Map([...(await loadArrays(at(`${name}.npz`)))].map(([n, t]) => [n, t.numbers()]));
      for (const mode of ['gradient', 'jacobian']) {
        const of = mode === 'gradient' ? task : [`${name}.onnx`, '--of', 'logits'];
        const out = `${name}.${mode}.onnx`;
        const made = agdOnnx(folder, 'differentiate', ...of, '--wrt', 'x', '--mode', mode, '-o', out);
        expect(made, made.err).toMatchObject({ code: 0 });
        const session = await Session.create(await loadModel(at(out)));
        const { x, target } = Object.fromEntries(mlpData(8));
        const results = await session.run(mode === 'gradient' ? { x: x!, target: target! } : { x: x! });
        for (const [n, t] of Object.entries(results)) values.set(`${mode} ${n}`, t.numbers());
        await session.release();
      }
      found.push(values);
    }
    expect([...found[0]!.keys()]).toEqual(expect.arrayContaining(['fc1.weight', 'gradient x_grad']));
    expect(found[0]).toEqual(found[1]);
  } finally {
    await rm(folder, { recursive: true });
  }
});
