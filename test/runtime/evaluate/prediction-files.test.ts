import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { Tensor } from '../../../src/graph/tensor.js';
import type { Recipe } from '../../../src/passes/recipe/recipe.js';
import { readNpz } from '../../../src/runtime/data/npz.js';
import { keepColumns } from '../../../src/runtime/evaluate/kept-columns.js';
import { joinRows, type RawValue, writePredictions } from '../../../src/runtime/evaluate/prediction-files.js';
import { type Prediction, predictions, stringTensor } from '../../../src/runtime/evaluate/predictions.js';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'agd-onnx-test-'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

async function* one(prediction: Prediction) {
  yield prediction;
}
const y = Tensor.from('float32', [2], Float32Array.of(0.5, 1));
const values = one.bind(undefined, { samples: 2, outputs: { y }, output: 'y' });
const kept = (ids: RawValue[]) => ({ names: ['id'], next: async () => new Map([['id', ids]]) });
const LARGE = 2n ** 53n + 1n;

it('keeps integers of 64 bits exact', async () => {
  const [lines, arrays] = ['p.jsonl', 'p.npz'].map(name => join(folder, name)) as [string, string];
  await writePredictions(lines, values(), kept([7n, LARGE]));
  expect(await readFile(lines, 'utf8')).toBe(`{"id":7,"y":0.5}\n{"id":"${LARGE}","y":1}\n`);
  await writePredictions(arrays, values(), kept([7n, LARGE]));
  const id = (await readNpz(arrays)).get('id')!;
  expect([id.dtype, ...(id.data as BigInt64Array)]).toEqual(['int64', 7n, LARGE]);
  await expect(writePredictions(arrays, values(), kept([null, LARGE]))).rejects.toThrow(
    "Column 'id' has missing values beside integers beyond 2^53",
  );
});

const textsOf = (tensor: Tensor) => tensor.strings!.map(bytes => new TextDecoder().decode(bytes));

it('takes outputs of text, without the rows that fill a batch', async () => {
  const label = stringTensor(
    [3, 1],
    ['cat', 'dog', 'emu'].map(text => new TextEncoder().encode(text)),
  );
  const batches = [{ inputs: {}, size: 2, padding: 1 }];
  const path = join(folder, 'p.csv');
  const plan = { names: ['label'], run: async () => ({ label }) };
  expect(await writePredictions(path, predictions(batches, plan))).toBe(2);
  expect(await readFile(path, 'utf8')).toBe('label\ncat\ndog\n');
  const joined = joinRows('label', [label, label]);
  expect([joined.dims, textsOf(joined)]).toEqual([
    [6, 1],
    ['cat', 'dog', 'emu', 'cat', 'dog', 'emu'],
  ]);
});

it('keeps columns of as many rows as there are predictions', async () => {
  const table = join(folder, 'two.csv');
  await writeFile(table, 'id\n7\n8\n');
  const columns = await keepColumns(table, ['id']);
  expect(await columns.next(1)).toEqual(new Map([['id', [7]]]));
  await expect(columns.next(2)).rejects.toThrow(
    /two\.csv has fewer rows than there are predictions: --keep needs the data that were predicted/,
  );
  await columns.close();
  const windows = { inputs: [{ windows: { length: 2 } }] } as unknown as Recipe;
  await expect(keepColumns(table, ['id'], windows)).rejects.toThrow(
    '--keep cannot be used with windows, which are not rows of the data: leave it out.',
  );
});
