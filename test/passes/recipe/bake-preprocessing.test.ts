/** The baked model on raw columns against the model on the arrays that the recipe makes of them. */
import * as ort from 'onnxruntime-node';
import { describe, expect, it } from 'vitest';
import { checkGraph } from '../../../src/graph/check-graph.js';
import type { DType } from '../../../src/graph/dtype.js';
import type { Model } from '../../../src/graph/ir.js';
import { decodeModel, encodeModel, inline } from '../../../src/graph/proto/codec.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { bakePreprocessing } from '../../../src/passes/recipe/bake-preprocessing.js';
import { parseColumns } from '../../../src/passes/recipe/columns.js';
import { readRecipe } from '../../../src/passes/recipe/read-recipe.js';
import {
  classNames,
  type Recipe,
  type Scores,
  type Step,
  withRecipe,
} from '../../../src/passes/recipe/recipe.js';
import { applyRecipe } from '../../../src/runtime/data/recipe/apply-recipe.js';
import { fitRecipe, type RecipeInput } from '../../../src/runtime/data/recipe/fit-recipe.js';
import type { Source } from '../../../src/runtime/data/source.js';
import { sourceOf } from '../../runtime/data/recipe/source.js';
import { Sketch } from '../../sample.js';

const target = (count: number): RecipeInput => ({
  ...{ name: 'target', dtype: 'int64', shape: ['N'], isTarget: true },
  range: { least: 0, most: count - 1 },
});

const KINDS = { height: 'number', city: 'text', code: 'integer', level: 'number', at: 'date' } as const;

const animals = () =>
  sourceOf(
    {
      height: [0.5, 12.25, null, 3, 1e6, 7],
      city: ['Rome', 'Köln', null, 'Rome', 'Oslo', 'Köln'],
      code: [7, -3, 12, 7, 7, -3],
      level: [0.5, 1.5, 0.5, 2.25, 1.5, 0.5],
      old: [true, false, true, true, false, false],
      at: [
        '2024-02-29T23:59:59Z',
        '1969-12-31T01:00:00Z',
        '2000-03-01',
        '1900-12-31',
        '2026-11-28T06:30:00Z',
        '2024-01-01',
      ].map(Date.parse),
      species: ['cat', 'dog', 'cat', 'emu', 'dog', 'emu'],
    },
    { kinds: KINDS, size: 6 },
  );

/** Other records, with values that were not among these. */
const later = () =>
  sourceOf(
    {
      height: [null, 2.5, 40],
      city: ['Paris', 'Oslo', null],
      code: [12, 99, null],
      level: [2.25, 3, null],
      old: [false, true, false],
      at: ['2023-07-04T12:00:00Z', '1999-12-31T23:00:00Z', '2400-02-29'].map(Date.parse),
    },
    { kinds: KINDS, size: 3 },
  );

/** x -> scores of the classes, by weights. */
function linear(width: number, classes: number, dtype: DType = 'float32'): Model {
  const s = new Sketch();
  const x = s.input('x', ['batch', width], dtype);
  return s.model([s.add('MatMul', [x, s.weight('w', [width, classes])], 'scores')]);
}

async function fitted(source: Source, columns: string[], label = 'species', width: number | null = null) {
  const inputs: RecipeInput[] = [{ name: 'x', dtype: 'float32', shape: ['batch', width] }, target(3)];
  return (await fitRecipe(source, { columns: parseColumns(columns), label }, inputs)).recipe;
}

type Results = Record<string, { dims: readonly number[]; data: ArrayLike<unknown> }>;

async function run(model: Model, feeds: Record<string, ort.Tensor>): Promise<Results> {
  const session = await ort.InferenceSession.create(encodeModel(model, inline));
  const known = Object.fromEntries(session.inputNames.map(name => [name, feeds[name]!]));
  return (await session.run(known)) as unknown as Results;
}

/** Raw columns as a caller of the baked model has them. */
async function rawFeeds(source: Source): Promise<Record<string, ort.Tensor>> {
  const { values, rows } = await source.read(0);
  return Object.fromEntries(
    [...values].map(([name, column]) => [
      name,
      Array.isArray(column)
        ? new ort.Tensor(
            'string',
            column.map(x => x ?? ''),
            [rows, 1],
          )
        : new ort.Tensor('float64', column as Float64Array, [rows, 1]),
    ]),
  );
}

