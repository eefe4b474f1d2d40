/** What was trained is in the file as written, in every form of storage, without the files it came from. */
import { mkdir, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { loadModel, saveModel } from '../../src/graph/files.js';
import { tensorsOf } from '../../src/graph/places.js';
import { encodeModel } from '../../src/graph/proto/codec.js';
import { bindData, exportFile, exportFrom, inject, inspect, Trainer } from '../../src/index.js';
import { FORMS, type Form, nameAt, writeAs } from '../conformance/forms.js';
import { mlp, mlpData } from '../sample.js';

const valuesIn = async (path: string) =>
  new Map(
    [...tensorsOf(await loadModel(path))].map(({ place, tensor }) => [nameAt(place), tensor.numbers()]),
  );

it.each(Object.keys(FORMS) as Form[])('a model that is stored as %s', async form => {
  const folder = await mkdtemp(join(tmpdir(), 'agd-export-'));
  const at = (name: string) => join(folder, name);
  await mkdir(at('source'));
  await writeAs(form, encodeModel(mlp()), at('source/model.onnx'));
  const original = await readFile(at('source/model.onnx'));
  const { parameters } = await inspect(await loadModel(at('source/model.onnx')));
  expect(parameters.map(p => [p.name.replace('whole/', ''), p.trains])).toEqual(
    ['fc1.weight', 'fc1.bias', 'fc2.weight', 'fc2.bias'].map(name => [name, true]),
  );
  const before = await valuesIn(at('source/model.onnx'));
  const { model } = await inject(await loadModel(at('source/model.onnx')), {
    loss: { kind: 'cross-entropy' },
    optimizer: { name: 'sgd', lr: 0.5 },
    original,
  });
  const trainer = await Trainer.create(model);
  const data = bindData(mlpData(16), trainer.inputs);
  for (let i = 0; i < 3; i++)
    for await (const { inputs } of data.batches({ batchSize: 16 })) await trainer.step(inputs);
  await saveModel(trainer.snapshot(), at('state.onnx'));
  await exportFile(trainer.snapshot(), at('trained.onnx'));
  const known = (await trainer.evaluate(data.batches({ batchSize: 16 }))).loss;
  const state = new Map([...trainer.state].map(([name, t]) => [name.replace('whole/', ''), t.numbers()]));
  await trainer.release();
  await rm(at('source'), { recursive: true });
  // A state of its own, and two models, share nothing.
  await exportFrom(at('state.onnx'), at('again.onnx'));
  for (const file of await readdir(folder)) if (file.startsWith('state')) await rm(at(file));
  for (const file of ['trained.onnx', 'again.onnx']) {
    const values = await valuesIn(at(file));
    for (const { name } of parameters.map(p => ({ name: p.name.replace('whole/', '') }))) {
      expect(values.get(name)).toEqual(state.get(name));
      expect(values.get(name)).not.toEqual(before.get(name));
    }
    const read = await inject(await loadModel(at(file)), { loss: { kind: 'cross-entropy' } });
    const fresh = await Trainer.create(read.model);
    expect((await fresh.evaluate(data.batches({ batchSize: 16 }))).loss).toBeCloseTo(known, 6);
    await fresh.release();
  }
  if (!/file|outside|bytes/.test(form) && form !== 'typed') {
    const written = await readFile(at('trained.onnx'));
    expect(written.length).toBe(original.length);
  }
  await rm(folder, { recursive: true });
});

it('a tensor that is not in its place in what was written stops the export, and nothing is replaced', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'agd-export-'));
  const path = join(folder, 'trained.onnx');
  const { model } = await inject(mlp(), { loss: { kind: 'cross-entropy' } });
  const places = JSON.parse(model.metadata.get('agd.original.places')!) as [string, string][];
  model.metadata.set('agd.original.places', JSON.stringify(places.slice(1)));
  await expect(exportFile(model, path)).rejects.toMatchObject({ code: 'invalid-model' });
  expect(await readdir(folder)).toEqual([]);
  await rm(folder, { recursive: true });
});
