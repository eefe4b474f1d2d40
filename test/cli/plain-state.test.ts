import { copyFileSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { loadModel } from '../../src/graph/files.js';
import { agdOnnx, workplace } from './run.js';

const INJECT = ['inject', 'model.onnx', '--loss', 'cross-entropy'];

it.each([
  [['--plain-state'], ['batch', 4]],
  [
    ['--steps', '5'],
    [5, 'batch', 4],
  ],
  [
    ['--plain-state', '--steps', '1'],
    [1, 'batch', 4],
  ],
])('inject %j writes the step and its first state', async (flags, shape) => {
  const folder = await workplace();
  const { code, out } = agdOnnx(folder, ...INJECT, ...flags);
  expect(code).toBe(0);
  expect(out).toContain('wrote model.agd/step.onnx, model.agd/state.onnx');
  expect(readdirSync(join(folder, 'model.agd')).sort()).toEqual(['state.onnx', 'step.onnx']);
  const { graph } = await loadModel(join(folder, 'model.agd/step.onnx'));
  expect(graph.inputs.find(v => v.name === 'x')!.shape).toEqual(shape);
});

it.each([
  [['--plain-state', '--split'], '--split cannot be combined with --plain-state.'],
  [['--steps', '2', '--format', 'step'], '--steps cannot be combined with --format.'],
  [
    ['--plain-state', '-o', 'step.onnx'],
    '--out must name a folder for the files of the step, not step.onnx.',
  ],
  [['--steps', '0'], '--steps must be a whole number of at least 1, not 0.'],
])('inject %j is refused', async (flags, message) => {
  const { code, err } = agdOnnx(await workplace(), ...INJECT, ...flags);
  expect(code).toBe(1);
  expect(err).toContain(message);
});

it.each([
  ['--plain-state', 'step.onnx'],
  ['--split', 'grad.onnx'],
])('inject %s does not overwrite its source', async (flag, name) => {
  const folder = await workplace();
  const source = join(folder, name);
  copyFileSync(join(folder, 'model.onnx'), source);
  const before = readFileSync(source);
  const { code, err } = agdOnnx(folder, 'inject', name, '--loss', 'cross-entropy', flag, '-o', '.');
  expect([code, err]).toEqual([1, expect.stringContaining(`${name} would overwrite what it is made from`)]);
  expect(readFileSync(source).equals(before)).toBe(true);
});

it('inspect prints what workers exchange between the halves of a step', async () => {
  const folder = await workplace();
  expect(agdOnnx(folder, ...INJECT, '--split', '-o', 'halves').code).toBe(0);
  for (const half of ['grad', 'update']) {
    const { code, out } = agdOnnx(folder, 'inspect', `halves/${half}.onnx`, '--json');
    expect(code).toBe(0);
    const { kind, split } = JSON.parse(out);
    expect(kind).toBe('split');
    expect(split).toMatchObject({
      version: 1,
      loss: 'loss',
      divisor: 'loss_divisor',
      lr: 'lr',
      step: 'step',
    });
    expect(split.exchange).toEqual(
      expect.arrayContaining([
        { name: 'loss_divisor', reduce: 'sum', weighted: false },
        { name: 'loss', reduce: 'sum', weighted: true, divisor: 'loss_divisor' },
        { name: 'fc1.weight_grad', reduce: 'sum', weighted: true, divisor: 'loss_divisor' },
      ]),
    );
  }
  const shown = agdOnnx(folder, 'inspect', 'halves/grad.onnx').out;
  expect(shown).toMatch(/Exchange between workers {2}divisor loss_divisor/);
  expect(shown).toMatch(/fc1\.weight_grad +sum +loss_divisor/);
});
