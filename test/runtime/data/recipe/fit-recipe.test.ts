import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { Shape } from '../../../../src/graph/ir.js';
import { type ColumnsOption, parseColumns } from '../../../../src/passes/recipe/columns.js';
import { parseRecipe } from '../../../../src/passes/recipe/read-recipe.js';
import { classNames, targetColumn } from '../../../../src/passes/recipe/recipe.js';
import { applyRecipe, targetNumbers } from '../../../../src/runtime/data/recipe/apply-recipe.js';
import { fitRecipe, type RecipeInput } from '../../../../src/runtime/data/recipe/fit-recipe.js';
import type { Source } from '../../../../src/runtime/data/source.js';
import { sourceOf } from './source.js';

const floats = (name: string, ...shape: Shape): RecipeInput => ({
  name,
  dtype: 'float32',
  shape: ['N', ...shape],
});
const ids = (name: string, ...shape: Shape): RecipeInput => ({
  name,
  dtype: 'int64',
  shape: ['N', ...shape],
});
const classes = (count = Number.POSITIVE_INFINITY): RecipeInput => ({
  ...ids('target'),
  isTarget: true,
  range: { least: 0, most: count - 1, ignored: -100 },
});
const values = (...shape: Shape): RecipeInput => ({ ...floats('target', ...shape), isTarget: true });
const shares: RecipeInput = { ...values(1), range: { least: 0, most: 1 } };

const people = () =>
  sourceOf({
    age: [20, 30, null, 40],
    sex: ['m', 'f', 'f', 'm'],
    member: [true, false, true, true],
    outcome: ['lost', 'won', 'won', 'drawn'],
  });

const recipeOf = (
  source: Source,
  inputs: RecipeInput[],
  columns: string[] | ColumnsOption = [],
  label?: string,
) => fitRecipe(source, { columns: Array.isArray(columns) ? parseColumns(columns) : columns, label }, inputs);

async function arrays(
  source: Source,
  inputs: RecipeInput[],
  columns: string[] | ColumnsOption = [],
  label?: string,
) {
  const { recipe, notes } = await recipeOf(source, inputs, columns, label);
  const blocks = await Promise.all(source.blocks.map((_, i) => source.read(i)));
  const applied = await Promise.all(blocks.map(block => applyRecipe(recipe, block, { source: source.name })));
  const of = (name: string) => applied.flatMap(a => a.get(name)!.numbers());
  return { recipe, notes, of, dims: applied[0]!.get(inputs[0]!.name)!.dims };
}

it('takes tables from all rows and statistics from those chosen', async () => {
  const fitted = async (rows: Uint32Array) => {
    const source = sourceOf({ age: [20, 30, 40, 90], sex: ['m', 'f', null, 'd'] });
    const columns = parseColumns(['x=age:standardize,sex:one-hot']);
    const { recipe } = await fitRecipe(source, { columns }, [floats('x', 5)], { rows });
    return recipe.inputs[0]!.columns.map(({ steps }) => steps.at(-1)!);
  };
  const table = { step: 'one-hot', table: ['d', 'f', 'm'], missing: 'column' };
  const of = (mean: number) => [{ step: 'standardize', mean }, table];
  expect(await fitted(Uint32Array.of(0, 1, 2))).toMatchObject(of(30));
  expect(await fitted(Uint32Array.of(1, 3))).toMatchObject(of(60));
});