async function expectSame(model: Model, recipe: Recipe, scores: Scores = { output: 'scores' }) {
  const baked = bakePreprocessing(withRecipe(model, recipe), recipe, scores);
  expect(() => checkGraph(baked.graph)).not.toThrow();
  expect(await readRecipe(baked)).toBeUndefined();
  const again = decodeModel(encodeModel(baked, inline), '.');
  for (const source of [animals(), later()]) {
    const x = (await applyRecipe(recipe, await source.read(0), { inputs: ['x'] })).get('x')!;
    const plain = await run(model, { x: new ort.Tensor('float32', x.data as Float32Array, x.dims) });
    const raw = await run(again, await rawFeeds(source));
    const wanted = Array.from(plain.scores!.data as Float32Array);
    Array.from(raw.scores!.data as Float32Array).forEach((score, i) => {
      expect(Math.abs(score - wanted[i]!)).toBeLessThanOrEqual(1e-6 * Math.max(1, Math.abs(wanted[i]!)));
    });
    expect(raw.scores!.dims).toEqual(plain.scores!.dims);
    const classes = 3;
    const names = classNames(recipe)!;
    const best = Array.from({ length: x.dims[0]! }, (_, i) => {
      const row = wanted.slice(i * classes, (i + 1) * classes);
      return names[row.indexOf(Math.max(...row))];
    });
    expect(Array.from(raw.species!.data)).toEqual(best);
  }
  return again;
}

