/** Training artifacts of ONNX Runtime on the command line. */
import { existsSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';
import { loadModel } from '../../src/graph/files.js';
import { readDescription } from '../../src/passes/file/step-metadata.js';
import { writeSafetensors } from '../../src/runtime/data/safetensors.js';
import { readOrtCheckpoint } from '../../src/runtime/formats/ort-checkpoint.js';
import { artifactFolder, BATCH } from '../passes/import/ort-artifacts.js';
import { agdOnnx } from './run.js';

let folder: string;
beforeAll(async () => {
  folder = await artifactFolder();
  await writeSafetensors(join(folder, 'data.safetensors'), new Map(Object.entries(BATCH)));
});
const ok = (...args: string[]) => {
  const result = agdOnnx(folder, ...args);
  expect(result).toMatchObject({ code: 0, err: '' });
  return result.out;
};
const fails = (...args: string[]) => {
  const { code, err, out } = agdOnnx(folder, ...args);
  expect([code, out]).toEqual([1, '']);
  expect(err.trimEnd().split('\n')).toHaveLength(1);
  return err;
};
const description = async (file: string) => readDescription(await loadModel(join(folder, file)));

it('injects the folder and the file, accumulating where it is told to', async () => {
  expect(ok('inject', '.', '-o', 'a.onnx')).toMatch(/frozen {3}1 tensor: scale/);
  ok('inject', 'training_model.onnx', '--accumulate', '2', '-o', 'b.onnx');
  const [a, b] = [await description('a.onnx'), await description('b.onnx')];
  expect(a.parameters.map(p => p.name)).toEqual(['conv.weight', 'conv.bias', 'fc.weight', 'fc.bias']);
  expect([a.accumulation, b.accumulation?.batches]).toEqual([undefined, 2]);
});

it('trains, writes a checkpoint back, and resumes from it', async () => {
  const args = ['--data', 'data.safetensors', '--optimizer', 'adamw', '--lr', '0.05'];
  ok('train', 'training_model.onnx', ...args, '--epochs', '3', '--state', 'state.onnx', '-o', 'trained.onnx');
  ok('export', 'state.onnx', '--ort-checkpoint', 'after.ckpt');
  const checkpoint = await readOrtCheckpoint(join(folder, 'after.ckpt'));
  expect([...checkpoint.frozen.keys()]).toEqual(['scale']);
  expect(checkpoint.optimizers[0]).toMatchObject({ name: 'group0', step: 3, lr: Math.fround(0.05) });
  const out = ok('inject', '.', '--params', 'after.ckpt', '--optimizer', 'adamw', '-o', 'next.onnx');
  expect(out).toContain('resumed from the checkpoint, after 3 updates of AdamW');
  // Epochs are counted from the very begin.
  const again = ok('train', '.', '--params', 'after.ckpt', ...args, '--epochs', '4', '-o', 'more.onnx');
  expect(again).toMatch(/resumed from the checkpoint.*done after 4 steps/s);
  ok('export', '.', '--params', 'after.ckpt', '-o', 'inference.onnx');
  const { graph } = await loadModel(join(folder, 'inference.onnx'));
  expect(graph.outputs.map(v => v.name)).toEqual(['logits']);
});

it('tells what inject needs of the folder', () => {
  expect(ok('inspect', '.')).toMatch(/ort-training model.*nothing but the checkpoint beside it/s);
});

it('says in one line what is wrong', async () => {
  expect(fails('inject', '.', '--loss', 'mse')).toMatch(/leave out --loss/);
  expect(fails('inject', '.', '--target', 'y')).toMatch(/--target needs --loss/);
  expect(fails('inject', '.', '--dropout', 'eval')).toMatch(/do not apply/);
  expect(fails('inject', '.', '--initialize')).toMatch(/no initialization graph/);
  expect(fails('train', '.', '--data', 'data.safetensors', '--initialize')).toMatch(
    /no initialization graph/,
  );
  expect(fails('inject', '.', '--initialize', '--params', 'checkpoint')).toMatch(
    /--initialize cannot be combined with --params/,
  );
  const other = join(folder, 'other');
  await mkdir(other);
  expect(fails('inject', 'other')).toMatch(/The folder 'other' has no training_model.onnx, and no other/);
  await writeFile(join(folder, 'cut.ckpt'), 'cut');
  expect(fails('inject', '.', '--params', 'cut.ckpt')).toMatch(
    /cut.ckpt: it is not an ONNX Runtime training checkpoint/,
  );
  expect(fails('export', 'eval_model.onnx', '--ort-checkpoint', 'x')).toMatch(/contains no training step/);
  expect(existsSync(join(folder, 'x'))).toBe(false);
});
