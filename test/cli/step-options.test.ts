import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import yargs from 'yargs';
import { injectOptions, injectOptionsIfTask, lossOptions, type Parsed } from '../../cli/options.js';
import { stepOptions } from '../../cli/step-options.js';

const folder = mkdtempSync(join(tmpdir(), 'agd-'));
afterAll(() => rmSync(folder, { recursive: true }));

function config(content: unknown): string {
  const path = join(folder, 'config.json');
  writeFileSync(path, typeof content === 'string' ? content : JSON.stringify(content));
  return path;
}

/** What the flags mean, without the loss. */
function options(...flags: string[]) {
  const parser = stepOptions(lossOptions(yargs())).parserConfiguration({ 'greedy-arrays': false });
  const args = parser.parseSync(['--loss', 'mse', ...flags]) as Parsed;
  const { loss: _, ...rest } = injectOptions(args);
  return Object.fromEntries(Object.entries(rest).filter(([, value]) => value !== undefined));
}

it('reads every option of AGD', () => {
  const flags =
    '--lr 0.1 --betas 0.5,0.75 --delta 1e-3 --weight-decay 0.2 --no-weight-decouple --fixed-decay';
  expect(options(...flags.split(' '), '--amsgrad', '--win', '--clip', '2').optimizer).toEqual({
    lr: 0.1,
    betas: [0.5, 0.75],
    delta: 1e-3,
    weightDecay: 0.2,
    weightDecouple: false,
    fixedDecay: true,
    amsgrad: true,
    win: true,
    clip: 2,
  });
});

it('reads the optimizer and its options', () => {
  const flags = '--optimizer sgd --momentum 0.9 --dampening 0.1 --no-nesterov'.split(' ');
  expect(options(...flags).optimizer).toEqual({
    name: 'sgd',
    momentum: 0.9,
    dampening: 0.1,
    nesterov: false,
  });
  const path = config({ optimizer: { name: 'adam', eps: 1e-6, lr: 0.5 } });
  expect(options('--config', path, '--lr', '0.25').optimizer).toEqual({ name: 'adam', eps: 1e-6, lr: 0.25 });
});

it('reads what a step does besides', () => {
  const flags =
    '--no-decay-bias-norm --schedule cosine:total=9,warmup=2 --clip-grad-norm 1 --clip-grad-value 2';
  expect(
    options(
      ...flags.split(' '),
      ...'--accumulate 4 --ema 0.9 --on-nonfinite skip --compensate --scalars float32 --telemetry 10 --no-tile --lazy-rows e.* --lazy-rows f'.split(
        ' ',
      ),
    ),
  ).toEqual({
    optimizer: {},
    groups: [],
    noDecayBiasNorm: true,
    schedule: { kind: 'cosine', total: 9, warmup: 2 },
    clipGradNorm: 1,
    clipGradValue: 2,
    accumulate: 4,
    ema: 0.9,
    onNonfinite: 'skip',
    compensate: true,
    scalars: 'float32',
    telemetry: 10,
    tile: false,
    lazyRows: ['e.*', 'f'],
  });
});

it('reads groups, whose globs and values may have commas', () => {
  const groups = options(
    '--group',
    '*.bias, {a,b}.norm*: weight_decay=0, betas=0.9,0.99,amsgrad=true',
    '--group',
    'onnx::MatMul_*: weight-decay=0.1',
  ).groups;
  expect(groups).toEqual([
    { match: ['*.bias', '{a,b}.norm*'], options: { weightDecay: 0, betas: [0.9, 0.99], amsgrad: true } },
    { match: ['onnx::MatMul_*'], options: { weightDecay: 0.1 } },
  ]);
  for (const text of ['*.bias', '*.bias: ', ': lr=1', '*.bias: lr'])
    expect(() => options('--group', text)).toThrow('--group takes GLOBS: name=value');
});

it('puts flags before what the file says, and its groups after', () => {
  const path = config({
    optimizer: { lr: 0.5, amsgrad: true },
    groups: [{ match: '*', options: { lr: 0.25 } }],
    schedule: 'step:every=5',
    ema: 0.5,
    noDecayBiasNorm: true,
  });
  const flags = ['--config', path, '--lr', '0.125', '--no-amsgrad', '--ema', '0.75', '--decay-bias-norm'];
  expect(options(...flags, '--group', 'a: lr=1')).toEqual({
    optimizer: { lr: 0.125, amsgrad: false },
    groups: [
      { match: '*', options: { lr: 0.25 } },
      { match: ['a'], options: { lr: 1 } },
    ],
    schedule: { kind: 'step', every: 5 },
    ema: 0.75,
    noDecayBiasNorm: false,
  });
});

it.each([
  ['{', 'it is not JSON'],
  [[], 'it is not a JSON object'],
  [{ emma: 0.9 }, "there is no option 'emma'"],
  [{ ema: '0.9' }, '\'ema\' cannot be "0.9"'],
  [{ groups: [{ match: '*' }] }, "'groups' cannot be"],
  [{ lazyRows: '*' }, '\'lazyRows\' cannot be "*"'],
  [{ schedule: 'cosine:every=3' }, "takes warmup, start, total, final, not 'every'"],
])('refuses a file with %j', (content, message) => {
  expect(() => options('--config', config(content))).toThrow(message);
});

it('refuses a file that is not there', () => {
  expect(() => options('--config', join(folder, 'none.json'))).toThrow('cannot be read');
});

it.each([
  [{}, undefined],
  [{ checkpointActivations: true }, true],
  [{ checkpointSegments: 7 }, 7],
  [{ checkpointActivations: true, checkpointSegments: 7 }, 7],
])('computes activations again with %j', (flags, want) => {
  expect(injectOptions({ ...flags, loss: 'mse', seed: 0 } as Parsed).checkpointActivations).toBe(want);
});

it('refuses options of injection where nothing is injected', () => {
  expect(injectOptionsIfTask({ lr: 0.1, seed: 0 })).toBeUndefined();
  expect(() => injectOptionsIfTask({ decayBiasNorm: false })).toThrow('--decay-bias-norm is decided when');
  expect(() => injectOptionsIfTask({ checkpointActivations: true })).toThrow('--checkpoint-activations is');
  expect(() => injectOptionsIfTask({ target: 'label' })).toThrow('--target is decided when');
});
