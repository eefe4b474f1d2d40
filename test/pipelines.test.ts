/** What docs/guide/pipelines.md shows runs as it is. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { saveModel } from '../src/graph/files.js';
import { inject } from '../src/passes/inject.js';
import { splitStep } from '../src/passes/run/split-step.js';
import { sessionShapes } from '../src/runtime/session.js';
import { mlp, mlpData } from './sample.js';

const ROOT = join(import.meta.dirname, '..');

it('drives both halves from JavaScript', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'agd-'));
  mkdirSync(join(folder, 'halves'));
  symlinkSync(join(ROOT, 'node_modules'), join(folder, 'node_modules'));
  const options = { loss: { kind: 'cross-entropy' }, optimizer: { lr: 0.05 } } as const;
  const { model } = await inject(mlp(), options, sessionShapes);
  const { gradients: grad, update, state } = await splitStep(model, sessionShapes);
  for (const [name, half] of Object.entries({ grad, update, state }))
    await saveModel(half, join(folder, 'halves', `${name}.onnx`));

  const data = mlpData(16);
  const [x, target] = [data.get('x')!, data.get('target')!];
  const batch = `{ x: new ort.Tensor('float32', [${x.numbers()}], [${x.dims}]), target: new ort.Tensor('int64', [${target.numbers()}].map(BigInt), [${target.dims}]) }`;
  const page = readFileSync(join(ROOT, 'docs/guide/pipelines.md'), 'utf8');
  const [, code] = /```js\n(.*?)```/s.exec(page)!;
  writeFileSync(
    join(folder, 'loop.mjs'),
    code!.replace(/^import .*\n/, `$&const batches = Array(20).fill(${batch});\n`),
  );
  const { stdout, stderr } = spawnSync(process.execPath, ['loop.mjs'], { cwd: folder, encoding: 'utf8' });
  expect(stderr).toBe('');
  const losses = stdout
    .trim()
    .split('\n')
    .map(line => Number(line.replace('loss ', '')));
  expect(losses).toHaveLength(20);
  expect(losses.at(-1)).toBeLessThan(losses[0]! / 2);
});
