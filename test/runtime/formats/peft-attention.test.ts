/** Adapters inside a fused attention layer beside PEFT's: `peft/attention.py` recorded adapters, losses and weights. */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { loadModel } from '../../../src/graph/files.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { inject } from '../../../src/passes/inject.js';
import { readSafetensors } from '../../../src/runtime/data/safetensors.js';
import { exportFile } from '../../../src/runtime/export.js';
import { exportFrom } from '../../../src/runtime/formats/export-from.js';
import { openForInjection } from '../../../src/runtime/formats/open-for-injection.js';
import { writePeft } from '../../../src/runtime/formats/peft.js';
import { sessionShapes } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';

const FOLDER = join(import.meta.dirname, 'peft', 'attention');
const MODEL = join(FOLDER, 'model.onnx');
const expected = JSON.parse(await readFile(join(FOLDER, 'expected.json'), 'utf8'));
const options = {
  loss: { kind: 'cross-entropy', classAxis: -1 },
  optimizer: { name: 'sgd', lr: expected.lr, momentum: 0 },
} as const;

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'peft-attention-'));
});
afterAll(() => rm(folder, { recursive: true }));

function expectClose(actual: ArrayLike<number>, wanted: ArrayLike<number>, tolerance: number) {
  expect(actual.length).toBe(wanted.length);
  const worst = Math.max(...Array.from(actual, (x, i) => Math.abs(x - wanted[i]!)));
  expect(worst).toBeLessThan(tolerance);
}

async function weightOf(file: string) {
  const { graph } = await loadModel(file);
  expect(graph.nodes.map(n => n.opType)).toEqual(['Attention', 'MatMul', 'Add']);
  const names = [...graph.initializers.keys()].map(v => v.name);
  expect(names.sort()).toEqual(
    ['head.bias', 'head.weight', 'self_attn.qkv_proj.bias', 'self_attn.qkv_proj.weight'].sort(),
  );
  return [...graph.initializers].find(([v]) => v.name === 'self_attn.qkv_proj.weight')![1].numbers();
}

it.each(['parts', 'packed'])('%s of an attention layer learn and merge as PEFT does', async method => {
  const { losses, after, weight } = expected[method];
  const opened = await openForInjection(MODEL, options, { adapter: join(FOLDER, method) });
  const { model } = await inject(opened.model, opened.options, sessionShapes);
  const trainer = await Trainer.create(model);
  const found: number[] = [];
  for (const [x, target] of expected.batches) {
    const fed = {
      x: Tensor.ofNumbers('float32', [3, 5, 8], x),
      target: Tensor.from('int64', [3, 5], BigInt64Array.from(target, BigInt)),
    };
    found.push((await trainer.step(fed)).loss);
  }
  const trained = trainer.snapshot();
  await trainer.release();
  expectClose(found, losses, 2e-6);
  const written = join(folder, method);
  await writePeft(trained, written);
  const { tensors } = await readSafetensors(join(written, 'adapter_model.safetensors'));
  const named = (name: string) => name.replace(/\.(lora_[AB])\.weight$/, '.$1.default.weight');
  expect([...tensors.keys()].map(named).sort()).toEqual(Object.keys(after).sort());
  for (const [name, tensor] of tensors) expectClose(tensor.numbers(), after[named(name)], 1e-5);
  const [whole, again] = [join(folder, `${method}.onnx`), join(folder, `${method}-again.onnx`)];
  await exportFile(trained, whole);
  expectClose(await weightOf(whole), weight, 1e-5);
  await exportFrom(MODEL, again, { adapter: written });
  expectClose(await weightOf(again), weight, 1e-5);
});