describe('what nobody says', () => {
  it('feeds the only float input from all columns but the label', async () => {
    const { of, notes, recipe } = await arrays(people(), [floats('x', 4), classes(3)], [], 'outcome');
    // Mean 30, standard deviation of 20, 30, 30, 40.
    const s = 10 / Math.sqrt(50);
    expect(of('x')).toEqual([-s, 0, 1, 1, 0, 1, 0, 0, 0, 1, 0, 1, s, 0, 1, 1].map(Math.fround));
    expect(of('target')).toEqual([1, 2, 2, 0]);
    expect(classNames(recipe)).toEqual(['drawn', 'lost', 'won']);
    expect(notes).toEqual([
      "Columns: input 'x' from 3 columns age, sex, member. Explicitly: --columns 'x=age:fill(with=mean)+standardize,sex:one-hot,member:fill(with=most-frequent)' --label outcome",
    ]);
  });
  it('is the same when it is said', async () => {
    const said = 'x=age:fill(with=mean)+standardize,sex:one-hot,member:fill(with=most-frequent)';
    const inputs = [floats('x', 4), classes(3)];
    const { recipe, notes } = await recipeOf(people(), inputs, [said], 'outcome');
    expect(recipe).toEqual((await recipeOf(people(), inputs, [], 'outcome')).recipe);
    expect(notes).toEqual([]);
  });
  it('feeds inputs from columns of their names, as they are', async () => {
    const source = sourceOf({ user: [3, 5], item: [7, 8], w: [0.5, 2], target: [1, 4] });
    const { of, notes } = await arrays(source, [ids('item'), ids('user'), floats('w', 1), values(1)]);
    expect([of('user'), of('item'), of('w'), of('target')]).toEqual([
      [3, 5],
      [7, 8],
      [0.5, 2],
      [1, 4],
    ]);
    expect(notes).toEqual([]);
  });
  it('leaves the label out before the target is known', async () => {
    const { recipe } = await recipeOf(people(), [floats('x', 4)], [], 'outcome');
    expect(recipe.inputs[0]!.columns.map(c => c.column)).toEqual(['age', 'sex', 'member']);
    const said = await recipeOf(people(), [floats('x', 4)], ['target=outcome']);
    expect(said.recipe.inputs[0]!.columns).toEqual(recipe.inputs[0]!.columns);
  });
  it('reads the data once, and takes again what was fitted', async () => {
    const source = people();
    const first = await fitRecipe(source, { label: 'outcome' }, [floats('x', 4)]);
    expect(source.reads).toBe(2);
    const inputs = [floats('x', 4), classes(3)];
    const second = await fitRecipe(source, { label: 'outcome' }, inputs, { fitted: first.recipe });
    expect(second.recipe.inputs[0]).toBe(first.recipe.inputs[0]);
    expect(second.recipe.inputs[1]!.columns[0]!.steps).toEqual([
      { step: 'class', names: ['drawn', 'lost', 'won'] },
    ]);
  });
});

describe('a target', () => {
  const target = (labels: (string | number | boolean)[], input: RecipeInput) =>
    arrays(sourceOf({ x: labels.map(() => 0), label: labels }), [floats('x', 1), input]);
  it.each<[string, (string | number | boolean)[], RecipeInput, number[], string[] | undefined]>([
    ['classes from 0 stay', [0, 2, 2], classes(4), [0, 2, 2], undefined],
    ['classes from 1 are numbered', [1, 3, 2], classes(3), [0, 2, 1], ['1', '2', '3']],
    ['text is numbered in order', ['b', 'a', 'c'], classes(3), [1, 0, 2], ['a', 'b', 'c']],
    ['two texts are 0 and 1 as shares', ['yes', 'no', 'yes'], shares, [1, 0, 1], ['no', 'yes']],
    ['1 and 2 are 0 and 1 as shares', [1, 2, 1], shares, [0, 1, 0], ['1', '2']],
    ['numbers stay', [1.5, 2, -1], values(1), [1.5, 2, -1], undefined],
    ['what is left out stays', [-100, 2, 1], classes(3), [-100, 2, 1], undefined],
  ])('%s', async (_, labels, input, expected, names) => {
    const { of, recipe } = await target(labels, input);
    expect(of('target')).toEqual(expected);
    expect(classNames(recipe)).toEqual(names);
  });
  it.each<[string, (string | number)[], RecipeInput, RegExp]>([
    [
      'more classes than the output has',
      ['a', 'b', 'c'],
      classes(2),
      /has 3 classes \(a, b, c\), but the output has 2: choose another --label, or give the model as many outputs: agd-onnx adapt MODEL --classes 3\./,
    ],
    ['text as numbers', ['a', 'b', 'c'], values(1), /takes numbers as targets; --loss cross-entropy/],
    [
      'fractions as classes',
      [0.5, 1, 2],
      classes(3),
      /holds numbers such as 0\.5, but the loss takes classes; --loss mse/,
    ],
  ])('refuses %s', async (_, labels, input, message) => {
    await expect(target(labels, input)).rejects.toThrow(message);
  });
  it('of lists has several labels', async () => {
    const { of, recipe } = await arrays(
      sourceOf({ x: [0, 0], tags: [['red', 'big'], ['red']] }),
      [floats('x', 1), values(2)],
      ['target=tags'],
    );
    expect(of('target')).toEqual([1, 1, 0, 1]);
    expect(classNames(recipe)).toEqual(['big', 'red']);
  });
  it('has the classes that the user names, in their order', async () => {
    const given = await arrays(
      people(),
      [floats('x', 1), classes(2)],
      ['x=age:fill(0)', 'target=outcome:class(won,other=rest)'],
    );
    expect(given.of('target')).toEqual([1, 0, 0, 1]);
    expect(given.notes.join()).not.toContain('--label');
    expect(classNames(given.recipe)).toEqual(['won', 'rest']);
    expect(await parseRecipe(JSON.stringify(given.recipe), 'it')).toEqual(given.recipe);
    const share = await arrays(
      people(),
      [floats('x', 1), shares],
      ['x=age:fill(0)', 'target=outcome:class(lost,other=no)'],
    );
    expect(share.of('target')).toEqual([0, 1, 1, 1]);
    const one = recipeOf(
      people(),
      [floats('x', 1), classes(2)],
      ['x=age:fill(0)', 'target=outcome:class(won)'],
    );
    await expect(one).rejects.toThrow(
      'class(won) gives 1 class, but the output has 2; other=NAME is the class of all other',
    );
    const twice = recipeOf(
      people(),
      [floats('x', 1), classes(2)],
      ['x=age:fill(0)', 'target=outcome:class(won,won)'],
    );
    await expect(twice).rejects.toThrow("class(won,won) names 'won' twice");
  });
  it('of scaled numbers is given back as the data have it', async () => {
    const { of, recipe } = await arrays(
      sourceOf({ x: [0, 0, 0], price: [1, 10, 100] }),
      [floats('x', 1), { ...values(1), dtype: 'float64' }],
      ['target=price:log1p+standardize'],
    );
    const back = targetNumbers(targetColumn(recipe))!;
    expect(of('target').map(x => Math.round(back(x) * 1e9) / 1e9)).toEqual([1, 10, 100]);
  });
});

