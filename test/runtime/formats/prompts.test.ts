/** Virtual tokens beside PEFT's: `peft/prompts.py` recorded adapters, losses, and the gradient of the first batch. */
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

const FOLDER = join(import.meta.dirname, 'peft/prompts');
const expected = JSON.parse(await readFile(join(FOLDER, 'expected.json'), 'utf8'));
const [SAMPLES, LENGTH] = [3, 6];

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'prompts-'));
});
afterAll(() => rm(folder, { recursive: true }));

const ints = (values: number[], dims: number[] = [SAMPLES, LENGTH]) =>
  Tensor.from('int64', dims, BigInt64Array.from(values, BigInt));

const positions = ints(Array.from({ length: SAMPLES * LENGTH }, (_, i) => i % LENGTH));
const empty = Object.fromEntries(
  [0, 1].flatMap(i =>
    ['key', 'value'].map(x => [`past_key_values.${i}.${x}`, Tensor.zeros('float32', [SAMPLES, 2, 0, 8])]),
  ),
);

const METHODS = {
  'prompt-gpt2': { file: 'gpt2.onnx', more: {} },
  'prompt-bert': { file: 'bert.onnx', more: { token_type_ids: ints(Array(SAMPLES * LENGTH).fill(0)) } },
  'prefix-gpt2': { file: 'gpt2-cached.onnx', more: { position_ids: positions, ...empty } },
} as const;
type Method = keyof typeof METHODS;

const feedsOf = (method: Method, text: number[]) => ({
  input_ids: ints(text),
  attention_mask: ints(expected.mask),
  ...METHODS[method].more,
});

const optionsOf = (method: Method) =>
  ({
    loss: { kind: 'cross-entropy', output: 'logits', classAxis: method === 'prompt-bert' ? 1 : -1 },
    optimizer: { name: 'sgd', lr: expected.lr, momentum: 0 },
  }) as const;

async function train(method: Method, batches: number): Promise<{ losses: number[]; model: Model }> {
  const path = join(FOLDER, METHODS[method].file);
  const opened = await openForInjection(path, optionsOf(method), { adapter: join(FOLDER, method) });
  const { model } = await inject(opened.model, opened.options, sessionShapes);
  const trainer = await Trainer.create(model);
  const losses: number[] = [];
  for (const [text, target] of expected[method].batches.slice(0, batches)) {
    const wanted = method === 'prompt-bert' ? ints(target, [SAMPLES]) : ints(target);
    losses.push((await trainer.step({ ...feedsOf(method, text), target: wanted })).loss);
  }
  const after = trainer.snapshot();
  await trainer.release();
  return { losses, model: after };
}

async function valuesIn(path: string): Promise<number[]> {
  const { tensors } = await readSafetensors(join(path, 'adapter_model.safetensors'));
  return tensors.get('prompt_embeddings')!.numbers();
}

async function written(model: Model, name: string): Promise<number[]> {
  await writePeft(model, join(folder, name));
  return valuesIn(join(folder, name));
}

function expectClose(actual: ArrayLike<number>, wanted: ArrayLike<number>, tolerance: number) {
  expect(actual.length).toBe(wanted.length);
  const worst = Math.max(...Array.from(actual, (x, i) => Math.abs(x - wanted[i]!)));
  expect(worst).toBeLessThan(tolerance);
}

async function outputs(file: string, method: Method) {
  const session = await Session.create(await loadModel(file));
  const results = await session.run(feedsOf(method, expected[method].batches[0][0]));
  await session.release();
  return results;
}

describe.each(Object.keys(METHODS) as Method[])('%s', method => {
  const { losses, gradient, after, logits } = expected[method];

  it('has the gradient of PEFT', async () => {
    const start = await valuesIn(join(FOLDER, method));
    const { model } = await train(method, 1);
    const values = await written(model, `${method}-1`);
    const moved = values.map((x, i) => (start[i]! - x) / expected.lr);
    expectClose(moved, gradient, 5e-6);
  });

  it('is written with the parameters that PEFT asks for', async () => {
    const { model } = await train(method, 0);
    await writePeft(model, join(folder, `${method}-0`));
    const [given, ours] = await Promise.all(
      [join(FOLDER, method), join(folder, `${method}-0`)].map(async path => {
        const { tensors } = await readSafetensors(join(path, 'adapter_model.safetensors'));
        return [...tensors].map(([name, t]) => [name, t.dims, t.numbers()]).sort();
      }),
    );
    expect(ours).toEqual(given);
  });

  it('has the losses and values of 20 steps, and is exported inside the model', async () => {
    const run = await train(method, 20);
    expectClose(run.losses, losses, 5e-6);
    expectClose(await written(run.model, `${method}-20`), after, 2e-5);
    const [whole, again] = [join(folder, `${method}.onnx`), join(folder, `${method}-again.onnx`)];
    await exportFile(run.model, whole);
    const original = await loadModel(join(FOLDER, METHODS[method].file));
    const { graph } = await loadModel(whole);
    for (const side of ['inputs', 'outputs'] as const)
      expect(graph[side].map(v => [v.name, v.type])).toEqual(original.graph[side].map(v => [v.name, v.type]));
    const results = await outputs(whole, method);
    expectClose(results.logits!.numbers(), logits, 5e-5);
    await exportFrom(join(FOLDER, METHODS[method].file), again, { adapter: join(folder, `${method}-20`) });
    expectClose((await outputs(again, method)).logits!.numbers(), logits, 5e-5);
    if (method !== 'prefix-gpt2') return;
    // The caller's cache holds nothing of the prefix.
    expect(results['present.1.value']!.dims).toEqual([SAMPLES, 2, LENGTH, 8]);
  });
});
