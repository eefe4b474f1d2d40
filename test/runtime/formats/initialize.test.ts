import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onnx as proto } from 'onnx-proto';
import { expect, it } from 'vitest';
import { saveModel } from '../../../src/graph/files.js';
import type { Model } from '../../../src/graph/ir.js';
import { decodeModel, encodeModel } from '../../../src/graph/proto/codec.js';
import { trainingInfoForm } from '../../../src/passes/file/write-training-info.js';
import { inject } from '../../../src/passes/inject.js';
import { initialValues } from '../../../src/runtime/formats/initialize.js';
import { openForInjection } from '../../../src/runtime/formats/open-for-injection.js';
import { sessionShapes } from '../../../src/runtime/session.js';
import { mlp } from '../../sample.js';

/** A training step that begins with random weights, and with its own count of steps at 7. */
async function initialized(bindings: Record<string, string>): Promise<Model> {
  const { model } = await inject(mlp(), { loss: { kind: 'cross-entropy' } }, sessionShapes);
  const file = proto.ModelProto.decode(encodeModel(trainingInfoForm(model)));
  const [info] = file.trainingInfo;
  const ints = (name: string, ...values: number[]) => ({
    name,
    type: proto.AttributeProto.AttributeType.INTS,
    ints: values,
  });
  const seven = { name: 'seven', dataType: 7, rawData: Uint8Array.of(7, 0, 0, 0, 0, 0, 0, 0) };
  info!.initialization = proto.GraphProto.create({
    name: 'begin',
    node: [
      { opType: 'RandomNormal', output: ['w'], attribute: [ints('shape', 4, 8)] },
      { opType: 'RandomNormal', output: ['v'], attribute: [ints('shape', 8, 3)] },
      { opType: 'Identity', input: ['seven'], output: ['count'] },
    ],
    initializer: [seven],
    output: ['w', 'v']
      .map(name => ({ name, type: { tensorType: { elemType: 1 } } }))
      .concat([{ name: 'count', type: { tensorType: { elemType: 7 } } }]),
  });
  info!.initializationBinding = Object.entries(bindings).map(([key, value]) => ({ key, value }));
  return decodeModel(proto.ModelProto.encode(file).finish());
}

const BINDINGS = { 'fc1.weight': 'w', 'fc2.weight': 'v', step: 'count' };

it('begins as the initialization says, by a seed', async () => {
  const path = join(await mkdtemp(join(tmpdir(), 'agd-')), 'training.onnx');
  await saveModel(await initialized(BINDINGS), path);
  const begin = async (seed: number, initialize = true) => {
    const opened = await openForInjection(path, { seed }, { initialize });
    const { model } = await inject(opened.model, opened.options, sessionShapes);
    return new Map([...model.graph.initializers].map(([v, t]) => [v.name, t.numbers()]));
  };
  const [one, again, other, stored] = [await begin(1), await begin(1), await begin(2), await begin(1, false)];
  expect(one.get('fc1.weight')).toEqual(again.get('fc1.weight'));
  expect(one.get('fc1.weight')).not.toEqual(other.get('fc1.weight'));
  expect(one.get('fc2.weight')).not.toEqual(stored.get('fc2.weight'));
  expect(one.get('fc1.bias')).toEqual(stored.get('fc1.bias'));
  expect([one.get('step'), stored.get('step')]).toEqual([[7], [0]]);
});

it('refuses a binding to what is not there, values of another shape, and models that say nothing', async () => {
  await expect(initialValues(await initialized({ 'fc1.weight': 'u' }))).rejects.toThrow(
    /initializes 'fc1.weight' with 'u', which its initialization does not compute/,
  );
  await expect(initialValues(mlp())).rejects.toThrow(/has no initialization graph/);
  const swapped = await initialized({ 'fc1.weight': 'v' });
  const values = await initialValues(swapped);
  await expect(inject(swapped, { values }, sessionShapes)).rejects.toThrow(
    /'fc1.weight' has shape \[4,8\], not \[8,3\]/,
  );
});