describe('text', () => {
  it('is cut into windows, with the next characters as targets', async () => {
    const { of } = await arrays(
      sourceOf({ text: ['abcab', 'cb'] }),
      [ids('x', 3), { ...ids('target', 3), isTarget: true }],
      ['x=text:characters+windows(3,stride=2)'],
    );
    // Characters \n a b c: abcab\ncb
    expect(of('x')).toEqual([1, 2, 3, 3, 1, 2, 2, 0, 3]);
    expect(of('target')).toEqual([2, 3, 1, 1, 2, 0, 0, 3, 2]);
  });
  it('is padded to the length of the input', async () => {
    const { of } = await arrays(sourceOf({ text: ['ab', 'é€x', ''] }), [ids('x', 4)], ['x=text:bytes']);
    expect(of('x')).toEqual([97, 98, 0, 0, 0xc3, 0xa9, 0xe2, 0x82, 0, 0, 0, 0]);
  });
  it('goes through tokenizers of the same file name in different folders', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'agd-onnx-test-'));
    const files = ['a', 'b'].map((name, i) => {
      mkdirSync(join(folder, name));
      const file = join(folder, name, 'tokenizer.json');
      writeFileSync(file, JSON.stringify({ ...TOKENIZER, extra: i }));
      return file;
    });
    const { recipe } = await recipeOf(
      sourceOf({ text: ['a cat'], other: ['a cat'], third: ['a cat'] }),
      [ids('p', 5), ids('q', 5), ids('r', 5)],
      [
        `p=text:tokenizer("${files[0]}",length=5)`,
        `q=other:tokenizer("${files[1]}",length=5)`,
        `r=third:tokenizer("${files[0]}",length=5)`,
      ],
    );
    expect(Object.entries(recipe.tokenizers!)).toMatchObject([
      ['tokenizer.json', { extra: 0 }],
      ['tokenizer-2.json', { extra: 1 }],
    ]);
    const names = recipe.inputs.map(
      ({ columns }) => (columns[0]!.steps[0] as { tokenizer: string }).tokenizer,
    );
    expect(names).toEqual(['tokenizer.json', 'tokenizer-2.json', 'tokenizer.json']);
  });

  it('goes through a tokenizer, with its mask', async () => {
    const file = join(mkdtempSync(join(tmpdir(), 'agd-onnx-test-')), 'tokenizer.json');
    writeFileSync(file, JSON.stringify(TOKENIZER));
    const { of, recipe } = await arrays(
      sourceOf({ text: ['the cat sat', 'the dog', 'the cat sat on the mat'] }),
      [ids('input_ids', 5), ids('mask', 5)],
      [`input_ids=text:tokenizer("${file}",length=5,mask=mask)`],
    );
    // [CLS] the cat sat [SEP]
    expect(of('input_ids')).toEqual([2, 4, 5, 6, 3, 2, 4, 1, 3, 0, 2, 4, 5, 6, 3]);
    expect(of('mask')).toEqual([1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1]);
    const unnamed = await arrays(
      sourceOf({ text: ['the cat', 'the'] }),
      [ids('input_ids', 4), ids('attention_mask', 4)],
      [`input_ids=text:tokenizer("${file}")`],
    );
    expect(unnamed.of('attention_mask')).toEqual([1, 1, 1, 1, 1, 1, 1, 0]);
    expect(unnamed.notes).toEqual([
      `Columns: input 'attention_mask' from column text. Explicitly: --columns 'input_ids=text:tokenizer(file=${file},mask=attention_mask)'`,
    ]);
    const documents = await arrays(
      sourceOf({ text: ['the cat sat', 'the dog'] }),
      [ids('input_ids', 3), ids('mask', 3), { ...classes(9), shape: ['N', 3] }],
      [`input_ids=text:tokenizer("${file}",mask=mask)+documents(3)`],
    );
    expect(documents.of('input_ids')).toEqual([2, 4, 5, 6, 0, 0, 2, 4, 1]);
    expect(documents.of('mask')).toEqual([1, 1, 1, 1, 0, 0, 1, 1, 1]);
    // It needs no file any more.
    const kept = await parseRecipe(JSON.stringify(recipe), 'it');
    const block = await sourceOf({ text: ['sat cat'] }).read(0);
    expect((await applyRecipe(kept, block)).get('input_ids')!.numbers()).toEqual([2, 6, 5, 3, 0]);
  });
});

