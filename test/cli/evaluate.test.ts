/** evaluate, predict and diff on the command line. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { loadModel, saveModel } from '../../src/graph/files.js';
import { Tensor } from '../../src/graph/tensor.js';
import { type Recipe, withRecipe } from '../../src/passes/recipe/recipe.js';
import { readNpz, writeNpz } from '../../src/runtime/data/npz.js';
import { saveRecipe } from '../../src/runtime/data/recipe/recipe-file.js';
import { Sketch } from '../sample.js';
import { agdOnnx, workplace } from './run.js';

let folder: string;
const file = (name: string) => join(folder, name);
const run = (...args: string[]) => agdOnnx(folder, ...args);
const ok = (...args: string[]) => {
  const result = run(...args);
  expect(result).toMatchObject({ code: 0, err: '' });
  return result.out;
};
const text = (name: string) => readFileSync(file(name), 'utf8');

const NAMES = ['ape', 'bear', 'cat, or dog'];
const columns = ['a', 'b', 'c', 'd'];
const recipe: Recipe = {
  version: 1,
  target: 'target',
  inputs: [
    {
      input: 'x',
      dtype: 'float32',
      dims: [4],
      columns: columns.map(column => ({ column, kind: 'number', width: 1, steps: [{ step: 'none' }] })),
    },
    {
      input: 'target',
      dtype: 'int64',
      dims: [],
      columns: [{ column: 'kind', kind: 'text', width: 1, steps: [{ step: 'class', names: NAMES }] }],
    },
  ],
};

beforeAll(async () => {
  folder = await workplace();
  ok(
    ...['train', 'model.onnx', '--loss', 'cross-entropy', '--data', 'train.npz', '--epochs', '20'],
    ...['--lr', '0.02', '--state', 'run.agd.onnx', '-o', 'trained.onnx', '--export', 'last'],
  );
  await saveModel(withRecipe(await loadModel(file('trained.onnx')), recipe), file('named.onnx'));
  const arrays = await readNpz(file('test.npz'));
  const s = new Sketch();
  const e = s.add('Sub', [s.input('logits', ['n', 3]), s.input('wanted', ['n', 3])], 'e');
  await saveModel(s.model([s.add('ReduceMean', [s.add('Abs', [e], 'a')], 'loss')]), file('loss.onnx'));
  const wanted = Tensor.filled('float32', [64, 3], 0.5);
  await writeNpz(
    file('wanted.npz'),
    new Map([
      ['x', arrays.get('x')!],
      ['wanted', wanted],
    ]),
  );
  const x = arrays.get('x')!.numbers();
  const rows = arrays
    .get('target')!
    .numbers()
    .map((c, i) => {
      const cells = [`"row ${i}, of the test"`, ...x.slice(4 * i, 4 * i + 4), `"${NAMES[c]}"`];
      return cells.join(',');
    });
  writeFileSync(file('test.csv'), `id,${columns.join(',')},kind\n${rows.join('\n')}\n`);
});

describe('evaluate', () => {
  it('prints loss and metrics of a plain model and of its state alike', () => {
    const plain = ok('evaluate', 'trained.onnx', '--loss', 'cross-entropy', '--data', 'test.npz');
    expect(plain).toMatch(/64 samples\n.*\n.*\nloss +0\.\d+\naccuracy +[\d.]+ %\nf1 +0\.\d+\n$/);
    const state = ok('evaluate', 'run.agd.onnx', '--data', 'test.npz');
    expect(state.split('\n').slice(1)).toEqual(plain.split('\n').slice(1));
  });
  it('prints JSON, and the metrics that are chosen', () => {
    const chosen = ['--metric', 'auc', '--metric', 'confusion-matrix', '--batch-size', '7'];
    const found = JSON.parse(ok('evaluate', 'run.agd.onnx', '--data', 'test.npz', '--json', ...chosen));
    expect(found).toMatchObject({ samples: 64, metrics: { auc: expect.any(Number) } });
    expect(found.confusion.matrix).toHaveLength(3);
    const shown = ok('evaluate', 'run.agd.onnx', '--data', 'test.npz', ...chosen);
    expect(shown).toContain('true \\ predicted');
  });
  it('takes a recipe from a file, for a model without one', () => {
    writeFileSync(file('recipe.json'), JSON.stringify(recipe));
    const plain = ['--loss', 'cross-entropy', '--data', 'test.csv', '--json'];
    const own = ok('evaluate', 'named.onnx', ...plain);
    expect(ok('evaluate', 'trained.onnx', '--recipe', 'recipe.json', ...plain)).toBe(own);
    const predict = (name: string, ...args: string[]) => {
      ok('predict', ...args, '--loss', 'cross-entropy', '--data', 'test.csv', '-o', name);
      return text(name);
    };
    const found = predict('given.csv', 'trained.onnx', '--recipe', 'recipe.json');
    expect(found).toBe(predict('own.csv', 'named.onnx'));
    expect(found).toContain('bear');
    expect(run('predict', 'trained.onnx', '--recipe', 'named.onnx', '--data', 'none.csv')).toMatchObject({
      code: 1,
      err: expect.stringContaining('none.csv'),
    });
  });
  it('takes a loss from another model, and learns how far a model is from its teacher', () => {
    const loss = (...args: string[]) => JSON.parse(ok('evaluate', 'trained.onnx', ...args, '--json')).loss;
    const l1 = loss('--loss', 'l1', '--target', 'wanted', '--data', 'wanted.npz');
    expect(loss('--loss-model', 'loss.onnx', '--data', 'wanted.npz')).toBeCloseTo(l1, 6);
    const data = ['--loss', 'cross-entropy', '--data', 'test.npz'];
    const own = ['--teacher', 'trained.onnx', '--distill', 'kl:T=2,alpha=0.25'];
    expect(loss(...data, ...own)).toBeCloseTo(0.75 * loss(...data), 6);
    const state = run('evaluate', 'run.agd.onnx', '--data', 'test.npz', ...own);
    expect(state).toMatchObject({
      code: 1,
      err: expect.stringContaining('A training state contains its loss'),
    });
    expect(run('evaluate', 'trained.onnx', '--data', 'test.npz', '--teacher', 'trained.onnx').err).toContain(
      '--distill',
    );
  });
  it('reads tables by the recipe of the model', () => {
    const table = JSON.parse(
      ok(
        ...['evaluate', 'named.onnx', '--loss', 'cross-entropy', '--data', 'test.csv', '--json'],
        ...['--metric', 'accuracy', '--metric', 'f1', '--metric', 'confusion-matrix'],
      ),
    );
    expect(table.confusion.classes).toEqual(NAMES);
    const arrays = JSON.parse(ok('evaluate', 'run.agd.onnx', '--data', 'test.npz', '--json'));
    expect(table.samples).toBe(64);
    expect(table.metrics).toEqual(arrays.metrics);
  });
  it('says what is wrong', () => {
    expect(run('evaluate', 'trained.onnx', '--data', 'test.npz')).toMatchObject({
      code: 1,
      err: expect.stringContaining('Choose a loss with --loss'),
    });
    expect(run('evaluate', 'run.agd.onnx', '--data', 'test.npz', '--metric', 'aoc').err).toContain(
      "did you mean 'auc'?",
    );
    expect(run('evaluate', 'run.agd.onnx', '--data', 'test.npz', '--ema').err).toContain('keeps no average');
    const balanced = ['--loss', 'cross-entropy', '--class-weights', 'balanced'];
    expect(run('evaluate', 'trained.onnx', '--data', 'test.npz', ...balanced).err).toContain('give numbers');
    expect(run('evaluate', 'run.agd.onnx').err).toContain('--data is missing');
  });
});

describe('grad', () => {
  const gradients = (name: string, ...args: string[]) => {
    const out = ok('grad', ...args, '-o', name);
    return { out, bytes: readFileSync(file(name)) };
  };
  const loss = ['--loss', 'cross-entropy'];
  it('of rows of a table is that of their arrays', async () => {
    const table = gradients(
      't.safetensors',
      'named.onnx',
      ...loss,
      '--inputs',
      'test.csv',
      '--batch-size',
      '64',
    );
    const arrays = gradients('a.safetensors', 'trained.onnx', ...loss, '--inputs', 'test.npz');
    expect(table.bytes.equals(arrays.bytes)).toBe(true);
    const columns = [
      '--columns',
      'x=a:none,b:none,c:none,d:none',
      '--columns',
      `target=kind:class(ape,bear,other=rest)`,
    ];
    const named = gradients(
      'c.safetensors',
      'trained.onnx',
      ...loss,
      '--inputs',
      'test.csv',
      ...columns,
      '--check',
    );
    expect(named.out).toContain('takes the first 32 of 64 samples; --batch-size takes others');
    expect(named.out).not.toContain('WRONG');
    await saveRecipe(file('names.json'), recipe);
    const given = ['--recipe', 'names.json', '--batch-size', '64'];
    const fitted = gradients('r.safetensors', 'trained.onnx', ...loss, '--inputs', 'test.csv', ...given);
    expect(fitted.bytes.equals(arrays.bytes)).toBe(true);
    expect(run('grad', 'trained.onnx', ...loss, '--inputs', 'test.csv')).toMatchObject({
      code: 1,
      err: expect.stringContaining("no column 'target'"),
    });
  });
  it('of a loss that another model computes, or that reads a teacher', () => {
    const l1 = gradients(
      'l.safetensors',
      'trained.onnx',
      '--loss',
      'l1',
      '--target',
      'wanted',
      '--inputs',
      'wanted.npz',
    );
    const own = gradients(
      'm.safetensors',
      'trained.onnx',
      '--loss-model',
      'loss.onnx',
      '--inputs',
      'wanted.npz',
      '--check',
    );
    expect(own.out).not.toContain('WRONG');
    expect(l1.out).toContain(own.out.split('\n')[0]);
    const teacher = ['--teacher', 'model.onnx', '--distill', 'kl:T=2,alpha=0.5'];
    const taught = gradients(
      'd.safetensors',
      'trained.onnx',
      ...loss,
      ...teacher,
      '--inputs',
      'test.npz',
      '--check',
    );
    expect(taught.out).not.toContain('WRONG');
    const cotangents = ['--cotangents', 'wanted.npz', '--loss-model', 'loss.onnx', '--inputs', 'wanted.npz'];
    expect(run('grad', 'trained.onnx', ...cotangents).err).toContain('cannot be combined');
  });
});

describe('predict', () => {
  it('writes classes and probabilities as a table', () => {
    const out = ok('predict', 'run.agd.onnx', '--data', 'test.npz', '-o', 'p.csv');
    expect(out).toBe('wrote p.csv: 64 samples\n');
    const [head, ...rows] = text('p.csv').trimEnd().split('\n');
    expect(head).toBe('class,probability,probability_0,probability_1,probability_2');
    expect(rows).toHaveLength(64);
    for (const row of rows) {
      const [best, most, ...all] = row.split(',').map(Number);
      expect(all[best!]).toBe(most);
      expect(all.reduce((a, b) => a + b, 0)).toBeCloseTo(1, 5);
    }
  });
  it('names classes by the recipe, and keeps columns', () => {
    ok('predict', 'named.onnx', '--data', 'test.csv', '--keep', 'id', '--keep', 'kind', '-o', 'named.csv');
    const [head, first] = text('named.csv').split('\n');
    expect(head).toBe('id,kind,class,probability,probability_ape,probability_bear,"probability_cat, or dog"');
    expect(first).toMatch(/^"row 0, of the test",("cat, or dog"|ape|bear),("cat, or dog"|ape|bear),0\.\d+,/);
    ok('predict', 'named.onnx', '--data', 'test.csv', '--keep', 'id', '-o', 'named.jsonl');
    const line = JSON.parse(text('named.jsonl').split('\n')[3]!);
    expect(line.id).toBe('row 3, of the test');
    expect(NAMES).toContain(line.class);
    expect(line.probabilities[line.class]).toBe(line.probability);
    const accuracy = text('named.csv')
      .trimEnd()
      .split('\n')
      .slice(1)
      .filter(row => {
        const [, kind, predicted] = /^".*?",(".*?"|\w+),(".*?"|\w+),/.exec(row)!;
        return kind === predicted;
      }).length;
    const { metrics } = JSON.parse(ok('evaluate', 'run.agd.onnx', '--data', 'test.npz', '--json'));
    expect(accuracy / 64).toBeCloseTo(metrics.accuracy, 12);
  });
  it('writes arrays', async () => {
    ok(
      'predict',
      'run.agd.onnx',
      '--data',
      'test.npz',
      '--keep',
      'target',
      '-o',
      'p.npz',
      '--batch-size',
      '5',
    );
    const found = await readNpz(file('p.npz'));
    expect([...found].map(([name, { dtype, dims }]) => `${name} ${dtype} [${dims}]`)).toEqual([
      'class int64 [64]',
      'probability float32 [64]',
      'probabilities float32 [64,3]',
      'target float64 [64]',
    ]);
  });
  it('writes other outputs as they are, and takes another activation', () => {
    ok('predict', 'trained.onnx', '--data', 'test.npz', '--output', 'logits', '-o', 'raw.csv');
    expect(text('raw.csv').split('\n')[0]).toBe('logits_0,logits_1,logits_2');
    const sigmoid = ['--activation', 'sigmoid', '--output', 'logits', '--output', 'h'];
    ok('predict', 'run.agd.onnx', '--data', 'test.npz', ...sigmoid, '-o', 'two.jsonl');
    const line = JSON.parse(text('two.jsonl').split('\n')[0]!);
    expect(Object.keys(line)).toEqual(['class', 'probability', 'h']);
    expect(line.h).toHaveLength(8);
    ok('predict', 'trained.onnx', '--data', 'test.npz', '--loss', 'cross-entropy');
    expect(existsSync(file('trained.predictions.csv'))).toBe(true);
  });
  it('says what is wrong, and leaves a file that was there', () => {
    writeFileSync(file('there.csv'), 'old');
    const predict = (...args: string[]) => run('predict', 'run.agd.onnx', '--data', 'test.npz', ...args);
    expect(predict('-o', 'there.csv', '--output', 'nope')).toMatchObject({ code: 1 });
    expect(text('there.csv')).toBe('old');
    expect(predict('-o', 'p.txt').err).toContain('written as .csv, .npz or .jsonl');
    expect(predict('--keep', 'taget').err).toContain("Unknown column 'taget'; did you mean 'target'?");
    expect(predict('--activation', 'softmx').err).toContain("Did you mean 'softmax'?");
  });
});

describe('diff', () => {
  it('shows which tensors training moved', () => {
    const out = ok('diff', 'model.onnx', 'trained.onnx');
    expect(out).toMatch(/^4 tensors moved, 0 did not\n/);
    expect(out).toMatch(/fc2\.weight +float32\[8,3\] +[\d.]+ +[\d.]+ +0\.\d+ +24 of 24/);
    const { moved } = JSON.parse(ok('diff', 'model.onnx', 'trained.onnx', '--json'));
    expect(moved).toHaveLength(4);
    const relative = moved.map((t: { relative: number }) => t.relative);
    expect(relative).toEqual([...relative].sort((a, b) => b - a));
    expect(ok('diff', 'model.onnx', 'model.onnx')).toBe('no difference: 4 tensors with the same values\n');
  });
  it('shows how graphs differ', async () => {
    const s = new Sketch();
    const other = s.model([
      s.add('Relu', [s.add('Gemm', [s.input('x', ['batch', 4]), s.weight('fc1.weight', [4, 9])], 'h')], 'y'),
    ]);
    await saveModel(other, file('other.onnx'));
    const out = ok('diff', 'model.onnx', 'other.onnx');
    for (const line of [
      '- tensor fc2.weight float32[8,3]',
      '~ tensor fc1.weight float32[4,8] -> float32[4,9]',
      '- node a Tanh',
      '+ node y Relu',
      '~ node h Gemm',
      '- output logits ?',
      '+ output y ?',
    ])
      expect(out).toContain(line);
  });
  it('names the file that it cannot read', () => {
    expect(run('diff', 'model.onnx', 'none.onnx')).toMatchObject({
      code: 1,
      err: expect.stringContaining('none.onnx'),
    });
    expect(run('diff', 'model.onnx').code).toBe(1);
  });
});

it('all of them tell their options', () => {
  for (const command of ['evaluate', 'predict', 'diff'])
    expect(ok(command, '--help')).toContain(`agd-onnx ${command}`);
});
