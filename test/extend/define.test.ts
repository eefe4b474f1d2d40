import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { parse } from '../../cli/program.js';
import {
  defineGradient,
  defineLoss,
  defineOptimizer,
  type Loss,
  lrOption,
  noGradient,
  type Optimizer,
  option,
  types,
  weightDecayOption,
} from '../../src/extend.js';
import { inject } from '../../src/index.js';
import { loadExtensions } from '../../src/runtime/extensions.js';
import { Trainer } from '../../src/runtime/train/trainer.js';
import { mlp, mlpData, Sketch } from '../sample.js';

const folder = mkdtempSync(join(tmpdir(), 'agd-'));
afterAll(() => rmSync(folder, { recursive: true }));
function file(name: string, text: string): string {
  writeFileSync(join(folder, name), text);
  return join(folder, name);
}

const plain = (name: string, options = {}): Optimizer => ({
  name,
  options: { lr: lrOption(0.1), weightDecay: weightDecayOption(), ...options },
  states: () => [],
  scalars: (_step, lr) => ({ lr }),
  update: (_w, g, _state, { lr }) => ({ step: g.mul(lr!), state: {} }),
});
const absolute: Loss = { target: 'values', terms: (y, t) => ({ loss: y.sub(t).abs() }) };

describe('what exists already is refused:', () => {
  it('an operator', () => {
    expect(() => defineGradient('Relu', noGradient('no'))).toThrow(/'ai.onnx.Relu' has a gradient already/);
    defineGradient('com.example.Once', noGradient('integers'));
    expect(() => defineGradient('com.example.Once', noGradient('no'))).toThrow(/already/);
  });
  it.each(['adam', 'own'])('an optimizer %s', name => {
    expect(() => defineOptimizer(plain(name))).toThrow(/exists already/);
  });
  it.each(['mse', 'output'])('a loss %s', name => {
    expect(() => defineLoss(name, absolute)).toThrow(/exists already/);
  });
  it('what cannot be a name', () => {
    expect(() => defineLoss('My Loss', absolute)).toThrow(/lower-case letters/);
  });
});

it('an optimizer without weight decay is refused', () => {
  const { weightDecay: _, ...options } = plain('x').options;
  expect(() => defineOptimizer({ ...plain('short'), options } as never)).toThrow(
    "Optimizer 'short' must declare the option weightDecay.",
  );
});

it('options of an extension are checked, and names that are nearly right corrected', async () => {
  const sgd2 = defineOptimizer(plain('plain', { zeal: option(types.positive, 1, 'Zeal') }));
  defineLoss('absolute', absolute);
  const told = (...flags: string[]) => parse(['inject', 'model.onnx', '--loss', 'absolute', ...flags]);
  expect((await told('--optimizer', 'plain', '--zeal', '3'))!.values).toMatchObject({
    loss: { kind: 'absolute' },
    optimizer: { name: 'plain', zeal: 3 },
  });
  await expect(told('--optimizer', 'plain', '--zeal', '0')).rejects.toThrow(
    /--zeal must be a number above 0/,
  );
  await expect(told('--optimizer', 'plainn')).rejects.toThrow(/Did you mean 'plain'\?/);
  await expect(told('--loss=absolut')).rejects.toThrow(/given more than once|Did you mean 'absolute'/);
  await expect(parse(['inject', 'model.onnx', '--loss', 'absolut'])).rejects.toThrow(
    /Did you mean 'absolute'/,
  );
  await expect(
    inject(mlp(), { loss: { kind: 'mse' }, optimizer: sgd2({ zeal: -1 } as never) }),
  ).rejects.toThrow(/zeal must be/);
});

