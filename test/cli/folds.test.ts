/** Cross-validation from files: what each fold is trained and fitted on, and what is said of all. */
import { copyFileSync, existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { loadModel } from '../../src/graph/files.js';
import { Tensor } from '../../src/graph/tensor.js';
import { readRecipe } from '../../src/passes/recipe/read-recipe.js';
import { loadArrays } from '../../src/runtime/data/load.js';
import { writeNpz } from '../../src/runtime/data/npz.js';
import { foldRows } from '../../src/runtime/data/split.js';
import type { TrainEvent } from '../../src/runtime/train/events.js';
import { agdOnnx, start, workplace } from './run.js';

let folder: string;
beforeAll(async () => {
  folder = await workplace();
  writeFileSync(file('table.csv'), TABLE);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const file = (name: string) => join(folder, name);
const ROWS = Array.from({ length: 60 }, (_, i) => [(i * i) % 17, i % 7, 5 - (i % 3), i, 'abc'[i % 3]!]);
const TABLE = `a,b,c,d,kind\n${ROWS.map(row => row.join(',')).join('\n')}\n`;
const ARRAYS = ['train', 'model.onnx', '--loss', 'cross-entropy', '--data', 'train.npz'];
const ofTable = (...args: string[]) => [
  ...['train', 'model.onnx', '--loss', 'cross-entropy', '--data', 'table.csv', '--label', 'kind'],
  ...args,
];

function events(...args: string[]): TrainEvent[] {
  const { code, out, err } = agdOnnx(folder, ...args, '--json');
  expect({ code, err }).toMatchObject({ code: 0 });
  return out
    .trim()
    .split('\n')
    .map(line => JSON.parse(line));
}
const of = <T extends TrainEvent['type']>(all: readonly TrainEvent[], type: T) =>
  all.filter((event): event is Extract<TrainEvent, { type: T }> => event.type === type);

it('a fold is trained on the other samples, and its values are those on its own', async () => {
  const arrays = await loadArrays(file('train.npz'));
  const labels = Int32Array.from(arrays.get('target')!.numbers());
  const rows = foldRows(256, 4, 7, labels);
  const take = (name: string, chosen: readonly number[]) => {
    const { dtype, dims, bytes } = arrays.get(name)!;
    const size = bytes.length / dims[0]!;
    const parts = chosen.map(row => bytes.subarray(row * size, (row + 1) * size));
    return [name, new Tensor(dtype, [chosen.length, ...dims.slice(1)], Buffer.concat(parts))] as const;
  };
  const held = Array.from(rows[2]!);
  const others = Array.from({ length: 256 }, (_, i) => i).filter(row => !held.includes(row));
  for (const [name, chosen] of [['held.npz', held] as const, ['others.npz', others] as const])
    await writeNpz(file(name), new Map([take('x', chosen), take('target', chosen)]));
  const run = [
    ...['--loss', 'cross-entropy', '--epochs', '2', '--seed', '7', '--export', 'last'],
    ...['--accumulate', '2', '--clip-grad-norm', '1'],
  ];
  const apart = events(
    'train',
    'model.onnx',
    ...run,
    '--data',
    'others.npz',
    '--val',
    'held.npz',
    '-o',
    'a.onnx',
  );
  const all = events(
    'train',
    'model.onnx',
    ...run,
    '--data',
    'train.npz',
    '--folds',
    '4',
    '--out-dir',
    'models',
  );
  const found = of(all, 'fold');
  expect(found.map(({ fold, samples }) => [fold, samples])).toEqual([1, 2, 3, 4].map(n => [n, 64]));
  const { loss, metrics } = of(apart, 'epoch')[1]!.validation!;
  expect(found[2]!.values).toEqual({ loss, ...metrics });
  expect(readFileSync(file('models/fold-3.onnx')).equals(readFileSync(file('a.onnx')))).toBe(true);
  expect(readdirSync(file('models')).sort()).toEqual([1, 2, 3, 4].map(n => `fold-${n}.onnx`));
});

it('what is fitted on columns is fitted on the other folds alone, and each class is in each fold', async () => {
  const all = events(
    ...ofTable('--folds', '3', '--epochs', '2', '--out-dir', 'fitted', '--class-weights', 'balanced'),
  );
  const classes = Int32Array.from(ROWS, ([, , , , kind]) => 'abc'.indexOf(kind as string));
  const folds = foldRows(60, 3, 0, classes);
  for (const [i, rows] of folds.entries()) {
    const others = ROWS.filter((_, row) => !rows.includes(row)).map(row => row[3] as number);
    const mean = others.reduce((a, b) => a + b) / others.length;
    const recipe = (await readRecipe(await loadModel(file(`fitted/fold-${i + 1}.onnx`))))!;
    const text = JSON.stringify(recipe.inputs[0]!.columns[3]);
    const [, fitted] = /"mean":([\d.]+)/.exec(text) ?? [];
    expect(Number(fitted)).toBeCloseTo(mean, 9);
  }
  for (const { validation } of of(all, 'epoch')) {
    const counts = validation!.confusion!.matrix.map(row => row.reduce((a, b) => a + b));
    expect(Math.max(...counts) - Math.min(...counts)).toBeLessThanOrEqual(1);
  }
});

it('mean and standard deviation over the folds are told, and the epoch with the best mean', () => {
  const all = events(...ARRAYS, '--folds', '5', '--epochs', '4', '--lr', '0.3', '--optimizer', 'sgd');
  const found = of(all, 'fold').map(({ values }) => values.loss!);
  const mean = found.reduce((a, b) => a + b) / 5;
  const spread = Math.sqrt(found.reduce((sum, x) => sum + (x - mean) ** 2, 0) / 4);
  const [result] = of(all, 'folds');
  expect(result!.choice).toBe('last');
  expect(result!.values.loss).toEqual({ mean: expect.closeTo(mean, 12), spread: expect.closeTo(spread, 12) });
  const epochs = of(all, 'epoch');
  const means = [1, 2, 3, 4].map(n => {
    const losses = epochs.filter(({ epoch }) => epoch === n).map(({ validation }) => validation!.loss);
    return losses.reduce((a, b) => a + b) / 5;
  });
  const best = Math.min(...means);
  expect(result!.best).toEqual({
    epoch: means.indexOf(best) + 1,
    metric: 'loss',
    value: expect.closeTo(best, 12),
  });
  expect(of(all, 'start').map(({ fold, folds }) => [fold, folds])).toEqual([1, 2, 3, 4, 5].map(n => [n, 5]));
  expect(of(all, 'end')).toHaveLength(1);
  expect(of(all, 'injected')).toHaveLength(1);
  expect(of(all, 'saved')).toEqual([]);
});

it('a fold that is stopped early counts with its best epoch', () => {
  const wild = ['--optimizer', 'sgd', '--lr', '8', '--epochs', '30'];
  const all = events(...ARRAYS, ...wild, '--folds', '3', '--patience', '2', '--monitor', 'accuracy');
  const [result] = of(all, 'folds');
  expect(result!.choice).toBe('best');
  for (const { epoch, epochs } of of(all, 'fold')) expect(epochs - epoch).toBe(2);
});

it('a table shows the folds, and no model is written without --out-dir', () => {
  const before = readdirSync(folder);
  const { code, out } = agdOnnx(folder, ...ARRAYS, '--folds', '2', '--logdir', 'tb', '--log', 'f.jsonl');
  expect(code).toBe(0);
  expect(out).toMatch(/^ +fold +samples +epoch +val loss +val accuracy/m);
  expect(out).toMatch(/^mean ± sd .* ± .* % ± .* %/m);
  expect(out).toContain('each fold counts with its last epoch');
  expect(
    readdirSync(folder)
      .filter(name => !before.includes(name))
      .sort(),
  ).toEqual(['f.jsonl', 'tb']);
  expect(readdirSync(file('tb')).sort()).toEqual(['fold-1', 'fold-2']);
  expect(readFileSync(file('f.jsonl'), 'utf8').match(/"type":"fold"/g)).toHaveLength(2);
});

it('an interrupted run tells the folds that are done', async () => {
  const child = start(folder, ...ARRAYS, '--folds', '200', '--json');
  let out = '';
  child.stdout.on('data', chunk => {
    out += chunk;
    if (/"type":"fold"/.test(out) && !child.killed) child.kill('SIGINT');
  });
  const code = await new Promise(resolve => child.on('close', resolve));
  expect(code).toBe(130);
  const types = out
    .trim()
    .split('\n')
    .map(line => JSON.parse(line));
  const end = types.at(-1);
  expect(end).toMatchObject({ type: 'end', stopped: true, reason: 'signal' });
  const done = types.filter(({ type }) => type === 'fold').length;
  expect(types.at(-2)).toMatchObject({ type: 'folds', folds: done });
  expect(existsSync(file('model.trained.agd.onnx'))).toBe(false);
});

it('options of a single run are refused, and a model that has seen the folds', () => {
  const refuses = (args: string[], message: string) =>
    expect(agdOnnx(folder, ...args)).toMatchObject({ code: 1, err: expect.stringContaining(message) });
  refuses([...ARRAYS, '--folds', '1'], 'at least 2');
  refuses([...ARRAYS, '--folds', '257'], '256 samples cannot be divided into 257 folds');
  refuses([...ARRAYS, '--folds', '2', '--val', 'test.npz'], '--folds cannot be combined with --val');
  refuses([...ARRAYS, '--folds', '2', '-o', 'x.onnx'], '--folds cannot be combined with --out');
  copyFileSync(file('model.onnx'), file('fold-2.onnx'));
  refuses(
    ['train', 'fold-2.onnx', ...ARRAYS.slice(2), '--folds', '2', '--out-dir', '.'],
    'fold-2.onnx would overwrite what it is made from',
  );
  refuses(
    [...ARRAYS, '--folds', '2', '--export-ema', '--ema', '0.9'],
    '--export-ema changes the models that --folds writes',
  );
  refuses([...ARRAYS, '--out-dir', 'x'], '--out-dir takes the models of --folds');
  const windows = ['--columns', 'x=a:windows(4)', '--columns', 'target=c:class(3,4,5)'];
  const series = ['train', 'model.onnx', '--loss', 'cross-entropy', '--data', 'table.csv', ...windows];
  refuses([...series, '--folds', '2'], 'windows that overlap');
  expect(agdOnnx(folder, ...ARRAYS, '--state', 's.agd.onnx', '-o', 's.onnx').code).toBe(0);
  refuses(['train', 's.agd.onnx', '--data', 'train.npz', '--folds', '2'], 'was trained for 8 steps already');
});
