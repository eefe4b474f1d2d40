import { copyFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { loadModel, saveModel } from '../../../src/graph/files.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { inject } from '../../../src/passes/inject.js';
import { writeSafetensors } from '../../../src/runtime/data/safetensors.js';
import { exportFile } from '../../../src/runtime/export.js';
import { loadParameters } from '../../../src/runtime/formats/artifacts.js';
import { exportFrom } from '../../../src/runtime/formats/export-from.js';
import { openForInjection } from '../../../src/runtime/formats/open-for-injection.js';
import { toOrtCheckpoint } from '../../../src/runtime/formats/ort-state.js';
import { Session, sessionShapes } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { artifactFolder, BATCH } from '../../passes/import/ort-artifacts.js';
import { mlp } from '../../sample.js';

it.each([
  ['the evaluation model', []],
  ['the training model alone', ['evaluation']],
])('exports an inference model from %s', async (_, omit) => {
  const path = await artifactFolder(omit);
  const source = await openForInjection(path, {});
  const { model } = await inject(source.model, source.options, sessionShapes);
  const trainer = await Trainer.create(model);
  await trainer.step(BATCH);
  const out = join(path, 'trained.onnx');
  await exportFile(trainer.snapshot(), out);
  const { graph } = await loadModel(out);
  expect([graph.inputs, graph.outputs].map(vs => vs.map(v => v.name))).toEqual([['x'], ['logits']]);
  expect(graph.nodes.map(n => n.opType)).toEqual(['Conv', 'Relu', 'MaxPool', 'Reshape', 'Mul', 'Gemm']);
  const session = await Session.create(await loadModel(out));
  expect((await session.run({ x: BATCH.x! })).logits!.dims).toEqual([4, 3]);
  await session.release();
});

it('takes the training model for its folder', async () => {
  const source = await openForInjection(join(await artifactFolder(), 'training_model.onnx'), {});
  expect(source.options.exports).toEqual(['logits']);
});

it('finds what belongs to a training model by what its name begins with', async () => {
  const folder = await artifactFolder();
  for (const name of ['training_model.onnx', 'eval_model.onnx', 'checkpoint'])
    await rename(join(folder, name), join(folder, `v2_${name}`));
  expect((await openForInjection(folder, {})).options.exports).toEqual(['logits']);
  await copyFile(join(folder, 'v2_training_model.onnx'), join(folder, 'training_model.onnx'));
  await expect(openForInjection(folder, {})).rejects.toThrow(/several training models: name one of/);
  await copyFile(join(folder, 'v2_checkpoint'), join(folder, 'v2_last.ckpt'));
  expect((await openForInjection(join(folder, 'v2_training_model.onnx'), {})).options.values?.size).toBe(5);
  await rename(join(folder, 'v2_checkpoint'), join(folder, 'v2_first.ckpt'));
  await expect(openForInjection(join(folder, 'v2_training_model.onnx'), {})).rejects.toThrow(
    /There are 2 checkpoints in the folder of v2_training_model.onnx: .*--params/,
  );
});

it('says which models a folder has, if none is a training model', async () => {
  const folder = await artifactFolder();
  await rename(join(folder, 'training_model.onnx'), join(folder, 'decoder.onnx'));
  await expect(openForInjection(folder, {})).rejects.toThrow(
    /has no training_model\.onnx: name one of .*decoder\.onnx/,
  );
  for (const name of ['decoder.onnx', 'eval_model.onnx']) await rm(join(folder, name));
  await expect(openForInjection(folder, {})).rejects.toThrow(
    /has no training_model\.onnx, and no other \.onnx file/,
  );
});

it('takes the loss and the gradients that the artifacts compute', async () => {
  const folder = await artifactFolder();
  await expect(openForInjection(folder, { loss: { kind: 'mse' } })).rejects.toThrow(
    /artifacts compute their loss and its gradients: leave out --loss/,
  );
  const some = await openForInjection(folder, { gradients: ['fc.{param}=fc.{param}_grad'] });
  const { report } = await inject(some.model, some.options, sessionShapes);
  expect(report.parameters.filter(p => p.trains).map(p => p.value.name)).toEqual(['fc.weight', 'fc.bias']);
});

it('trains the evaluation model, whose parameters are inputs, from the loss that it computes', async () => {
  const folder = await artifactFolder();
  const [evaluation, out] = ['eval_model.onnx', 'out.onnx'].map(name => join(folder, name)) as [
    string,
    string,
  ];
  const loss = { kind: 'output', output: 'onnx::loss::7' } as const;
  const opened = await openForInjection(evaluation, { loss }, { params: join(folder, 'checkpoint') });
  const { report } = await inject(opened.model, opened.options, sessionShapes);
  expect(report.parameters.filter(p => p.trains)).toHaveLength(4);
  expect(report.parameters.find(p => !p.trains)).toMatchObject({ why: 'frozen in the checkpoint' });
  expect([
    ...toOrtCheckpoint((await inject(opened.model, opened.options, sessionShapes)).model).frozen.keys(),
  ]).toEqual(['scale']);
  const values = await loadParameters(join(folder, 'checkpoint'));
  await exportFrom(evaluation, out, { values });
  const { graph } = await loadModel(out);
  expect([graph.inputs, graph.outputs].map(vs => vs.map(v => v.name))).toEqual([['x'], ['logits']]);
  expect(graph.outputs[0]!.shape).toEqual([4, 3]);
  await expect(inject(mlp(), { loss: { kind: 'cross-entropy' }, values }, sessionShapes)).rejects.toThrow(
    /None of the parameters given is an input or initializer/,
  );
});

it('asks for values where there is no checkpoint, and names those that are missing', async () => {
  await expect(openForInjection(await artifactFolder(['checkpoint']), {})).rejects.toThrow(
    /is no checkpoint in the folder of training_model.onnx.*--params/,
  );
  const values = new Map([['fc.bias', Tensor.zeros('float32', [3])]]);
  await expect(openForInjection(await artifactFolder(), { values })).rejects.toThrow(
    "No values for 'conv.weight', 'conv.bias', 'fc.weight', 'scale': they are in the checkpoint",
  );
  await expect(openForInjection(await artifactFolder(['training']), {})).rejects.toMatchObject({
    code: 'io',
  });
});

const initializers = async (path: string) =>
  new Map([...(await loadModel(path)).graph.initializers].map(([v, t]) => [v.name, t.numbers()]));

it('exports artifacts as an inference model with the parameters of their checkpoint, or others', async () => {
  const folder = await artifactFolder();
  const out = join(folder, 'inference.onnx');
  await exportFrom(folder, out);
  const checkpoint = await loadParameters(join(folder, 'checkpoint'));
  expect((await initializers(out)).get('fc.bias')).toEqual(checkpoint.get('fc.bias')!.numbers());
  await exportFrom(folder, out, { values: new Map(checkpoint).set('fc.bias', Tensor.zeros('float32', [3])) });
  expect((await initializers(out)).get('fc.bias')).toEqual([0, 0, 0]);
});

it('puts parameters that were trained elsewhere into a model, or into a training step', async () => {
  const folder = await artifactFolder();
  const [plain, injected, params, out] = ['plain.onnx', 'step.onnx', 'params.safetensors', 'out.onnx'].map(
    name => join(folder, name),
  ) as [string, string, string, string];
  await saveModel(mlp(), plain);
  const step = await inject(mlp(), { loss: { kind: 'cross-entropy' } }, sessionShapes);
  await saveModel(step.model, injected);
  const trained = new Map(
    [...mlp().graph.initializers].map(([v, t]) => [v.name, Tensor.filled('float32', t.dims, 2)]),
  );
  await writeSafetensors(params, trained);
  const values = await loadParameters(params);
  for (const source of [plain, injected]) {
    await exportFrom(source, out, { values });
    for (const numbers of (await initializers(out)).values()) expect(new Set(numbers)).toEqual(new Set([2]));
  }
  await expect(exportFrom(plain, out)).rejects.toThrow(
    /contains no training step: run agd-onnx inject on it first, or give trained parameters with --params/,
  );
  await expect(exportFrom(plain, out, { values, ema: true })).rejects.toThrow(/keeps no average/);
  const other = new Map([['w', Tensor.zeros('float32', [1])]]);
  await expect(exportFrom(plain, out, { values: other })).rejects.toThrow(/None of the parameters given/);
  await expect(exportFrom(injected, out, { values: other })).rejects.toThrow(
    /no value for parameter 'fc1.weight'/,
  );
  const wrong = new Map(values).set('fc2.bias', Tensor.zeros('float32', [4]));
  await expect(exportFrom(injected, out, { values: wrong })).rejects.toThrow(
    /'fc2.bias' has shape \[4\], not \[3\]/,
  );
});

it('takes parameters from the initializers of a model', async () => {
  const path = join(await artifactFolder(), 'model.onnx');
  await saveModel(mlp(), path);
  expect([...(await loadParameters(path)).keys()]).toContain('fc1.weight');
  const text = join(await artifactFolder(), 'checkpoint');
  await writeFile(text, 'nothing');
  await expect(loadParameters(text)).rejects.toThrow(/it is not an ONNX Runtime training checkpoint/);
  await writeFile(path, 'nothing');
  await expect(loadParameters(path)).rejects.toThrow();
});
