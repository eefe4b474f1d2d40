import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import yargs from 'yargs';
import { type Arguments, injectOptionsIfTask } from '../../cli/arguments.js';
import { readConfig } from '../../cli/config.js';
import { addFlags, type Options, readFlags } from '../../cli/flags.js';
import { parse } from '../../cli/program.js';
import { types } from '../../src/command/startup.js';
import { type AnyOptions, optimizerNamed } from '../../src/ops/optimizers/index.js';
import { resolveOptions } from '../../src/ops/optimizers/optimizer.js';
import { type Command, injectOptionsOf, optimizerFlags } from '../../src/passes/options.js';

const folder = mkdtempSync(join(tmpdir(), 'agd-'));
afterAll(() => rmSync(folder, { recursive: true }));

function config(content: unknown): string {
  const path = join(folder, 'config.json');
  writeFileSync(path, typeof content === 'string' ? content : JSON.stringify(content));
  return path;
}

/** What a command is told by these flags. */
async function told(command: Command, ...flags: string[]): Promise<Arguments> {
  return (await parse([command, 'model.onnx', ...flags]))!.values as Arguments;
}

/** What inject gets of it, without the loss. */
async function options(...flags: string[]) {
  const { loss: _, ...rest } = injectOptionsOf(await told('inject', '--loss', 'mse', ...flags));
  return rest;
}