describe('rows of numbers', () => {
  const series = () => sourceOf({ a: [0, 1, 2, 3, 4, 5], b: [10, 11, 12, 13, 14, 15] }, { size: 6 });
  it('are cut into windows, with a value after each as its target', async () => {
    const { of, recipe } = await arrays(
      series(),
      [floats('x', 3, 2), values(1)],
      ['x=a:none+windows(3),b:none+windows(3)'],
      'b',
    );
    expect(of('x')).toEqual([0, 10, 1, 11, 2, 12, 1, 11, 2, 12, 3, 13, 2, 12, 3, 13, 4, 14]);
    expect(of('target')).toEqual([13, 14, 15]);
    // Without targets, the last window is there too: its next value is the one to predict.
    const kept = await parseRecipe(JSON.stringify(recipe), 'it');
    const alone = await applyRecipe(kept, await series().read(0), { inputs: ['x'] });
    expect(alone.get('x')!.dims).toEqual([4, 3, 2]);
  });
  it('may begin with the numbers of a row, where the input does', async () => {
    const { of } = await arrays(
      series(),
      [floats('x', 2, 4), values(1)],
      ['x=a:none+windows(4),b:none+windows(4)'],
      'a',
    );
    expect(of('x')).toEqual([0, 1, 2, 3, 10, 11, 12, 13, 1, 2, 3, 4, 11, 12, 13, 14]);
    expect(of('target')).toEqual([4, 5]);
  });
  it('have as many targets as the model gives, from ahead= rows on', async () => {
    const of = async (columns: string, target: RecipeInput) =>
      (await arrays(series(), [floats('x', 2), target], [columns])).of('target');
    expect(await of('x=a:none+windows(2)', values(3))).toEqual([2, 3, 4, 3, 4, 5]);
    expect(await of('x=a:none+windows(2,stride=2,ahead=2)', values(1))).toEqual([3, 5]);
    expect(await of('x=a:none+windows(2,ahead=0)', values(1))).toEqual([1, 2, 3, 4, 5]);
  });
  it('are prepared as usual where nothing is said', async () => {
    const { recipe } = await arrays(series(), [floats('x', 2), values(1)], ['x=a:windows(2)']);
    expect(recipe.inputs[0]!.columns[0]!.steps.map(({ step }) => step)).toEqual(['fill', 'standardize']);
  });
  it('say what does not fit', async () => {
    const fails = (...columns: string[]) =>
      expect(recipeOf(series(), [floats('x', 3, 2), values(1)], columns)).rejects;
    await fails('x=a:none+windows(3),b:none+windows(2)').toThrow(
      "all columns of an input have the same windows, and those of 'b' differ",
    );
    await fails('x=a:none+windows(3),b:none').toThrow("those of 'b' differ");
    const both = recipeOf(series(), [floats('x', 3), floats('z', 1), values(1)], ['x=a:windows(3)', 'z=b']);
    await expect(both).rejects.toThrow(
      "Input 'x' takes windows of data.csv, but 'z' takes column 'b' row by row: give windows to both.",
    );
    await fails('x=a:none+windows(3)').toThrow(
      "Input 'x' takes [3,2] per sample, but the columns of data.csv give 3: windows of 3 rows with a 1.",
    );
  });
});

