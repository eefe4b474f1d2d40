/** Columns of tables through the commands. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as ort from 'onnxruntime-node';
import { beforeAll, describe, expect, it } from 'vitest';
import { loadModel } from '../../src/graph/files.js';
import { readRecipe } from '../../src/passes/recipe/read-recipe.js';
import { loadRecipe } from '../../src/runtime/data/recipe/recipe-file.js';
import { agdOnnx, workplace } from './run.js';

const RECIPE = {
  version: 1,
  inputs: [
    {
      input: 'x',
      dtype: 'float32',
      dims: [4],
      columns: [
        { column: 'age', kind: 'number', width: 1, steps: [{ step: 'standardize', mean: 30, std: 10 }] },
        {
          column: 'city',
          kind: 'text',
          width: 3,
          steps: [{ step: 'one-hot', table: ['a', 'b', 'c'], unknown: 'zeros', missing: 'zeros' }],
        },
      ],
    },
  ],
};

it('export takes a recipe, writes it, and bakes it', async () => {
  const folder = await workplace();
  writeFileSync(join(folder, 'recipe.json'), JSON.stringify(RECIPE));
  const injected = agdOnnx(folder, 'inject', 'model.onnx', '--loss', 'cross-entropy', '-o', 'model.agd.onnx');
  expect(injected.code).toBe(0);
  const plain = agdOnnx(
    folder,
    'export',
    'model.agd.onnx',
    '--recipe',
    'recipe.json',
    '--recipe-out',
    'out.json',
  );
  expect([plain.code, plain.err]).toEqual([0, '']);
  expect(plain.out).toContain('wrote out.json');
  expect(await loadRecipe(join(folder, 'out.json'))).toEqual(RECIPE);
  expect(await readRecipe(await loadModel(join(folder, 'model.trained.onnx')))).toMatchObject({
    scores: { output: 'logits' },
  });
  const baked = agdOnnx(folder, 'export', 'model.trained.onnx', '--bake-preprocessing', '-o', 'baked.onnx');
  expect([baked.code, baked.err]).toEqual([0, '']);
  const session = await ort.InferenceSession.create(join(folder, 'baked.onnx'));
  expect(session.inputNames).toEqual(['age', 'city']);
  const none = agdOnnx(folder, 'export', 'model.agd.onnx', '--bake-preprocessing');
  expect(none.code).toBe(1);
  expect(none.err).toMatch(/^agd-onnx: There is no recipe: .* \[bad-option\]\n$/);
});

const CITIES = ['Rome', 'Oslo', 'Bonn'];
const SPECIES = ['cat', 'dog', 'emu'];

/** Rows whose species follows from age and city. */
function people(count: number): string {
  const rows = Array.from({ length: count }, (_, i) => {
    const age = (i * 37) % 60;
    const city = CITIES[(i * 7) % 3]!;
    const species = age < 20 ? 'cat' : city === 'Oslo' ? 'dog' : 'emu';
    return `${i % 11 === 5 ? '' : age},${i % 13 === 4 ? '' : city},${species}`;
  });
  return `age,city,species\n${rows.join('\n')}\n`;
}