it('reads every option of AGD', async () => {
  const flags =
    '--lr 0.1 --betas 0.5,0.75 --delta 1e-3 --weight-decay 0.2 --no-weight-decouple --fixed-decay';
  expect((await options(...flags.split(' '), '--amsgrad', '--win', '--clip', '2')).optimizer).toEqual({
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

it('reads the optimizer and its options', async () => {
  const flags = '--optimizer sgd --momentum 0.9 --dampening 0.1 --no-nesterov'.split(' ');
  expect((await options(...flags)).optimizer).toEqual({
    name: 'sgd',
    momentum: 0.9,
    dampening: 0.1,
    nesterov: false,
  });
  expect(
    (
      await options(
        ...'--optimizer schedule-free-sgd --warmup-steps 9 --r 0.5 --weight-lr-power 1'.split(' '),
      )
    ).optimizer,
  ).toEqual({
    name: 'schedule-free-sgd',
    warmupSteps: 9,
    r: 0.5,
    weightLrPower: 1,
  });
  const estimating = '--optimizer prodigy --beta3 0.9 --use-bias-correction --safeguard-warmup --no-decouple';
  expect(
    (await options(...`${estimating} --d0 1e-3 --d-coef 2 --growth-rate 1.1`.split(' '))).optimizer,
  ).toEqual({
    ...{ name: 'prodigy', beta3: 0.9, useBiasCorrection: true, safeguardWarmup: true, decouple: false },
    ...{ d0: 1e-3, dCoef: 2, growthRate: 1.1 },
  });
  const lasso = '--optimizer adaml --l1 0.1 --l21 0.2 --no-adjust-l1'.split(' ');
  expect((await options(...lasso)).optimizer).toEqual({ name: 'adaml', l1: 0.1, l21: 0.2, adjustL1: false });
  const path = config({ optimizer: { name: 'adam', eps: 1e-6, lr: 0.5 } });
  expect((await options('--config', path, '--lr', '0.25')).optimizer).toEqual({
    name: 'adam',
    eps: 1e-6,
    lr: 0.25,
  });
});

/** For each option of an optimizer other than AGD: an optimizer that has it, flags, and what they mean. */
const OPTIMIZER_FLAGS: Record<string, [optimizer: string, flags: string, value: unknown]> = {
  eps: ['adam', '--eps 1e-6', 1e-6],
  momentum: ['sgd', '--momentum 0.8', 0.8],
  dampening: ['sgd', '--dampening 0.1', 0.1],
  nesterov: ['sgd', '--momentum 0.8 --nesterov', true],
  decoupledWeightDecay: ['radam', '--decoupled-weight-decay', true],
  momentumDecay: ['nadam', '--momentum-decay 0.01', 0.01],
  finalLr: ['adabound', '--final-lr 0.2', 0.2],
  gamma: ['adabound', '--gamma 0.01', 0.01],
  amsbound: ['adabound', '--amsbound', true],
  rectify: ['adabelief', '--no-rectify', false],
  degeneratedToSgd: ['adabelief', '--no-degenerated-to-sgd', false],
  hessianPower: ['adahessian', '--hessian-power 0.5', 0.5],
  averageConvKernel: ['adahessian', '--no-average-conv-kernel', false],
  lrDecay: ['adagrad', '--lr-decay 0.1', 0.1],
  initialAccumulatorValue: ['adagrad', '--initial-accumulator-value 0.5', 0.5],
  alpha: ['rmsprop', '--alpha 0.9', 0.9],
  centered: ['rmsprop', '--centered', true],
  beta3: ['adan', '--beta3 0.9', 0.9],
  noProx: ['adan', '--no-prox', true],
  beta3Warmup: ['ademamix', '--beta3-warmup 100', 100],
  alphaWarmup: ['ademamix', '--alpha-warmup 100', 100],
  beta2Decay: ['adafactor', '--beta2-decay -0.7', -0.7],
  eps1: ['adafactor', '--eps1 1e-20', 1e-20],
  eps2: ['adafactor', '--eps2 1e-2', 1e-2],
  clipThreshold: ['adafactor', '--clip-threshold 2', 2],
  biasCorrection: ['lamb', '--no-bias-correction', false],
  excludeVectors: ['lars', '--no-exclude-vectors', false],
  eta: ['lars', '--eta 0.01', 0.01],
  nsCoefficients: ['muon', '--ns-coefficients 3,-4,2', [3, -4, 2]],
  nsSteps: ['muon', '--ns-steps 3', 3],
  adjustLrFn: ['muon', '--adjust-lr-fn match_rms_adamw', 'match_rms_adamw'],
  useMuon: ['muon', '--no-use-muon', false],
  transposed: ['muon', '--transposed', true],
  adamLr: ['muon', '--adam-lr 0.01', 0.01],
  adamBetas: ['muon', '--adam-betas 0.8,0.9', [0.8, 0.9]],
  adamEps: ['muon', '--adam-eps 1e-6', 1e-6],
  ridge: ['shampoo', '--ridge 1e-4', 1e-4],
  maxSize: ['shampoo', '--max-size 64', 64],
  rootSteps: ['shampoo', '--root-steps 5', 5],
  updateFreq: ['shampoo', '--update-freq 4', 4],
  warmupSteps: ['schedule-free-adamw', '--warmup-steps 10', 10],
  r: ['schedule-free-sgd', '--r 1', 1],
  weightLrPower: ['schedule-free-adamw', '--weight-lr-power 1', 1],
  decouple: ['prodigy', '--no-decouple', false],
  useBiasCorrection: ['prodigy', '--use-bias-correction', true],
  safeguardWarmup: ['prodigy', '--safeguard-warmup', true],
  d0: ['prodigy', '--d0 1e-5', 1e-5],
  dCoef: ['prodigy', '--d-coef 2', 2],
  growthRate: ['prodigy', '--growth-rate 1.1', 1.1],
  l1: ['adaml', '--l1 0.1', 0.1],
  l21: ['adaml', '--l21 0.1', 0.1],
  adjustL1: ['adaml', '--no-adjust-l1', false],
};

it.each(Object.entries(OPTIMIZER_FLAGS))('reads %s', async (option, [name, flags, value]) => {
  const { optimizer } = await options('--optimizer', name, ...flags.split(' '));
  expect(optimizer).toMatchObject({ name, [option]: value });
  const { name: _, ...given } = optimizer!;
  expect(resolveOptions(optimizerNamed(name), given as AnyOptions)).toMatchObject({ [option]: value });
});

it('has a test for each option of an optimizer', () => {
  const tested = [...Object.keys(OPTIMIZER_FLAGS), ...Object.keys(optimizerNamed('agd').options)];
  const missing = optimizerFlags().flatMap(({ name }) => (tested.includes(name) ? [] : [name]));
  expect(missing).toEqual([]);
});

it('reads what a step does besides', async () => {
  const flags =
    '--no-decay-bias-norm --schedule cosine:total=9,warmup=2 --clip-grad-norm 1 --clip-grad-value 2';
  expect(
    await options(
      ...flags.split(' '),
      ...'--accumulate 4 --ema 0.9 --cautious --schedule-free momentum=0.8,weight_decay_at_y=0.1,r=1,weight_lr_power=0 --state-bits 4 --state-rounding stochastic --sam rho=0.05,adaptive=true --on-nonfinite skip --compensate --scalars float32 --telemetry 10 --no-tile --lazy-rows e.* --lazy-rows f'.split(
        ' ',
      ),
    ),
  ).toEqual({
    decayBiasNorm: false,
    schedule: { kind: 'cosine', total: 9, warmup: 2 },
    clipGradNorm: 1,
    clipGradValue: 2,
    accumulate: 4,
    cautious: true,
    scheduleFree: { momentum: 0.8, weightDecayAtY: 0.1, r: 1, weightLrPower: 0 },
    stateBits: 4,
    stateRounding: 'stochastic',
    sam: { rho: 0.05, adaptive: true },
    ema: 0.9,
    onNonfinite: 'skip',
    compensate: true,
    scalars: 'float32',
    telemetry: 10,
    tile: false,
    lazyRows: ['e.*', 'f'],
  });
});

it('reads the settings of weighted sharpness', async () => {
  expect(await options('--wsam', 'rho=0.05,gamma=0.8')).toEqual({ wsam: { rho: 0.05, gamma: 0.8 } });
  const refused = (text: string) => expect(options('--wsam', text)).rejects;
  await refused('gamma=0.9').toThrow("--wsam: needs the radius, as rho=0.05,gamma=0.9, not 'gamma=0.9'");
  await refused('0.05').toThrow("--wsam: expected name=value, ..., not '0.05'");
  await refused('rho=0').toThrow("--wsam: rho must be a number above 0, in 'rho=0'");
  await refused('rho=1,gama=0.5').toThrow("--wsam: Unknown setting 'gama'; did you mean 'gamma'");
});

it('reads groups, whose globs and values may have commas', async () => {
  const { groups } = await options(
    '--group',
    '*.bias, {a,b}.norm*: weight_decay=0, betas=0.9,0.99,amsgrad=true',
    '--group',
    'onnx::MatMul_*: weight-decay=0.1',
  );
  expect(groups).toEqual([
    { match: ['*.bias', '{a,b}.norm*'], options: { weightDecay: 0, betas: [0.9, 0.99], amsgrad: true } },
    { match: ['onnx::MatMul_*'], options: { weightDecay: 0.1 } },
  ]);
  for (const text of ['*.bias', '*.bias: ', ': lr=1', '*.bias: lr'])
    await expect(options('--group', text)).rejects.toThrow('expected GLOBS: name=value');
});

it('puts flags before what the file says, and its groups after', async () => {
  const path = config({
    optimizer: { lr: 0.5, amsgrad: true },
    groups: [{ match: '*', options: { lr: 0.25 } }],
    schedule: 'step:every=5',
    ema: 0.5,
    decayBiasNorm: false,
  });
  const flags = ['--config', path, '--lr', '0.125', '--no-amsgrad', '--ema', '0.75', '--decay-bias-norm'];
  expect(await options(...flags, '--group', 'a: lr=1')).toEqual({
    optimizer: { lr: 0.125, amsgrad: false },
    groups: [
      { match: '*', options: { lr: 0.25 } },
      { match: ['a'], options: { lr: 1 } },
    ],
    schedule: { kind: 'step', every: 5 },
    ema: 0.75,
    decayBiasNorm: true,
  });
});

it.each([
  [{ lr: 0.1 }, "Option 'lr' is 'optimizer.lr' in a file."],
  [{ 'label-smoothing': 0.1 }, "Option 'label-smoothing' is 'loss.labelSmoothing' in a file."],
  [{ output: 'logits' }, "Option 'output' is 'loss.output' in a file."],
  ['{', 'cannot be parsed'],
  [[], 'must hold an object of options'],
  [{ emma: 0.9 }, "Unknown option 'emma'; did you mean 'ema'?"],
  [{ ema: '0.9' }, 'ema must be a number in [0, 1), not "0.9"'],
  [{ ema: 1 }, 'ema must be a number in [0, 1), not 1'],
  [{ groups: [{ match: '*' }] }, 'groups[0].options must be'],
  [{ lazyRows: 3 }, 'lazyRows must be a list of texts, not 3'],
  [
    { schedule: 'cosine:every=3' },
    ".json: schedule: Schedule 'cosine' takes warmup, start, total, final, not 'every'",
  ],
  [{ params: 'a.npz', initialize: true }, '--initialize cannot be combined with --params'],
  [{ loss: { lossOutput: 'l', classAxis: 1 } }, '--loss-output cannot be combined with'],
  [{ optimizer: 'agdd' }, "Unknown optimizer 'agdd'; did you mean 'agd'?"],
  [{ optimizer: { name: 'sgd', momentun: 0.9 } }, "did you mean 'optimizer.momentum'?"],
  [{ loss: 'msee' }, 'loss.kind must be one of'],
  [{ data: 'train.npz' }, "Unknown option 'data'"],
])('refuses a file with %j', async (content, message) => {
  await expect(options('--config', config(content))).rejects.toThrow(message);
});

it('refuses a file that is not there', async () => {
  await expect(options('--config', join(folder, 'none.json'))).rejects.toThrow(
    /^Cannot read '.*none\.json': no such file or folder\.$/,
  );
});

it.each([
  ['yaml', 'loss: huber\noptimizer:\n  name: adamw\n  betas: [0.5, 0.75]\nbatchSize: 8\ndata: train.npz\n'],
  [
    'ts',
    "const size: number = 8;\nexport default { loss: 'huber', optimizer: { name: 'adamw', betas: [0.5, 0.75] }, batchSize: size, data: 'train.npz' };",
  ],
  [
    'json',
    '{"loss": "huber", "optimizer": {"name": "adamw", "betas": [0.5, 0.75]}, "batchSize": 8, "data": "train.npz"}',
  ],
])('reads a whole run from %s', async (ending, content) => {
  const path = join(folder, `run.${ending}`);
  writeFileSync(path, content);
  expect(await told('train', '--config', path, '--batch-size', '4')).toMatchObject({
    loss: { kind: 'huber' },
    optimizer: { name: 'adamw', betas: [0.5, 0.75] },
    batchSize: 4,
    data: 'train.npz',
  });
});

it.each([
  [[], undefined],
  [['--checkpoint-activations'], true],
  [['--checkpoint-segments', '7'], 7],
  [['--checkpoint-activations', '--checkpoint-segments', '7'], 7],
])('recomputes activations with %j', async (flags, want) => {
  expect((await options(...flags)).checkpointActivations).toBe(want);
});

it('refuses options of injection where nothing is injected', async () => {
  const run = async (...flags: string[]) =>
    injectOptionsIfTask(await told('train', '--data', 'train.npz', ...flags));
  expect(await run('--lr', '0.1', '--seed', '3')).toBeUndefined();
  await expect(run('--no-decay-bias-norm')).rejects.toThrow('--decay-bias-norm takes effect when');
  await expect(run('--checkpoint-activations')).rejects.toThrow('--checkpoint-activations takes');
  await expect(run('--momentum', '0.9')).rejects.toThrow('--momentum takes effect when');
  await expect(run('--target', 'label')).rejects.toThrow('--target needs --loss');
});

it('says which flag is meant, or what was wrong with it', async () => {
  const wrong: [string[], string | RegExp][] = [
    [['--epoch', '3'], "Unknown option '--epoch'; did you mean '--epochs'?"],
    [['--batch', '8'], "Unknown option '--batch'; did you mean '--batch-size'?"],
    [['--no-shufle'], "Unknown option '--no-shufle'"],
    [['--zzzzzzzz', '3'], /^Unknown option '--zzzzzzzz'\.$/],
    [['--epochs', 'ten'], '--epochs must be a whole number of at least 1, not "ten"'],
    [['--epochs', '0'], '--epochs must be a whole number of at least 1, not 0'],
    [['--epochs', '2', '--epochs', '3'], '--epochs is given more than once'],
    [['--epochs'], '--epochs needs a value'],
    [['--map', 'x'], "--map: expected INPUT=VALUE, not 'x'"],
    [['--scale', 'x=0'], '--scale: expected a number other than 0'],
    [['extra'], "Unexpected argument 'extra'"],
    [['--params', 'a.npz', '--initialize'], '--initialize cannot be combined with --params'],
  ];
  for (const [flags, message] of wrong)
    await expect(told('train', '--data', 'train.npz', ...flags)).rejects.toThrow(message);
  await expect(told('train')).rejects.toThrow('--data is missing');
  await expect(parse(['train'])).rejects.toThrow('Name a model file.');
  await expect(parse(['trian', 'model.onnx'])).rejects.toThrow(
    "Unknown command 'trian'; did you mean 'train'?",
  );
});

it('takes what follows -- for names of files', async () => {
  expect((await parse(['inspect', '--json', '--', '-a.onnx']))!.values).toMatchObject({
    model: '-a.onnx',
    json: true,
  });
  await expect(parse(['diff', '--', '-a.onnx'])).rejects.toThrow('Name a model file.');
  await expect(parse(['inspect', '--', '-a.onnx', '--json'])).rejects.toThrow("Unexpected argument '--json'");
});

it('makes flag, help, check and configuration key of one entry of a table', async () => {
  const own: Options = {
    minLength: {
      type: types.count,
      group: 'Data',
      commands: [],
      stage: 'run',
      help: 'Shortest sample to keep',
      shown: '1',
    },
  };
  const help = await addFlags(yargs(), 'train', own, false).getHelp();
  expect(help.replace(/\s+/g, ' ')).toContain('--min-length Shortest sample to keep [1]');
  expect(readFlags({ 'min-length': '3' }, 'train', own)).toEqual({ minLength: 3 });
  const refused = () => readFlags({ 'min-length': '0' }, 'train', own);
  expect(refused).toThrow('--min-length must be a whole number of at least 1, not 0');
  expect(() => readFlags({ 'min-lenght': '3' }, 'train', own)).toThrow("did you mean '--min-length'?");
  expect(await readConfig(config({ minLength: 3 }), 'train', own)).toEqual({ minLength: 3 });
  expect(await readConfig(config({ distill: 'kl:T=2' }), 'train', own)).toEqual({ distill: ['kl:T=2'] });
  await expect(readConfig(config({ minLength: 1.5 }), 'train', own)).rejects.toThrow('minLength must be');
});

it('reads options of several texts from a file as objects, as the texts of flags, or as one of these', async () => {
  const object = [{ match: ['*q_proj'], r: 8, dora: true }];
  for (const lora of [object, '*q_proj:r=8,dora', ['*q_proj:r=8,dora']])
    expect((await options('--config', config({ lora }))).lora).toMatchObject(object);
  const group = [{ match: ['*.bias'], options: { weightDecay: 0 } }];
  for (const groups of [group, '*.bias: weight_decay=0', ['*.bias: weight_decay=0']])
    expect((await options('--config', config({ groups }))).groups).toEqual(group);
  const told = readConfig(config({ bind: { map: ['x=pixels', 'y=labels'] }, columns: 'x=a,b' }), 'train', {});
  expect(await told).toMatchObject({ bind: { map: { x: 'pixels', y: 'labels' } } });
  await expect(options('--config', config({ lora: ['*:rank=8'] }))).rejects.toThrow(
    /config\.json: lora: .*rank/,
  );
  await expect(options('--config', config({ lora: [{ match: '*', rslor: true }] }))).rejects.toThrow(
    "config.json: lora[0]: Unknown key 'rslor'; did you mean 'rslora'?",
  );
  await expect(options('--config', config({ lora: [{ r: 8 }] }))).rejects.toThrow(/lora\[0\].*match/);
  await expect(options('--config', config({ qat: { weights: 'int8', perchannel: true } }))).rejects.toThrow(
    "config.json: qat: Unknown key 'perchannel'; did you mean 'perChannel'?",
  );
  await expect(options('--config', config({ lora: [8] }))).rejects.toThrow(/config\.json: lora\[0\] must be/);
});

it('reads a sum of losses without parentheses', async () => {
  const loss = async (text: string, ...more: string[]) =>
    (await told('inject', '--loss', text, ...more)).loss as unknown;
  expect(await loss('mse + 0.1*l1')).toEqual({ kind: 'mse', plus: [{ kind: 'l1', weight: 0.1 }] });
  expect(await loss('0.5*mse')).toEqual({ kind: 'mse', weight: 0.5 });
  await expect(loss('mse + l1', '--target', 't')).rejects.toThrow('in the parentheses of a loss');
});

it.each([
  ['--pytorch-state a', '--peft b'],
  ['--pytorch-state a', '--adapter b'],
  ['--pytorch-state a', '--adapters-only'],
  ['--pytorch-state a', '--onnx-adapter b'],
  ['--ort-checkpoint a', '--adapter b'],
  ['--ort-checkpoint a', '--peft b'],
  ['--peft a', '--bake-preprocessing'],
  ['--peft a', '--onnx-adapter b'],
  ['--onnx-adapter a', '--recipe b'],
  ['--adapter a', '--recipe b'],
  ['--adapter a', '--bake-preprocessing'],
])('export refuses %s with %s, of which it would do one', async (one, other) => {
  await expect(told('export', ...`${one} ${other}`.split(' '))).rejects.toThrow('cannot be combined with');
});