/** Words, lower case, between [CLS] and [SEP]; the values are those that the tokenizers library of Python gives. */
const TOKENIZER = {
  version: '1.0',
  truncation: null,
  padding: null,
  added_tokens: ['[PAD]', '[UNK]', '[CLS]', '[SEP]'].map((content, id) => ({
    ...{ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true },
  })),
  normalizer: { type: 'Lowercase' },
  pre_tokenizer: { type: 'Whitespace' },
  post_processor: {
    type: 'TemplateProcessing',
    single: [
      { SpecialToken: { id: '[CLS]', type_id: 0 } },
      { Sequence: { id: 'A', type_id: 0 } },
      { SpecialToken: { id: '[SEP]', type_id: 0 } },
    ],
    pair: [{ Sequence: { id: 'A', type_id: 0 } }, { Sequence: { id: 'B', type_id: 1 } }],
    special_tokens: {
      '[CLS]': { id: '[CLS]', ids: [2], tokens: ['[CLS]'] },
      '[SEP]': { id: '[SEP]', ids: [3], tokens: ['[SEP]'] },
    },
  },
  decoder: null,
  model: {
    type: 'WordPiece',
    continuing_subword_prefix: '##',
    max_input_chars_per_word: 100,
    vocab: { '[PAD]': 0, '[UNK]': 1, '[CLS]': 2, '[SEP]': 3, the: 4, cat: 5, sat: 6, on: 7, mat: 8 },
    unk_token: '[UNK]',
  },
};

describe('columns of other kinds', () => {
  it('dates give their parts', async () => {
    const at = ['2024-02-29T23:30:00Z', '1969-12-31T00:00:00Z', '2026-11-28T06:00:00Z'].map(Date.parse);
    const parts = 'd:date(year,month,day,weekday,hour,epoch-days)';
    const { of } = await arrays(
      sourceOf({ d: at }, { kinds: { d: 'date' } }),
      [floats('x', 6)],
      [`x=${parts}`],
    );
    expect(of('x')).toEqual(
      [2024, 2, 29, 3, 23, 19782.979166666668, 1969, 12, 31, 2, 0, -1, 2026, 11, 28, 5, 6, 20785.25].map(
        Math.fround,
      ),
    );
    const cyclic = await arrays(
      sourceOf({ d: at }, { kinds: { d: 'date' } }),
      [floats('x', 2)],
      ['x=d:date(hour,cyclic)'],
    );
    expect(cyclic.of('x')[5]).toBeCloseTo(0, 12);
    expect(cyclic.of('x')[4]).toBe(1);
  });
  it('lists are padded', async () => {
    const source = sourceOf({ seen: [[5, 6, 7], [8], null] });
    const { of } = await arrays(source, [ids('x', 2)], ['x=seen:list(2)']);
    expect(of('x')).toEqual([5, 6, 8, 0, 0, 0]);
    const words = await arrays(sourceOf({ seen: [['a', 'b'], []] }), [ids('x', 2)], ['x=seen:list(2)']);
    expect(words.of('x')).toEqual([0, 1, 3, 3]);
  });
  it('ids tell unknown and missing values apart', async () => {
    const { recipe } = await recipeOf(sourceOf({ c: ['b', 'a'] }), [ids('x')], ['x=c:id(start=1)']);
    const block = await sourceOf({ c: ['a', 'z', null] }, { kinds: { c: 'text' } }).read(0);
    expect((await applyRecipe(recipe, block)).get('x')!.numbers()).toEqual([1, 3, 4]);
  });
  it('all but some, with an exclamation mark', async () => {
    const source = sourceOf({ 'a b': [1, 2], c: [3, 4], d: [5, 6], y: [7, 8] });
    const of = async (text: string) =>
      (await arrays(source, [floats('x', 2), values(1)], [text], 'y')).recipe.inputs[0]!.columns.map(
        c => c.column,
      );
    expect(await of('x=!c')).toEqual(['a b', 'd']);
    expect(await of('x=*,!"a b"')).toEqual(['c', 'd']);
    expect(await of('x=d:none,*,!c')).toEqual(['d', 'a b']);
    await expect(of('x=!e')).rejects.toThrow(
      "--columns x=!e: data.csv has no such column; did you mean 'c'?",
    );
  });
  it('patterns name several', async () => {
    const source = sourceOf({ p1: [1, 2], p2: [3, 4], label: ['a', 'b'] });
    const { of } = await arrays(source, [floats('x', 2), classes(2)], ['x=p*:none']);
    expect(of('x')).toEqual([1, 3, 2, 4]);
  });
});

