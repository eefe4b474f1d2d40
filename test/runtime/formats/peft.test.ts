/** Adapters beside PEFT's: `peft/make.py` recorded what PyTorch and PEFT make of the same model, values and batches. */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { loadModel } from '../../../src/graph/files.js';
import type { Model } from '../../../src/graph/ir.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { inject } from '../../../src/passes/inject.js';
import { FlatTable } from '../../../src/runtime/data/flatbuffer.js';
import { readSafetensors } from '../../../src/runtime/data/safetensors.js';
import { exportFile } from '../../../src/runtime/export.js';
import { exportFrom } from '../../../src/runtime/formats/export-from.js';
import { writeOnnxAdapter } from '../../../src/runtime/formats/onnx-adapter.js';
import { openForInjection } from '../../../src/runtime/formats/open-for-injection.js';
import { readPeft, writePeft } from '../../../src/runtime/formats/peft.js';
import { Session, sessionShapes } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';

const FOLDER = join(import.meta.dirname, 'peft');
const expected = JSON.parse(await readFile(join(FOLDER, 'expected.json'), 'utf8'));
const options = {
  loss: { kind: 'cross-entropy', classAxis: -1 },
  optimizer: { name: 'sgd', lr: 0.5, momentum: 0 },
} as const;

const tokens = (values: number[]) => Tensor.from('int64', [3, 5], BigInt64Array.from(values, BigInt));

/** The losses of the recorded batches, and the model after them. */
async function trained(file: string): Promise<{ losses: number[]; model: Model }> {
  const opened = await openForInjection(join(FOLDER, file), options, { adapter: join(FOLDER, 'start') });
  const { model } = await inject(opened.model, opened.options, sessionShapes);
  const trainer = await Trainer.create(model);
  const losses: number[] = [];
  for (const [x, target] of expected.batches) {
    const { loss } = await trainer.step({ tokens: tokens(x), target: tokens(target) });
    losses.push(loss);
  }
  const after = trainer.snapshot();
  await trainer.release();
  return { losses, model: after };
}

function expectClose(actual: ArrayLike<number>, wanted: ArrayLike<number>, tolerance: number) {
  expect(actual.length).toBe(wanted.length);
  const worst = Math.max(...Array.from(actual, (x, i) => Math.abs(x - wanted[i]!)));
  expect(worst).toBeLessThan(tolerance);
}

async function logits(file: string, feeds = {}) {
  const session = await Session.create(await loadModel(file));
  const results = await session.run({ tokens: tokens(expected.batches[0][0]), ...feeds });
  await session.release();
  return results.logits!.numbers();
}

/** The values in a folder, as PyTorch's parameters are named in training. */
async function valuesIn(folder: string): Promise<Map<string, number[]>> {
  const { tensors } = await readSafetensors(join(folder, 'adapter_model.safetensors'));
  return new Map(
    [...tensors].map(([name, t]) => [
      name
        .replace(/\.(lora_[AB])\.weight$/, '.$1.default.weight')
        .replace(/(lora_embedding_[AB])$/, '$1.default'),
      t.numbers(),
    ]),
  );
}

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'peft-'));
});
afterAll(() => rm(folder, { recursive: true }));

describe('training that begins with an adapter of PEFT', () => {
  it.each([
    ['of weights in floating point', 'model.onnx', expected],
    ['of weights of 4 bits', 'model.int4.onnx', expected.int4],
  ])('%s has its losses and values', async (_, file, { losses, after }) => {
    const run = await trained(file);
    expectClose(run.losses, losses, 2e-6);
    await writePeft(run.model, join(folder, 'end'));
    const values = await valuesIn(join(folder, 'end'));
    expect([...values.keys()].sort()).toEqual(Object.keys(after).sort());
    for (const [name, value] of values) expectClose(value, after[name], 5e-6);
  });
});

describe('what was trained', () => {
  it('is merged into weights in floating point', async () => {
    const { model } = await trained('model.onnx');
    const file = join(folder, 'merged.onnx');
    await exportFile(model, file);
    expectClose(await logits(file), expected.logits, 2e-5);
    const { graph, metadata } = await loadModel(file);
    const before = (await loadModel(join(FOLDER, 'model.onnx'))).graph;
    expect(graph.nodes.map(n => n.opType)).toEqual(before.nodes.map(n => n.opType));
    expect(metadata.has('agd.adapters')).toBe(false);
  });

  it('stays apart where the weights are quantized, or where that is asked for', async () => {
    const { model } = await trained('model.int4.onnx');
    const [merged, apart] = [join(folder, 'int4.onnx'), join(folder, 'apart.onnx')];
    await exportFile(model, merged);
    const names = (await loadModel(merged)).graph.initializers.keys();
    const left = [...names].map(v => v.name).filter(n => n.endsWith('lora_A'));
    expect(left.sort()).toEqual(
      [0, 1].flatMap(i => ['q', 'up', 'v'].map(x => `layers.${i}.${x}_proj.weight.lora_A`)),
    );
    await exportFile(model, apart, { adaptersOnly: true });
    expectClose(await logits(merged), await logits(apart), 2e-5);
    const { graph } = await loadModel(apart);
    expect(graph.inputs.map(v => v.name)).toContain('embed.weight.lora_B');
    await exportFrom(apart, merged);
    expectClose(await logits(merged), await logits(apart), 2e-5);
  });

  it('is merged from a folder of PEFT', async () => {
    const file = join(folder, 'from-peft.onnx');
    const { kept } = await exportFrom(join(FOLDER, 'model.onnx'), file, { adapter: join(FOLDER, 'end') });
    expect(kept).toEqual([]);
    expectClose(await logits(file), expected.logits, 2e-5);
  });

  it("is written as ONNX Runtime's .onnx_adapter", async () => {
    const { model } = await trained('model.onnx');
    const file = join(folder, 'values.onnx_adapter');
    await writeOnnxAdapter(model, file);
    const bytes = await readFile(file);
    expect(bytes.toString('latin1', 4, 8)).toBe('TORT');
    const parameters = FlatTable.root(bytes).tables(3);
    const found = new Map(parameters.map(t => [t.string(0), t]));
    const [value, tensor] = [...model.graph.initializers].find(([v]) => v.name === 'conv.weight.lora_A')!;
    const entry = found.get(value.name)!;
    expect(entry.int64s(1)).toEqual(tensor.dims);
    expect(Buffer.compare(entry.bytes(3)!, tensor.bytes)).toBe(0);
    expect(found.size).toBe(16);
  });
});

describe('an adapter of another model', () => {
  it('is refused with what there is', async () => {
    const loaded = await readPeft(join(FOLDER, 'start'));
    const model = join(import.meta.dirname, '../../../models/lenet.onnx');
    const opened = await openForInjection(model, options, { adapter: join(FOLDER, 'start') });
    await expect(inject(opened.model, opened.options, sessionShapes)).rejects.toThrow(
      `${loaded.name} is an adapter of another model: it has values for '${loaded.adapters[0]!.module}', but of such layers there are `,
    );
  });
});
