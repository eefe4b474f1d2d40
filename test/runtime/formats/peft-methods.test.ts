/** Methods beside PEFT's: `peft/methods.py` recorded adapters, losses, and gradients of the first batch. */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { loadModel } from '../../../src/graph/files.js';
import type { Model } from '../../../src/graph/ir.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { inject } from '../../../src/passes/inject.js';
import { readSafetensors } from '../../../src/runtime/data/safetensors.js';
import { exportFile } from '../../../src/runtime/export.js';
import { exportFrom } from '../../../src/runtime/formats/export-from.js';
import { openForInjection } from '../../../src/runtime/formats/open-for-injection.js';
import { writePeft } from '../../../src/runtime/formats/peft.js';
import { Session, sessionShapes } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';

const BASES = join(import.meta.dirname, 'peft');
const FOLDER = join(BASES, 'methods');
const expected = JSON.parse(await readFile(join(FOLDER, 'expected.json'), 'utf8'));
const options = {
  loss: { kind: 'cross-entropy', classAxis: -1 },
  optimizer: { name: 'sgd', lr: expected.lr, momentum: 0 },
} as const;

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'peft-methods-'));
});
afterAll(() => rm(folder, { recursive: true }));

const tokens = (values: number[]) => Tensor.from('int64', [3, 5], BigInt64Array.from(values, BigInt));

/** Trains from the recorded start on the first batches. */
async function train(
  method: string,
  file: string,
  batches: number,
): Promise<{ losses: number[]; model: Model }> {
  const opened = await openForInjection(join(BASES, file), options, { adapter: join(FOLDER, method) });
  const { model } = await inject(opened.model, opened.options, sessionShapes);
  const trainer = await Trainer.create(model);
  const losses: number[] = [];
  for (const [x, target] of expected.batches.slice(0, batches))
    losses.push((await trainer.step({ tokens: tokens(x), target: tokens(target) })).loss);
  const after = trainer.snapshot();
  await trainer.release();
  return { losses, model: after };
}

/** The values in a folder, as PyTorch's parameters are named in training. */
async function valuesIn(path: string): Promise<Map<string, number[]>> {
  const { tensors } = await readSafetensors(join(path, 'adapter_model.safetensors'));
  return new Map(
    [...tensors].map(([name, t]) => [
      name
        .replace(/\.(lora_[AB])\.weight$/, '.$1.default.weight')
        .replace(/\.lora_embedding_[AB]$/, '$&.default')
        .replace(/\.lora_magnitude_vector$/, '$&.default.weight')
        .replace(/\.ia3_l$/, '$&.default'),
      t.numbers(),
    ]),
  );
}

async function written(model: Model, name: string) {
  await writePeft(model, join(folder, name));
  return valuesIn(join(folder, name));
}

function expectClose(actual: ArrayLike<number>, wanted: ArrayLike<number>, tolerance: number) {
  expect(actual.length).toBe(wanted.length);
  const worst = Math.max(...Array.from(actual, (x, i) => Math.abs(x - wanted[i]!)));
  expect(worst).toBeLessThan(tolerance);
}

async function logits(file: string) {
  const session = await Session.create(await loadModel(file));
  const results = await session.run({ tokens: tokens(expected.batches[0][0]) });
  await session.release();
  return results.logits!.numbers();
}

const METHODS = [
  ['dora', 'model.onnx'],
  ['dora-int4', 'model.int4.onnx'],
  ['dora-embedding', 'model.onnx'],
  ['rslora', 'model.onnx'],
  ['ia3', 'model.onnx'],
] as const;

describe.each(METHODS)('%s', (method, file) => {
  const { losses, gradients, after, logits: wanted } = expected[method];

  it('has the gradients of PEFT', async () => {
    const start = await valuesIn(join(FOLDER, method));
    const { model } = await train(method, file, 1);
    const values = await written(model, `${method}-1`);
    expect([...values.keys()].sort()).toEqual(Object.keys(gradients).sort());
    for (const [name, value] of values) {
      const moved = value.map((x, i) => (start.get(name)![i]! - x) / expected.lr);
      expectClose(moved, gradients[name], 5e-6);
    }
  });

  it('has the losses and values of 20 steps, and merges into what PEFT computes', async () => {
    const run = await train(method, file, 20);
    expectClose(run.losses, losses, 2e-6);
    const values = await written(run.model, `${method}-20`);
    for (const [name, value] of values) expectClose(value, after[name], 1e-5);
    const [whole, again] = [join(folder, `${method}.onnx`), join(folder, `${method}-again.onnx`)];
    await exportFile(run.model, whole);
    expectClose(await logits(whole), wanted, 5e-5);
    await exportFrom(join(BASES, file), again, { adapter: join(folder, `${method}-20`) });
    expectClose(await logits(again), wanted, 5e-5);
  });
});
