import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { Tensor } from '../../../src/graph/tensor.js';
import { checkRecipe } from '../../../src/passes/recipe/check-recipe.js';
import type { DataOptions } from '../../../src/runtime/data/data.js';
import { writeNpz } from '../../../src/runtime/data/npz.js';
import { openData } from '../../../src/runtime/data/open.js';
import { fileOrder } from '../../../src/runtime/data/order.js';
import type { RecipeInput } from '../../../src/runtime/data/recipe/plan.js';
import { evaluate } from '../../../src/runtime/evaluate/evaluate-model.js';
import { Sketch } from '../../sample.js';

/** Data sets as Hugging Face's libraries write them: labels are not shifted, and -100 where nothing is learned. */
const ROWS = [
  { input_ids: [1, 5, 6, 7, 2], attention_mask: [1, 1, 1, 1, 1], labels: [-100, -100, 6, 7, 2] },
  { input_ids: [1, 8, 2], attention_mask: [1, 1, 1], labels: [-100, -100, 2] },
];

/** The same as a collator pads them. */
const PADDED = [
  ROWS[0]!,
  { input_ids: [1, 8, 2, 0, 0], attention_mask: [1, 1, 1, 0, 0], labels: [-100, -100, 2, -100, -100] },
];

function open(rows: readonly object[], options: DataOptions = {}) {
  const path = join(mkdtempSync(join(tmpdir(), 'agd-onnx-test-')), 'chats.jsonl');
  writeFileSync(path, rows.map(row => JSON.stringify(row)).join('\n'));
  return openData(path, options);
}

const of = (...names: string[]): RecipeInput[] => [
  ...names.map(name => ({ name, dtype: 'int64' as const, shape: ['N', 'T'] })),
  { name: 'target', dtype: 'int64' as const, shape: ['N', 'T'], range: { least: 0, most: 9, ignored: -100 } },
];
const LABELS = { labels: ['target'] };

async function numbers(rows: readonly object[], options: DataOptions, inputs: ReturnType<typeof of>) {
  const data = await open(rows, options);
  const bound = await data.bind(inputs, LABELS);
  expect(checkRecipe(data.recipe)).toBeUndefined();
  const { inputs: batch } = await bound.take(fileOrder(0, bound.length));
  await data.close();
  return Object.fromEntries(Object.entries(batch).map(([name, tensor]) => [name, tensor.numbers()]));
}

const DOCUMENTS = { columns: { input_ids: ['input_ids:documents(4)'] } };

it('lists of token ids are documents, whose labels, as Hugging Face has them, are those of the next token', async () => {
  const inputs = of('input_ids', 'attention_mask');
  const expected = {
    input_ids: [1, 5, 6, 7, 1, 8, 0, 0],
    attention_mask: [1, 1, 1, 1, 1, 1, 0, 0],
    target: [-100, 6, 7, 2, -100, 2, -100, -100],
  };
  expect(await numbers(ROWS, DOCUMENTS, inputs)).toEqual(expected);
  expect(await numbers(ROWS, { ...DOCUMENTS, label: 'labels' }, inputs)).toEqual(expected);
  const columns = { ...DOCUMENTS.columns, target: ['labels:documents(4)'] };
  expect(await numbers(ROWS, { columns }, inputs)).toEqual(expected);
});

it('lists of token ids without labels predict the next token, and windows continue where the last one ended', async () => {
  const columns = { input_ids: ['input_ids:list(pad=9)+documents(3)'] };
  expect(
    await numbers(
      ROWS.map(({ input_ids }) => ({ input_ids })),
      { columns },
      of('input_ids'),
    ),
  ).toEqual({
    input_ids: [1, 5, 6, 7, 9, 9, 1, 8, 9],
    target: [5, 6, 7, 2, -100, -100, 8, 2, -100],
  });
});

it('lists that do not suit are refused in one line', async () => {
  const bind = async (rows: readonly object[], options: DataOptions, ...names: string[]) => {
    const data = await open(rows, options);
    await data.bind(of(...names), LABELS).finally(() => data.close());
  };
  const short = [ROWS[0]!, { ...ROWS[1], labels: [2] }];
  await expect(bind(short, DOCUMENTS, 'input_ids')).rejects.toThrow(
    "chats.jsonl, column 'labels', row 2: 1 items, but 'input_ids' has 3.",
  );
  await expect(bind(ROWS, {}, 'input_ids')).rejects.toThrow(
    'list needs a length, as the lists have 3 to 5 items: list(5), or documents(5)',
  );
  await expect(bind(PADDED, { columns: { input_ids: ['input_ids:none'] } }, 'input_ids')).rejects.toThrow(
    "chats.jsonl, column 'input_ids', row 1: a list is not a number; list(5) takes the numbers in it.",
  );
  const chat = [{ messages: [{ role: 'user', content: 'hello' }] }];
  await expect(
    bind(chat, { columns: { input_ids: ['messages:documents(4)'] } }, 'input_ids'),
  ).rejects.toThrow(
    "column 'messages', row 1: it holds a list of objects; chat(tokenizer.json)+documents(512) takes",
  );
});