describe('a baked model gives what the recipe and the model give', () => {
  it.each<[string, string, number]>([
    ['numbers', 'height:fill(mean)+standardize,code:fill(0)+min-max', 2],
    ['logarithms and indicators', 'height:fill(median,indicator)+log1p+standardize', 2],
    ['one-hot text', 'city:one-hot', 4],
    ['one-hot text with columns for the rest', 'city:one-hot(unknown=column,missing=column)', 5],
    ['filled text', 'city:fill(most-frequent)+one-hot', 3],
    ['one-hot integers', 'code:one-hot(missing=column)', 4],
    ['one-hot fractions', 'level:one-hot(unknown=column)', 4],
    ['yes and no', 'old', 1],
    ['ids', 'city:id(start=1),code:id,level:id(unknown=0,missing=5)', 3],
    ['dates', 'at:date(year,month,day,weekday,hour,epoch-days)', 6],
    ['cycles', 'at:date(month,day,weekday,hour,cyclic)', 8],
    ['a part of a date as category', 'at:date(month)+one-hot', 5],
    ['dates with an indicator', 'at:fill(0,indicator)+date(month,day)', 3],
    ['a column twice', 'height:fill(0),height:fill(mean,indicator)', 3],
  ])('for %s', async (_, columns, width) => {
    const recipe = await fitted(animals(), [`x=${columns}`], 'species', width);
    await expectSame(linear(width, 3), recipe);
  });
  it('for all of them, in an older operator set', async () => {
    const columns = 'height:fill(mean)+standardize,city:one-hot,code:one-hot,old,at:date(hour,cyclic)';
    const model = linear(11, 3);
    model.opsetImports.set('', 11);
    const baked = await expectSame(model, await fitted(animals(), [`x=${columns}`], 'species', 11));
    expect(baked.graph.inputs.map(v => [v.name, v.dtype, v.shape])).toEqual([
      ['height', 'float64', ['batch', 1]],
      ['city', 'string', ['batch', 1]],
      ['code', 'float64', ['batch', 1]],
      ['old', 'float64', ['batch', 1]],
      ['at', 'float64', ['batch', 1]],
    ]);
    expect(baked.graph.outputs.map(v => v.name)).toEqual(['scores', 'species']);
  });
  it('for one score that says yes or no', async () => {
    const shares: RecipeInput = {
      ...target(2),
      dtype: 'float32',
      shape: ['N', 1],
      range: { least: 0, most: 1 },
    };
    const source = sourceOf({ x0: [1, 2, 4], answer: ['no', 'yes', 'yes'] }, { size: 3 });
    const { recipe: binary } = await fitRecipe(
      source,
      { columns: parseColumns(['x=x0:none']), label: 'answer' },
      [{ name: 'x', dtype: 'float32', shape: ['batch', 1] }, shares],
    );
    const s = new Sketch();
    const one = Tensor.from('float32', [1, 1], Float32Array.of(1));
    const two = Tensor.from('float32', [1], Float32Array.of(-2));
    const model = s.model([
      s.add('Gemm', [s.input('x', ['batch', 1]), s.weight('w', one), s.weight('b', two)], 'scores'),
    ]);
    const baked = bakePreprocessing(model, binary, { output: 'scores', threshold: 0 });
    const { answer } = await run(baked, await rawFeeds(source));
    // -1, 0 and 2: a score of 0 says no, as everywhere.
    expect(Array.from(answer!.data)).toEqual(['no', 'no', 'yes']);
  });
  it('without class names where a sample has several labels', async () => {
    const source = sourceOf({ x: [1, 2], species: ['a', 'b'] }, { size: 2 });
    const recipe = await fitted(source, ['x=x:standardize'], 'species', 1);
    const labels = recipe.inputs.find(({ input }) => input === recipe.target)!;
    for (const table of ['multi-hot', 'one-hot'] as const) {
      const rest = { unknown: 'zeros', missing: 'zeros' } as const;
      labels.columns[0]!.steps = [
        { step: table, table: ['a', 'b', 'c'], ...(table === 'one-hot' ? rest : {}) } as Step,
      ];
      const baked = bakePreprocessing(linear(1, 3), recipe, { output: 'scores', threshold: 0 });
      expect(baked.graph.outputs.map(v => v.name)).toEqual(['scores']);
    }
  });
  it('where a column is named as a value of the model', async () => {
    const source = sourceOf({ x: [1, 2], w: [3, 5], species: ['a', 'b'] }, { size: 2 });
    const recipe = await fitted(source, ['x=x:standardize,w:min-max'], 'species', 2);
    const baked = bakePreprocessing(linear(2, 3), recipe, { output: 'scores' });
    expect(baked.graph.inputs.map(v => v.name)).toEqual(['x', 'w']);
    const { scores } = await run(baked, await rawFeeds(source));
    expect(scores!.dims).toEqual([2, 3]);
  });
  it('and an input that is fed as it is stays', async () => {
    const source = sourceOf({ x: [1, 2], species: ['a', 'b'] }, { size: 2 });
    const recipe = await fitted(source, [], 'species', 1);
    const baked = bakePreprocessing(linear(1, 3), recipe, { output: 'scores' });
    expect(baked.graph.inputs.map(v => [v.name, v.dtype, v.shape])).toEqual([['x', 'float32', ['batch', 1]]]);
  });
});

describe('what ONNX has no operators for is refused by name', () => {
  it.each<[string, string, RegExp]>([
    [
      'hash',
      'city:hash(8)',
      /^Column 'city', which feeds input 'x', cannot be written into the graph: ONNX has no operators for hashing of text\. Export without --bake-preprocessing/,
    ],
    ['bytes', 'city:bytes(length=8)', /splitting text into bytes/],
    ['an error', 'city:one-hot(unknown=error)', /a graph cannot refuse a value, as one-hot with =error does/],
    ['an error of ids', 'code:id(missing=error)', /a graph cannot refuse a value, as id with =error does/],
  ])('%s', async (_, columns, message) => {
    const recipe = await fitted(animals(), [`x=${columns}`]);
    expect(() => bakePreprocessing(linear(8, 3), recipe)).toThrow(message);
  });
  it('a column named as an output', async () => {
    const source = sourceOf({ scores: [1, 2], species: ['a', 'b'] }, { size: 2 });
    const recipe = await fitted(source, ['x=scores:standardize'], 'species', 1);
    expect(() => bakePreprocessing(linear(1, 3), recipe)).toThrow(
      "Column 'scores' cannot become an input of the model: one of its outputs has that name. Rename the column.",
    );
  });
});