it('an option that is a flag of the command is refused', async () => {
  const text = `import { defineOptimizer, lrOption, option, types, weightDecayOption } from 'agd-onnx/extend';
defineOptimizer({ name: 'clashing', options: { lr: lrOption(1), weightDecay: weightDecayOption(), epochs: option(types.count, 1, 'x') } });`;
  // In a process of its own: it stays defined.
  const { spawnSync } = await import('node:child_process');
  const cli = join(import.meta.dirname, '../../bin/agd-onnx.js');
  const args = [cli, 'train', 'm.onnx', '--data', 'd.npz', '--extend', file('clash.mjs', text)];
  const { stderr, status } = spawnSync(process.execPath, args, { encoding: 'utf8' });
  expect([status, stderr]).toEqual([
    1,
    expect.stringMatching(/--epochs, which train has too\. \[bad-option\]\n$/),
  ]);
});

describe('a module', () => {
  it('in TypeScript is loaded once, by a flag or a configuration file', async () => {
    const path = file(
      'ours.ts',
      `import { defineLoss, type Loss } from 'agd-onnx/extend';
const loss: Loss = { target: 'values', terms: (y, t) => ({ loss: y.sub(t).abs() }) };
defineLoss('ours', loss);`,
    );
    const config = file('config.json', JSON.stringify({ extend: [path], loss: 'ours' }));
    const { values } = (await parse(['inject', 'm.onnx', '--config', config]))!;
    expect(values).toMatchObject({ loss: { kind: 'ours' }, extend: [path] });
    await parse(['inject', 'm.onnx', '--extend', path, '--loss', 'ours']);
  });
  it.each([
    ['throws', "throw new Error('no luck');", /throws\.mjs cannot be loaded: no luck/],
    [
      'repeats',
      "import { defineLoss } from 'agd-onnx/extend'; defineLoss('mse', {});",
      /repeats\.mjs: Loss 'mse' exists/,
    ],
    ['syntax', 'export const = 3;', /syntax\.mjs cannot be loaded/],
  ])('that %s is refused', async (name, text, message) => {
    await expect(loadExtensions([file(`${name}.mjs`, text)])).rejects.toThrow(message);
  });
  it('that is not there is refused', async () => {
    await expect(loadExtensions([join(folder, 'nowhere.mjs')])).rejects.toThrow(
      /^Cannot read '.*nowhere\.mjs': no such file or folder\.$/,
    );
  });
});

it('the error for a missing gradient shows the lines that define one, and these do', async () => {
  const s = new Sketch();
  const scaled = s.add('Scaler', [s.weight('w', [2, 3])], 'scaled', {
    scale: { type: 'floats', value: [2] },
    offset: { type: 'floats', value: [0] },
  });
  s.graph.nodes[0]!.domain = 'ai.onnx.ml';
  const model = s.model([s.add('MatMul', [s.input('x', ['n', 2]), scaled], 'y')]);
  model.opsetImports.set('ai.onnx.ml', 3);
  const missing = await inject(model, { loss: { kind: 'mse' } }).catch(error => error);
  expect(missing).toMatchObject({ code: 'no-gradient', message: expect.stringContaining('--extend') });
  const lines = (missing.details as string).split('\n').filter(line => line.startsWith('  '));
  expect(lines).toHaveLength(5);
  await loadExtensions([file('shown.mjs', lines.join('\n'))]);
  await inject(model, { loss: { kind: 'mse' } });
});

it('a loss of an extension trains without it, and its validation says what is missing', async () => {
  defineLoss('vanishing', absolute);
  const { model } = await inject(mlp(), { loss: { kind: 'vanishing' as never } });
  // As in a process that has not loaded the extension.
  const text = model.metadata.get('agd.training')!;
  model.metadata.set('agd.training', text.replace('"vanishing"', '"vanished"'));
  const trainer = await Trainer.create(model);
  const arrays = Object.fromEntries(mlpData(8));
  const target = Object.values(arrays).length ? { target: arrays.x! } : {};
  const { Tensor } = await import('../../src/graph/tensor.js');
  const batch = { x: target.target!, target: Tensor.zeros('float32', [8, 3]) };
  expect((await trainer.step(batch)).loss).toBeGreaterThan(0);
  await expect(trainer.evaluate([{ inputs: batch, size: 8 } as never])).rejects.toThrow(
    /'vanished'.*--extend/,
  );
  await trainer.release();
});
