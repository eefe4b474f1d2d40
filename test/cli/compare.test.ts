import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';
import { OPTIMIZER_NAMES } from '../../src/ops/optimizers/index.js';
import { agdOnnx, workplace } from './run.js';

let folder: string;
beforeAll(async () => {
  folder = await workplace();
});
const DATA = ['--loss', 'cross-entropy', '--data', 'train.npz', '--val', 'test.npz', '--batch-size', '32'];
const compare = (...args: string[]) => agdOnnx(folder, 'compare', 'model.onnx', ...DATA, ...args);
const fails = (...args: string[]) => {
  const { code, err } = compare(...args);
  expect(code).toBe(1);
  expect(err.trimEnd().split('\n')).toHaveLength(1);
  return err;
};

it('writes table, curves, page and results', () => {
  const who = ['--optimizers', 'agd,agd(delta=1e-2,betas=0.8,0.9),sgd', '--lr', '0.01,0.03; sgd=0.3,1,3'];
  const { code, out, err } = compare(...who, '--seeds', '2', '--epochs', '4', '--reach', '0.5', '-o', 'out');
  expect(err).toBe('');
  expect(code).toBe(0);
  expect(out).toMatch(/run 14\/14 {2}sgd at 3, seed 1 {2}train loss/);
  expect(out).toMatch(/optimizer +lr +final accuracy +± +best +steps to target +time a step/);
  expect(readdirSync(join(folder, 'out')).sort()).toEqual([
    ...['loss.svg', 'metric.svg', 'rates.svg', 'report.html', 'report.md', 'results.json'],
  ]);
  const { standings, runs } = JSON.parse(readFileSync(join(folder, 'out/results.json'), 'utf8'));
  expect(runs).toHaveLength(14);
  expect(standings.map((s: { candidate: string }) => s.candidate)).toEqual([
    ...Array(2).fill('agd'),
    ...Array(2).fill('agd(delta=1e-2,betas=0.8,0.9)'),
    ...Array(3).fill('sgd'),
  ]);
  const page = readFileSync(join(folder, 'out/report.html'), 'utf8');
  expect(page).toContain('Final accuracy by learning rate');
  expect(page.replace(/<.?span>/g, '')).toContain('agd-onnx compare model.onnx');
  // Of each optimizer's best rate the page says where a better one may lie beyond those tried.
  const best = standings.filter(
    (s: { candidate: string }, i: number) => standings[i - 1]?.candidate !== s.candidate,
  );
  const lowest = best.filter((s: { lr: number }) => s.lr === 0.01 || s.lr === 0.3).length;
  const highest = best.filter((s: { lr: number }) => s.lr === 0.03 || s.lr === 3).length;
  expect(page.match(/<td>the lowest<\/td>/g) ?? []).toHaveLength(lowest);
  expect(page.match(/<td>the highest<\/td>/g) ?? []).toHaveLength(highest);
  expect(lowest + highest).toBeGreaterThan(1);
  expect(out).not.toMatch(/the (low|high)est/);
});

it('tries a tenth of, the default and ten times the default rate where nothing is said', () => {
  const { out } = compare('--optimizers', 'adamw', '--seeds', '1', '-o', 'usual');
  expect(out).toMatch(/adamw at 1e-4, .*adamw at 0\.001, .*adamw at 0\.01, /s);
});

it('tunes each optimizer by the same budget, reports on test data, and states its protocol', () => {
  const who = ['--optimizers', 'agd,sgd(momentum=0.9)', '--tune', '3', '--lr', 'sgd=0.3', '--seeds', '3'];
  const held = ['--val-split', '0.25', '--test', 'test.npz', '--reach', '0.1', '-o', 'tuned'];
  const train = ['--loss', 'cross-entropy', '--data', 'train.npz'];
  const { code, err, out } = agdOnnx(folder, 'compare', 'model.onnx', ...train, ...who, ...held);
  expect({ code, err }).toEqual({ code: 0, err: '' });
  expect(out).toMatch(/run 10\/10 /);
  expect(out).toMatch(/final accuracy +± +test accuracy +test ±/);
  const { standings, runs, protocol, metric } = JSON.parse(
    readFileSync(join(folder, 'tuned/results.json'), 'utf8'),
  );
  expect(metric).toEqual({ name: 'accuracy', better: 'higher' });
  type Row = { candidate: string; lr: number; seeds: number; seed: number };
  const rates = (name: string) =>
    standings.filter((s: Row) => s.candidate === name).map(({ lr, seeds }: Row) => [lr, seeds]);
  // The rate that seed 0 chose comes first and has all seeds.
  for (const [name, grid] of [
    ['agd', [1e-4, 1e-3, 1e-2]],
    ['sgd(momentum=0.9)', [0.03, 0.3, 3]],
  ] as const) {
    expect(
      rates(name)
        .map(([lr]: number[]) => lr)
        .sort(),
    ).toEqual(grid);
    expect(rates(name).map(([, seeds]: number[]) => seeds)).toEqual([3, 1, 1]);
  }
  expect(runs.every((r: { test?: { samples: number } }) => r.test?.samples === runs[0].test.samples)).toBe(
    true,
  );
  expect(protocol['Choice of the rate']).toContain('by the final accuracy (higher is better), seed 0 alone');
  const page = readFileSync(join(folder, 'tuned/report.html'), 'utf8');
  const markdown = readFileSync(join(folder, 'tuned/report.md'), 'utf8');
  for (const text of ['Protocol', 'Steps to target', 'no choice depends on them']) {
    expect(page).toContain(text);
    expect(markdown).toContain(text);
  }
  expect(markdown).toMatch(/^\| agd \| (1e-4|0\.001|0\.01) \| \d+\.\d+ % \|/m);
  expect(markdown).toContain('    agd-onnx compare model.onnx');
});

