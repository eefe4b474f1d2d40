/** The code of docs/guide/extend.md, as the command line and a program run it. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { loadModel } from '../../src/graph/files.js';
import type { Model } from '../../src/graph/ir.js';
import { floats } from '../../src/ops/core/builder.js';
import { readDescription } from '../../src/passes/file/step-metadata.js';
import { readNpz } from '../../src/runtime/data/npz.js';
import { agdOnnx, workplace, writeData } from '../cli/run.js';
import { spread } from '../ops/vjp.js';
import { Sketch } from '../sample.js';

const ROOT = join(import.meta.dirname, '../..');
const GUIDE = readFileSync(join(ROOT, 'docs/guide/extend.md'), 'utf8');
const EXTEND = ['--extend', 'gradients.mjs', '--extend', 'signum.mjs', '--extend', 'log-cosh.mjs'];

/** x[batch,4] -> scaled -> w -> swish -> head -> y[batch,3]. */
function model(): Model {
  const s = new Sketch();
  const product = s.add('MatMul', [s.input('x', ['batch', 4]), s.weight('w', [4, 5])], 'product');
  const scaled = s.add('Scaler', [product], 'scaled', { scale: floats([2]), offset: floats([0.5]) });
  const active = s.add('Swish', [scaled], 'active', { beta: { type: 'float', value: 1.5 } });
  const model = s.model([s.add('MatMul', [active, s.weight('head', [5, 3])], 'y')]);
  for (const node of model.graph.nodes) {
    if (node.opType === 'Scaler') node.domain = 'ai.onnx.ml';
    if (node.opType === 'Swish') node.domain = 'com.example';
  }
  model.opsetImports.set('ai.onnx.ml', 3).set('com.example', 1);
  return model;
}

let folder: string;
beforeAll(async () => {
  folder = await workplace(model());
  await writeData(folder, 'train.npz', {
    x: spread([64, 4], [-1, 1], 3),
    y: undefined,
    target: spread([64, 3], [-1, 1], 4),
  });
  const files = new Map<string, string>();
  for (const [, code] of GUIDE.matchAll(/^```js\n(.*?)^```$/gms)) {
    const name = /^\/\/ (\S+)$/m.exec(code!)?.[1] ?? 'program.mjs';
    files.set(name, `${files.get(name) ?? ''}${code}`);
  }
  for (const [name, code] of files) writeFileSync(join(folder, name), code);
});
afterAll(() => rmSync(folder, { recursive: true }));
const file = (name: string) => join(folder, name);
const words = (command: string) => command.replaceAll('\\\n', ' ').trim().split(/\s+/).slice(1);

it('trains with a gradient, an optimizer and a loss of modules; the state trains without them', async () => {
  const [, command] = /^```sh\n(.*?)^```$/ms.exec(GUIDE)!;
  const ran = agdOnnx(folder, ...words(command!), '--state', 'state.onnx', '--epochs', '2');
  expect(ran).toMatchObject({ code: 0, err: '' });
  const description = readDescription(await loadModel(file('state.onnx')));
  expect(description.optimizer).toMatchObject({ name: 'signum', options: { lr: 1e-3 }, extension: true });
  const trained = await loadModel(file('trained.onnx'));
  expect(trained.graph.nodes.map(n => n.opType)).toEqual(['MatMul', 'Scaler', 'Swish', 'MatMul']);

  const further = ['--data', 'train.npz', '--epochs', '4', '-o', 'further.onnx', '--state', 'state2.onnx'];
  expect(agdOnnx(folder, 'train', 'state.onnx', ...further)).toMatchObject({ code: 0, err: '' });
});

it('has the right gradient', () => {
  const ran = agdOnnx(
    folder,
    'grad',
    'model.onnx',
    '--inputs',
    'train.npz',
    '--loss',
    'log-cosh',
    '--check',
    ...EXTEND,
  );
  expect(ran).toMatchObject({ code: 0, err: '' });
});

it('is imported by a program', () => {
  mkdirSync(file('node_modules'), { recursive: true });
  symlinkSync(ROOT, file('node_modules/agd-onnx'), 'dir');
  execFileSync(process.execPath, ['program.mjs'], { cwd: folder });
});

it('the loss and the step have the values of their formulas', async () => {
  writeFileSync(
    file('probe.mjs'),
    `import './gradients.mjs';
import { gradients, inject, loadModel, loadArrays, Tensor, Trainer } from 'agd-onnx';
import { signum } from './signum.mjs';
import { logCosh } from './log-cosh.mjs';
const model = await loadModel('model.onnx');
const arrays = await loadArrays('train.npz');
const batch = Object.fromEntries(arrays);
const found = await gradients(model, { loss: logCosh(), batchNorm: 'eval' }, batch);
const { model: injected } = await inject(model, { loss: logCosh(), optimizer: signum({ lr: 0.5, weightDecay: 0.25 }) });
const trainer = await Trainer.create(injected);
const { loss } = await trainer.step(batch);
const head = model => [...model.graph.initializers].find(([v]) => v.name === 'head')[1].numbers();
console.log(JSON.stringify({ loss, grad: found.gradients.get('head').numbers(), before: head(model), after: head(trainer.snapshot()) }));
await trainer.release();
`,
  );
  const out = execFileSync(process.execPath, ['probe.mjs'], { cwd: folder, encoding: 'utf8' });
  const { loss, grad, before, after } = JSON.parse(out) as Record<'grad' | 'before' | 'after', number[]> & {
    loss: number;
  };
  const arrays = await readNpz(file('train.npz'));
  const weights = new Map(
    [...(await loadModel(file('model.onnx'))).graph.initializers].map(([v, t]) => [v.name, t.numbers()]),
  );
  const dot = (a: readonly number[], w: readonly number[], n: number, j: number) =>
    a.reduce((sum, x, k) => sum + x * w[k * n + j]!, 0);
  const x = arrays.get('x')!.numbers();
  const t = arrays.get('target')!.numbers();
  let total = 0;
  for (let i = 0; i < 64; i++) {
    const row = x.slice(4 * i, 4 * i + 4);
    const active = [0, 1, 2, 3, 4].map(j => {
      const s = (dot(row, weights.get('w')!, 5, j) - 0.5) * 2;
      return s / (1 + Math.exp(-1.5 * s));
    });
    for (let j = 0; j < 3; j++)
      total += Math.log(Math.cosh(dot(active, weights.get('head')!, 3, j) - t[3 * i + j]!));
  }
  expect(loss).toBeCloseTo(total / (64 * 3), 5);
  after.forEach((w, i) => {
    expect(w).toBeCloseTo(before[i]! - 0.5 * (Math.sign(grad[i]!) + 0.25 * before[i]!), 5);
  });
});
