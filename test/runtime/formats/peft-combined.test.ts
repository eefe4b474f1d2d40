/** Several methods in one model beside PEFT's: `peft/combined.py` recorded adapters, losses, and gradients of the first batch. */
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
const FOLDER = join(BASES, 'combined');
const expected = JSON.parse(await readFile(join(FOLDER, 'expected.json'), 'utf8'));
const SAMPLES = 3;

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'peft-combined-'));
});
afterAll(() => rm(folder, { recursive: true }));

const ints = (values: number[], dims = [SAMPLES, values.length / SAMPLES]) =>
  Tensor.from('int64', dims, BigInt64Array.from(values, BigInt));
const mask = ints(expected.mask);
const positions = ints(expected.mask.map((_: number, i: number) => i % (expected.mask.length / SAMPLES)));
const empty = Object.fromEntries(
  [0, 1].flatMap(i =>
    ['key', 'value'].map(x => [`past_key_values.${i}.${x}`, Tensor.zeros('float32', [SAMPLES, 2, 0, 8])]),
  ),
);

const CASES = {
  'lora-ia3': {
    file: 'model.onnx',
    parts: ['lora', 'ia3'],
    axis: -1,
    feeds: (x: number[]) => ({ tokens: ints(x) }),
  },
  'lora-prompt': {
    ...{ file: 'prompts/bert.onnx', parts: ['lora', 'prompt'], axis: 1 },
    feeds: (x: number[]) => ({
      input_ids: ints(x),
      attention_mask: mask,
      token_type_ids: ints(x.map(() => 0)),
    }),
  },
  'lora-prefix': {
    ...{ file: 'prompts/gpt2-cached.onnx', parts: ['lora', 'prefix'], axis: -1 },
    feeds: (x: number[]) => ({ input_ids: ints(x), attention_mask: mask, position_ids: positions, ...empty }),
  },
} as const;
type Case = keyof typeof CASES;

async function train(name: Case, batches: number): Promise<{ losses: number[]; model: Model }> {
  const { file, axis, feeds } = CASES[name];
  const options = {
    loss: { kind: 'cross-entropy', output: 'logits', classAxis: axis },
    optimizer: { name: 'sgd', lr: expected.lr, momentum: 0 },
  } as const;
  const opened = await openForInjection(join(BASES, file), options, { adapter: join(FOLDER, name) });
  const { model } = await inject(opened.model, opened.options, sessionShapes);
  const trainer = await Trainer.create(model);
  const losses: number[] = [];
  for (const [text, target] of expected[name].batches.slice(0, batches)) {
    const wanted = axis === 1 ? ints(target, [SAMPLES]) : ints(target);
    losses.push((await trainer.step({ ...feeds(text), target: wanted })).loss);
  }
  const after = trainer.snapshot();
  await trainer.release();
  return { losses, model: after };
}

/** The trained values of all folders, as PyTorch's parameters are named in training. */
async function valuesIn(path: string, name: Case): Promise<Map<string, number[]>> {
  const parts = CASES[name].parts.map(async part => {
    const { tensors } = await readSafetensors(join(path, part, 'adapter_model.safetensors'));
    return [...tensors].map(
      ([n, t]) => [n.replace(/^base_model\.model\.|\.weight$/g, ''), t.numbers()] as const,
    );
  });
  const all = (await Promise.all(parts)).flat();
  return new Map(all.filter(([n]) => /lora|ia3|prompt_e/.test(n)));
}

async function written(model: Model, name: Case) {
  const path = join(folder, `${name}-${Math.random()}`);
  expect(await writePeft(model, path)).toEqual(CASES[name].parts.map(part => join(path, part)));
  return { path, values: await valuesIn(path, name) };
}

function expectClose(actual: ArrayLike<number>, wanted: ArrayLike<number>, tolerance: number) {
  expect(actual.length).toBe(wanted.length);
  const worst = Math.max(...Array.from(actual, (x, i) => Math.abs(x - wanted[i]!)));
  expect(worst).toBeLessThan(tolerance);
}

async function logits(file: string, name: Case) {
  const session = await Session.create(await loadModel(file));
  const results = await session.run(CASES[name].feeds(expected[name].batches[0][0]));
  await session.release();
  return results.logits!.numbers();
}

/** The module of an exported file may begin with what wrapped the model. */
const of = (values: ReadonlyMap<string, number[]>, name: string) =>
  [...values].find(([n]) => n === name || n.endsWith(`.${name}`))![1];

describe.each(Object.keys(CASES) as Case[])('%s', name => {
  const { losses, gradients, after, logits: wanted } = expected[name];

  it('has the gradients of PEFT', async () => {
    const start = await valuesIn(join(FOLDER, name), name);
    const { values } = await written((await train(name, 1)).model, name);
    expect(values.size).toBe(Object.keys(gradients).length);
    for (const [key, gradient] of Object.entries<number[]>(gradients)) {
      const before = of(start, key);
      expectClose(
        of(values, key).map((x, i) => (before[i]! - x) / expected.lr),
        gradient,
        5e-6,
      );
    }
  });

  it('has the losses and values of 10 steps, and is exported into what PEFT computes', async () => {
    const run = await train(name, 10);
    expectClose(run.losses, losses, 5e-6);
    const { path, values } = await written(run.model, name);
    for (const [key, value] of Object.entries<number[]>(after)) expectClose(of(values, key), value, 2e-5);
    const [whole, again] = [join(folder, `${name}.onnx`), join(folder, `${name}-again.onnx`)];
    await exportFile(run.model, whole);
    expectClose(await logits(whole, name), wanted, 5e-5);
    await exportFrom(join(BASES, CASES[name].file), again, { adapter: path });
    expectClose(await logits(again, name), wanted, 5e-5);
  });
});
