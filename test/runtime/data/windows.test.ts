import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { openData } from '../../../src/runtime/data/open.js';
import { fileOrder } from '../../../src/runtime/data/order.js';

const file = (name: string, contents: string) => {
  const path = join(mkdtempSync(join(tmpdir(), 'agd-onnx-test-')), name);
  writeFileSync(path, contents);
  return path;
};
const target = (dtype: 'int64' | 'float32', ...shape: (number | string)[]) => ({
  name: 'target',
  dtype,
  shape,
});

it('validation takes the last windows of a text, which is a row of its own', async () => {
  const data = await openData(file('book.txt', 'abcdefgh'.repeat(13)), {
    columns: { x: ['text:bytes+windows(4)'] },
    valSplit: 0.2,
  });
  const inputs = [{ name: 'x', dtype: 'int64', shape: ['N', 4] }, target('int64', 'N', 4)] as const;
  const binding = { labels: ['target'] };
  // 103 characters have a next one: 25 windows, of which the last before validation reads a character of it.
  expect((await data.bind(inputs, binding)).length).toBe(19);
  expect((await data.validation(inputs, binding))!.length).toBe(5);
  await data.close();
});

it('no row of a series is in training and in validation, and nothing is fitted on the latter', async () => {
  const rows = Array.from({ length: 100 }, (_, i) => i);
  const data = await openData(file('series.csv', ['t', ...rows].join('\n')), {
    columns: { x: ['t:standardize+windows(5)'] },
    label: 't',
    valSplit: 0.2,
  });
  const inputs = [{ name: 'x', dtype: 'float32', shape: ['N', 5] }, target('float32', 'N', 1)] as const;
  const binding = { labels: ['target'] };
  const train = await data.bind(inputs, binding);
  const validation = (await data.validation(inputs, binding))!;
  expect(data.recipe!.inputs[0]!.columns[0]!.steps).toMatchObject([{ step: 'standardize', mean: 39.5 }]);
  const targets = async (of: typeof train) =>
    (await of.take(fileOrder(0, of.length))).inputs.target!.numbers();
  const [early, late] = [await targets(train), await targets(validation)];
  // 95 windows of 5 rows and the one to predict.
  expect(late).toEqual(rows.slice(81));
  expect(early).toEqual(rows.slice(5, 76));
  expect(late[0]! - 5).toBeGreaterThan(early.at(-1)!);
  await data.close();
});

it('a split says how many windows there are where they are too few', async () => {
  const data = await openData(file('book.txt', 'abcdefgh'), {
    columns: { x: ['text:bytes+windows(4)'] },
    valSplit: 0.2,
  });
  const inputs = [{ name: 'x', dtype: 'int64', shape: ['N', 4] }, target('int64', 'N', 4)] as const;
  await expect(data.bind(inputs, { labels: ['target'] })).rejects.toThrow(
    '--val-split 0.2 of 1 windows leaves none for validation.',
  );
  await data.close();
});
