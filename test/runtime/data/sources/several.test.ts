import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Recipe } from '../../../../src/passes/recipe/recipe.js';
import { readAll } from '../../../../src/runtime/data/join.js';
import { openData, openRecords } from '../../../../src/runtime/data/open.js';
import { numbersOf } from '../../../../src/runtime/data/recipe/values.js';
import { someRows } from '../../../../src/runtime/data/some-rows.js';
import type { Source, Values } from '../../../../src/runtime/data/source.js';
import { openSource, reopenSource } from '../../../../src/runtime/data/sources/open.js';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'several-'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

function write(name: string, content: string | Uint8Array): string {
  const path = join(folder, name);
  writeFileSync(path, content);
  return path;
}

/** A source of one column `v`, in these blocks. */
const sourceOf = (...blocks: Values[]): Source => ({
  name: 'memory',
  fields: [{ name: 'v', kind: 'integer' }],
  blocks: blocks.map(list => (list as Float64Array).length),
  read: async block => ({
    rows: (blocks[block] as Float64Array).length,
    values: new Map([['v', blocks[block]!]]),
  }),
  close: async () => {},
});
const valuesOf = async (source: Source) => (await readAll(source, ['v'])).values.get('v');

it('a block without a chosen row has its columns, which are empty', async () => {
  const source = someRows(sourceOf(Float64Array.of(1, 2), Float64Array.of(3, 4)), Uint32Array.of(3));
  expect((await source.read(0, ['v'])).values.get('v')).toEqual(new Float64Array(0));
  expect(await valuesOf(source)).toEqual(Float64Array.of(4));
});

it('blocks of different types of numbers are joined without loss where one type holds all', async () => {
  const big = BigInt64Array.of(2n ** 60n + 1n);
  expect(await valuesOf(sourceOf(Float64Array.of(1), big))).toEqual(BigInt64Array.of(1n, big[0]!));
  expect(await valuesOf(sourceOf(big, Float64Array.of(Number.NaN)))).toEqual(
    Float64Array.of(2 ** 60, Number.NaN),
  );
  expect(await valuesOf(sourceOf(Int32Array.of(1), Float64Array.of(Number.NaN)))).toEqual(
    Float64Array.of(1, Number.NaN),
  );
});

it('a column of lists in one file and of numbers in another is refused', async () => {
  const files = [write('lists.jsonl', '{"a":[1,2]}\n'), write('numbers.jsonl', '{"a":3}\n')];
  await expect(openRecords(files)).rejects.toThrow(
    /Column 'a' is of kind list in .*lists\.jsonl, but integer in .*numbers\.jsonl; files that are read together/,
  );
});

it('images of several tables are taken from the folder of each', async () => {
  for (const part of ['a', 'b']) mkdirSync(join(folder, part));
  const tables = ['a', 'b'].map(part => write(`${part}/labels.csv`, 'file,label\n1.png,0\n'));
  const source = await openRecords(tables);
  expect((await readAll(source, ['file'])).values.get('file')).toEqual(
    ['a', 'b'].map(part => join(folder, part, '1.png')),
  );
  await source.close();
  const columns = [{ column: 'file', kind: 'image' }];
  const known = await openRecords(tables, { inputs: [{ columns }] } as unknown as Recipe);
  expect((await known.read(1)).values.get('file')).toEqual([join(folder, 'b', '1.png')]);
  await known.close();
});

it('files of different kinds of numbers are opened again with the kind of both', async () => {
  const paths = [write('p1.csv', 'x\n1\n'), write('p2.csv', 'x\na\n')];
  const { source, spec } = await openSource(paths);
  await source.close();
  // As where the index was made before the kinds were known.
  spec![0]!.index = { ...spec![0]!.index!, fields: [{ name: 'x', kind: 'integer' }] };
  const again = await reopenSource(spec!);
  for (const block of again.blocks.keys()) expect((await again.read(block)).rows).toBe(1);
  await again.close();
});

it('a short file of no known name is refused in one line', async () => {
  await expect(openRecords(write('short', 'ab'))).rejects.toMatchObject({ code: 'bad-data' });
});

it('dates of a column of text are UTC in every time zone, as those of a column of dates', () => {
  const place = { source: 'memory', column: 'day', firstRow: 1 };
  expect([...numbersOf(['2024-01-02T03:04:05'], 'date', place)]).toEqual([Date.UTC(2024, 0, 2, 3, 4, 5)]);
  expect(() => numbersOf(['Jan 2, 2024'], 'date', place)).toThrow(/is not a date/);
});

it.skipIf(process.platform === 'win32')('a pipe whose other end is closed is not opened again', async () => {
  const path = join(folder, 'pipe.csv');
  await once(spawn('mkfifo', [path]), 'exit');
  const writer = spawn('sh', ['-c', `printf 'x,y\\n1,2\\n' > '${path}'`]);
  const data = await openData(path);
  if (writer.exitCode === null) await once(writer, 'exit');
  expect(await data.fingerprint()).toEqual(expect.any(Number));
  await data.close();
});