it('compares every optimizer', () => {
  const who = ['--optimizers', 'all', '--tune', '1', '--seeds', '1', '-o', 'every'];
  const { code, err } = compare(...who);
  expect({ code, err }).toEqual({ code: 0, err: '' });
  const { standings } = JSON.parse(readFileSync(join(folder, 'every/results.json'), 'utf8'));
  expect(standings.map((s: { candidate: string }) => s.candidate)).toEqual(OPTIMIZER_NAMES);
  expect(standings.filter((s: { diverged: number }) => s.diverged)).toEqual([]);
});

it('judges by the loss, and shows the switch, where that is asked for', () => {
  const who = ['--optimizers', 'agd,sgd', '--lr', '0.01', '--seeds', '1'];
  const { out, err } = compare(...who, '--monitor', 'loss', '--telemetry', '2', '-o', 'by-loss');
  expect(err).toBe('');
  expect(out).toMatch(/optimizer +lr +final validation loss +best +share of SGD/);
  expect(out).toMatch(/^agd +0\.01 .* \d+\.\d % /m);
  const svg = readFileSync(join(folder, 'by-loss/switch.svg'), 'utf8');
  expect(svg).toContain('<title>Share of coordinates in steps of SGD</title>');
});

it('ranks by the metrics that are chosen, of tables too, and by what a teacher says', async () => {
  const rows = Array.from({ length: 60 }, (_, i) => [i % 7, (i * i) % 11, 5 - (i % 3), i / 60, 'abc'[i % 3]]);
  writeFileSync(join(folder, 't.csv'), `a,b,c,d,kind\n${rows.map(row => row.join(',')).join('\n')}\n`);
  const few = ['--optimizers', 'agd,sgd', '--lr', '0.1', '--seeds', '1'];
  const table = [
    'compare',
    'model.onnx',
    '--loss',
    'cross-entropy',
    '--data',
    't.csv',
    '--val-split',
    '0.5',
    ...few,
  ];
  const label = ['--label', 'kind', '--class-weights', 'balanced', '-o', 'tables'];
  const both = ['--metric', 'balanced-accuracy', '--metric', 'f1'];
  const first = agdOnnx(folder, ...table, ...label, ...both);
  expect(first.out).toMatch(/optimizer +lr +final balanced-accuracy .*\n.*\nagd .* \d\d\.\d\d %/);
  const other = agdOnnx(folder, ...table, ...label, ...both, '--monitor', 'f1');
  expect(other.out).toMatch(/sgd at 0\.1, seed 0 .* val f1 0\.\d+/);
  expect(other.out).toMatch(/optimizer +lr +final f1 +best/);
  // A recipe that was fitted before gives the same samples.
  const recipe = [
    'train',
    'model.onnx',
    '--loss',
    'cross-entropy',
    '--data',
    't.csv',
    '--label',
    'kind',
    '--recipe-out',
    'r.json',
  ];
  expect(agdOnnx(folder, ...recipe).code).toBe(0);
  const given = agdOnnx(folder, ...table, '--recipe', 'r.json', '-o', 'given');
  expect({ code: given.code, err: given.err }).toEqual({ code: 0, err: '' });
  const teacher = ['--teacher', 'model.onnx', '--distill', 'mse:logits=logits,weight=1'];
  const taught = agdOnnx(
    folder,
    'compare',
    'model.onnx',
    ...teacher,
    '--data',
    'train.npz',
    ...few,
    '-o',
    'taught',
  );
  expect(taught.out).toMatch(/agd at 0\.1, seed 0 {2}train loss 0\.000/);
  expect(fails('--monitor', 'acuracy', '-o', 'none')).toMatch(/did you mean 'accuracy'/);
  expect(fails('--monitor', 'auc/0', '-o', 'none')).toMatch(/the validation gives loss, accuracy/);
  const none = [
    'compare',
    'model.onnx',
    '--loss',
    'cross-entropy',
    '--data',
    'train.npz',
    '--monitor',
    'loss',
    '-o',
    'none',
  ];
  expect(agdOnnx(folder, ...none).err).toContain('--monitor needs validation data');
});

it('says in one line what is wrong', () => {
  expect(fails('--optimizers', 'agd,newton')).toMatch(/Unknown optimizer 'newton'; expected one of agd, sgd/);
  expect(fails('--optimizers', 'sgd(delta=1)')).toMatch(/Unknown option of sgd 'delta'/);
  expect(fails('--lr', 'adam=0.1')).toMatch(/'adam' is not among --optimizers/);
  expect(fails('--lr', 'much')).toMatch(/--lr: expected comma-separated numbers/);
  expect(fails('--tune', '3', '--lr', 'sgd=0.1,0.3')).toMatch(
    /--lr sgd=0\.1,0\.3: with --tune, give one rate/,
  );
  expect(fails('--tune', '0')).toMatch(/--tune must be a whole number of at least 1, not 0/);
  // Before the first run.
  const missing = compare('--test', 'none.npz', '-o', 'gone');
  expect(missing.err).toMatch(/^agd-onnx: .*none\.npz.*\n$/);
  expect(missing.out).not.toContain('run');
  const alone = ['compare', 'model.onnx', '--loss', 'cross-entropy', '--data', 'train.npz'];
  expect(agdOnnx(folder, ...alone, '--test', 'test.npz', '-o', 'gone').err).toContain(
    '--test needs validation data',
  );
  expect(fails('--seed', '3')).toMatch(/Unknown option '--seed'; did you mean '--seeds'/);
  expect(fails('--seeds', '0')).toMatch(/--seeds must be a whole number of at least 1, not 0/);
  expect(fails('--delta', '1')).toMatch(/delta/);
  expect(existsSync(join(folder, 'model.compare'))).toBe(false);
});