it('lists of one length feed inputs of their names, and labels their own places', async () => {
  expect(await numbers(PADDED, {}, of('input_ids', 'attention_mask'))).toEqual({
    input_ids: PADDED.flatMap(row => row.input_ids),
    attention_mask: PADDED.flatMap(row => row.attention_mask),
    target: PADDED.flatMap(row => row.labels),
  });
});

it('labels of shorter lists are padded with the class that is ignored', async () => {
  const columns = { input_ids: ['input_ids:list(6)'], target: ['labels:list(6)'] };
  expect((await numbers(ROWS, { columns }, of('input_ids'))).target).toEqual([
    ...[-100, -100, 6, 7, 2, -100],
    ...[-100, -100, 2, -100, -100, -100],
  ]);
  const inputs = of('input_ids').map(({ range: _, ...input }) => input);
  await expect(numbers(ROWS, { columns }, inputs)).rejects.toThrow(
    "column 'labels', row 1: 5 items instead of 6; list(6,pad=N) truncates and pads.",
  );
});

it('a list of another length than those of the training data is refused', async () => {
  const data = await open(PADDED);
  await data.bind(of('input_ids'), LABELS);
  const recipe = data.recipe!;
  await data.close();
  await expect(numbers([{ input_ids: [1, 2], labels: [1, 2] }], { recipe }, of('input_ids'))).rejects.toThrow(
    '2 items instead of 5',
  );
});

it('a target that repeats the tokens at their own places is reported', async () => {
  const notes = async (rows: readonly object[]) => {
    const columns = { input_ids: ['input_ids:list(5)'], target: ['labels:list(5,pad=-100)'] };
    const data = await open(rows, { columns });
    const { notes } = await data.bind(of('input_ids'), LABELS);
    await data.close();
    return notes.filter(note => note.includes('at the same places'));
  };
  expect(await notes(ROWS)).toHaveLength(1);
  const path = join(mkdtempSync(join(tmpdir(), 'agd-onnx-test-')), 'chats.npz');
  const array = (...x: number[]) => Tensor.from('int64', [1, 3], BigInt64Array.from(x, BigInt));
  await writeNpz(
    path,
    new Map([
      ['input_ids', array(1, 8, 2)],
      ['target', array(-100, 8, 2)],
    ]),
  );
  const data = await openData(path);
  expect((await data.bind(of('input_ids'), LABELS)).notes).toEqual([
    expect.stringContaining("Array 'target' has the values of input 'input_ids'"),
  ]);
  await data.close();
  expect(await notes([ROWS[0]!, { ...ROWS[1], labels: [-100, -100, 3] }])).toEqual([]);
});

it.each(['in memory', 'in a file'])('so is one %s, in evaluation', async place => {
  const tokens = Tensor.from('int64', [1, 3], BigInt64Array.of(1n, 2n, 0n));
  const arrays = { input_ids: tokens, target: tokens };
  const reported = [expect.stringContaining("Array 'target' has the values of input 'input_ids'")];
  const s = new Sketch();
  const ids = s.input('input_ids', ['N', 'T'], 'int64');
  const model = s.model([s.add('Gather', [s.weight('table', [4, 4]), ids], 'logits')]);
  const loss = { kind: 'cross-entropy', classAxis: -1 } as const;
  const path = join(mkdtempSync(join(tmpdir(), 'agd-onnx-test-')), 'chats.npz');
  await writeNpz(path, new Map(Object.entries(arrays)));
  const data = place === 'in a file' ? path : arrays;
  expect((await evaluate(model, data, { loss, metrics: [] })).notes).toEqual(reported);
});

it('masks that a tokenizer is asked for are among the data', async () => {
  const columns = { input_ids: ['text:tokenizer(tokenizer.json,mask=text_mask)'] };
  const data = await open([{ text: 'the cat' }], { columns });
  expect(['text', 'text_mask', 'text_m', 'mask'].filter(name => data.has(name))).toEqual([
    'text',
    'text_mask',
  ]);
  await data.close();
});