describe('errors say what to write', () => {
  it('of infinite numbers, which have no mean and no range', async () => {
    const source = () => sourceOf({ x: [1, 2, Infinity, 4] });
    for (const how of ['fill(mean)', 'fill(median)+standardize', 'fill(0)+min-max', 'standardize', 'min-max'])
      await expect(recipeOf(source(), [floats('x', 1)], [`x=x:${how}`])).rejects.toThrow(
        /column 'x', row 3: the value is infinite, of which no mean or range can be taken; correct it, or leave it empty\.$/,
      );
    const { of } = await arrays(source(), [floats('x', 1)], ['x=x:none']);
    expect(of('x')).toEqual([1, 2, Infinity, 4]);
  });
  it('of lists of fractions, which are no categories', async () => {
    const source = () =>
      sourceOf({
        x: [
          [1, 2],
          [0.5, 2],
        ],
      });
    await expect(recipeOf(source(), [floats('x', 2)])).rejects.toThrow(
      /column 'x', row 2: 0\.5 is no category; list\(2\) takes the numbers as they are\.$/,
    );
    const { of } = await arrays(source(), [floats('x', 2)], ['x=x:list(2)']);
    expect(of('x')).toEqual([1, 2, 0.5, 2]);
  });
  it('of lists of categories, and of a column that a few values make text', async () => {
    const lists = sourceOf({
      x: [
        [1, 2],
        [3, 2],
      ],
    });
    await expect(recipeOf(lists, [floats('x', 2)])).rejects.toThrow(/give 3: x 3 \(multi-hot\)\. /);
    const mixed = sourceOf({ x: ['1.5', '2', '3', '4', 'unknown', '5'] });
    await expect(recipeOf(mixed, [floats('x', 2)])).rejects.toThrow(
      /give 6: x 6 \(one-hot, as 'unknown' is no number\)\. /,
    );
  });
  it.each<[string, RecipeInput[], string[], string | undefined, RegExp]>([
    [
      'widths',
      [floats('x', 7)],
      [],
      'outcome',
      /^Input 'x' takes \[7\] per sample, but the columns of data\.csv give 4: age 1, sex 2 \(one-hot\), member 1\. Choose columns and transforms with --columns 'x=COLUMN:TRANSFORM,…'\.$/,
    ],
    [
      'no label',
      [floats('x', 4), classes(3)],
      [],
      undefined,
      /no column 'target' for the target; name the one with the labels: --label COLUMN\. It has age \(integer\), sex \(text\)/,
    ],
    [
      'an unknown label',
      [floats('x', 4), classes(3)],
      [],
      'Outcome',
      /^--label Outcome: data\.csv has no such column; did you mean 'outcome'\?$/,
    ],
    [
      'an unknown column',
      [floats('x', 4)],
      ['x=age,height'],
      undefined,
      /^--columns x=height: data\.csv has no such column; it has age, sex, member, outcome\.$/,
    ],
    [
      'an unknown input',
      [floats('x', 4), classes(3)],
      ['y=age'],
      'outcome',
      /^--columns y=…: no input 'y'; the data feeds 'x', 'target'\.$/,
    ],
    [
      'two inputs',
      [floats('x', 1), floats('z', 1)],
      [],
      'outcome',
      /^No column of data\.csv is named as the inputs 'x' \(float32 \[N,1\]\) and 'z' .*: --columns 'x=COLUMN,…' --columns 'z=COLUMN,…'/,
    ],
    [
      'a transform',
      [floats('x', 1)],
      ['x=age:standardise'],
      undefined,
      /^Unknown transform 'standardise'; did you mean 'standardize'\?$/,
    ],
    [
      'an option',
      [floats('x', 1)],
      ['x=sex:one-hot(unknwon=error)'],
      undefined,
      /^Unknown option of one-hot 'unknwon'; did you mean 'unknown'\?$/,
    ],
    [
      'numbers from text',
      [floats('x', 1)],
      ['x=sex:standardize'],
      undefined,
      /^data\.csv, column 'sex', row 1: 'm' is not a number\.$/,
    ],
    [
      'two last steps',
      [floats('x', 2)],
      ['x=sex:one-hot+standardize'],
      undefined,
      /^--columns x=sex: nothing can follow one-hot\.$/,
    ],
  ])('%s', async (_, inputs, columns, label, message) => {
    await expect(recipeOf(people(), inputs, columns, label)).rejects.toThrow(message);
  });
  it.each<[string, string, (number | string | null)[], RegExp]>([
    [
      'a missing value',
      'c:standardize',
      [1, null, 3],
      /^data\.csv, column 'c', row 2: the value is missing; fill says what to put in its place, as fill\(median\), and --skip-missing c leaves such rows out\.$/,
    ],
    ['a logarithm', 'c:log1p', [1, 2, -3], /row 3: log1p takes numbers above -1, not -3/],
    [
      'an unknown value',
      'c:one-hot(unknown=error)',
      [1, 2, 9],
      /row 3: '9' is not among the values of the training data/,
    ],
  ])('%s', async (_, columns, values, message) => {
    const { recipe } = await recipeOf(sourceOf({ c: [1, 2] }), [{ ...floats('x', null) }], [`x=${columns}`]);
    const block = await sourceOf({ c: values }, { kinds: { c: 'number' } }).read(0);
    await expect(applyRecipe(recipe, block, { source: 'data.csv' })).rejects.toThrow(message);
  });
});