describe('a table', () => {
  let folder: string;
  const run = (...args: string[]) => {
    const { code, out, err } = agdOnnx(folder, ...args);
    expect({ args, code, err }).toEqual({ args, code: 0, err: '' });
    return out;
  };
  const columns = 'x=age:fill(median)+standardize,city:fill(most-frequent)+one-hot';
  const trained = [
    '--data',
    'people.csv',
    '--columns',
    columns,
    '--label',
    'species',
    '--loss',
    'cross-entropy',
  ];
  beforeAll(async () => {
    folder = await workplace();
    writeFileSync(join(folder, 'people.csv'), people(120));
    writeFileSync(join(folder, 'later.csv'), people(30));
  });

  it('trains, and its recipe goes into state, model and file', async () => {
    const args = [
      '--state',
      'model.agd.onnx',
      '--recipe-out',
      'people.json',
      '--val',
      'later.csv',
      '-o',
      'out.onnx',
    ];
    const out = run('train', 'model.onnx', ...trained, ...args);
    expect(out).toContain('wrote people.json');
    const recipe = await loadRecipe(join(folder, 'people.json'));
    expect(recipe.inputs.map(i => i.columns.map(c => c.column))).toEqual([['age', 'city'], ['species']]);
    for (const file of ['model.agd.onnx', 'out.onnx'])
      expect(await readRecipe(await loadModel(join(folder, file)))).toMatchObject(recipe);
    // The exported model trains on with the same recipe, also where other values are in the data.
    writeFileSync(join(folder, 'few.csv'), 'age,city,species\n1,Rome,cat\n2,Riga,dog\n');
    run('train', 'out.onnx', '--data', 'few.csv', '--loss', 'cross-entropy', '-o', 'again.onnx');
    expect((await loadRecipe(join(folder, 'again.onnx'))).inputs).toEqual(recipe.inputs);
    // So does another model by its file.
    const given = ['--recipe', 'people.json', '--loss', 'cross-entropy', '-o', 'other.onnx'];
    run('train', 'model.onnx', '--data', 'few.csv', ...given);
    expect((await loadRecipe(join(folder, 'other.onnx'))).inputs).toEqual(recipe.inputs);
  });

  it('trains a model that takes raw columns', async () => {
    run('train', 'model.onnx', ...trained, '--bake-preprocessing', '-o', 'raw.onnx');
    const session = await ort.InferenceSession.create(join(folder, 'raw.onnx'));
    expect(session.inputNames).toEqual(['age', 'city']);
    const { species } = await session.run({
      age: new ort.Tensor('float64', [3, Number.NaN], [2, 1]),
      city: new ort.Tensor('string', ['Oslo', ''], [2, 1]),
    });
    for (const name of species!.data) expect(SPECIES).toContain(name);
  });

  it('is refused before training where its preprocessing cannot be baked', () => {
    const { code, err } = agdOnnx(
      folder,
      ...['train', 'model.onnx', '--data', 'people.csv', '--label', 'species', '--loss', 'cross-entropy'],
      ...[
        '--columns',
        'x=city:hash(8),age:fill(0),age:fill(0),age:fill(0)',
        '--bake-preprocessing',
        '-o',
        'no.onnx',
      ],
    );
    expect(code).toBe(1);
    expect(err).toMatch(/Column 'city', which feeds input 'x', cannot be written into the graph/);
  });

  it('and a model make a configuration that runs as it is', async () => {
    writeFileSync(join(folder, 'full.csv'), people(150).replace(/^.*,,.*\n|^,.*\n/gm, ''));
    const out = run('init', 'model.onnx', '--data', 'full.csv');
    expect(out).toBe('wrote agd.config.yaml\ntrain with: agd-onnx train --config agd.config.yaml\n');
    expect(readFileSync(join(folder, 'agd.config.yaml'), 'utf8')).toMatchInlineSnapshot(`
      "# Made by agd-onnx init from the model and the data. Train with: agd-onnx train --config agd.config.yaml
      # Flags take precedence over this file; docs/reference/options.md lists all options.

      model: model.onnx
      data: full.csv
      # The share of the rows that is kept for validation. With a file of its own: validation: FILE
      valSplit: 0.2

      # The column to predict: text, 3 values. Other candidates: city.
      label: species

      # The model gives 3 scores per sample, one for each class.
      loss: cross-entropy

      # What feeds each input of the model, in this order. docs/guide/preprocessing.md explains the transforms.
      columns:
        # float32 [batch,4]
        x:
          - "age:fill(with=mean)+standardize"       # integer, 0 to 59
          - "city:one-hot"                          # text, 3 values

      epochs: 10
      batchSize: 32
      seed: 0
      optimizer:
        name: agd
        # lr: 0.001

      # Early stopping, a schedule, and states to resume from:
      # schedule: cosine
      # state: model.agd.onnx

      "
    `);
    const trained = run('train', '--config', 'agd.config.yaml', '--epochs', '1');
    expect(trained).toContain('wrote model.trained.onnx');
    const again = agdOnnx(folder, 'init', 'model.onnx', '--data', 'full.csv');
    expect(again.err).toContain('agd.config.yaml exists already');
    run('init', 'model.onnx', '--data', 'full.csv', '--force');
  });

  it('of arrays needs no configuration of columns', () => {
    const { code, err } = agdOnnx(folder, 'init', 'model.onnx', '--data', 'train.npz', '-o', 'arrays.yaml');
    expect(code).toBe(1);
    expect(err).toContain('train.npz holds arrays, not columns: they feed the inputs of their names');
  });

  it('gives the same bytes where the run is resumed', () => {
    const args = [...trained, '--val-split', '0.25', '--export', 'last'];
    run('train', 'model.onnx', ...args, '--epochs', '2', '-o', 'whole.onnx');
    for (const epochs of ['1', '2'])
      run(
        'train',
        'model.onnx',
        ...args,
        '--epochs',
        epochs,
        '--state',
        'parts.agd.onnx',
        '-o',
        'parts.onnx',
      );
    expect(readFileSync(join(folder, 'parts.onnx')).equals(readFileSync(join(folder, 'whole.onnx')))).toBe(
      true,
    );
  });

  it('that does not fit is told with what each column gives', () => {
    const { code, err } = agdOnnx(
      folder,
      'train',
      'model.onnx',
      '--data',
      'people.csv',
      '--loss',
      'mse',
      '--label',
      'age',
    );
    expect(code).toBe(1);
    expect(err).toContain("Input 'x' takes [4] per sample, but the columns of people.csv give 7");
  });
});