describe('a recipe that is read', () => {
  const good = {
    version: 1,
    inputs: [
      {
        input: 'x',
        dtype: 'float32',
        dims: [1],
        columns: [{ column: 'c', kind: 'number', width: 1, steps: [{ step: 'none' }] }],
      },
    ],
  };
  it('may be one', async () => {
    expect(await parseRecipe(JSON.stringify(good), 'it')).toEqual(good);
  });
  const changed = (change: (recipe: typeof good) => unknown) => JSON.stringify(change(structuredClone(good)));
  it.each<[string, string, RegExp]>([
    ['not JSON', '{', /^r\.json is not JSON: it is damaged\.$/],
    ['nothing', 'null', /^r\.json is not a valid recipe: /],
    [
      'of another version',
      changed(r => ({ ...r, version: 2 })),
      /is a recipe of version 2; this release reads version 1\.$/,
    ],
    [
      'with a foreign step',
      changed(r =>
        Object.assign(r, {
          inputs: [{ ...r.inputs[0], columns: [{ ...r.inputs[0]!.columns[0], steps: [{ step: 'eval' }] }] }],
        }),
      ),
      /at 'inputs\[0\]\.columns\[0\]\.steps\[0\]\.step'/,
    ],
    [
      'with widths of another sum',
      changed(r => Object.assign(r, { inputs: [{ ...r.inputs[0], dims: [2 ** 30] }] })),
      /the widths of the columns do not add up/,
    ],
    [
      'with a width that its steps do not have',
      changed(r => {
        Object.assign(r.inputs[0]!.columns[0]!, { width: 2 ** 30 });
        return Object.assign(r, { inputs: [{ ...r.inputs[0], dims: [2 ** 30] }] });
      }),
      /at 'inputs\[0\]\.columns\[0\]': the width is not that of the steps/,
    ],
    [
      'with a foreign target',
      changed(r => ({ ...r, target: '__proto__' })),
      /its target is not among the inputs/,
    ],
  ])('is refused where it is %s', async (_, text, message) => {
    await expect(parseRecipe(text, 'r.json')).rejects.toThrow(message);
  });
});
