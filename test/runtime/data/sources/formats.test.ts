import { writeFileSync } from 'node:fs';
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { beforeAll, describe, expect, test, vi } from 'vitest';
import type { Source } from '../../../../src/runtime/data/source.js';
import { openFile } from '../../../../src/runtime/data/sources/file.js';
import { indexJson, jsonSource } from '../../../../src/runtime/data/sources/json.js';
import { expandPaths, openSource } from '../../../../src/runtime/data/sources/open.js';
import { indexText, textSource } from '../../../../src/runtime/data/sources/text.js';
import { vega } from '../vega.js';
import { TABLES } from './tables.js';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'formats-'));
});

function write(name: string, content: string | Uint8Array): string {
  const path = join(folder, name);
  writeFileSync(path, content);
  return path;
}

async function columns(source: Source, fields?: string[]): Promise<Record<string, unknown[]>> {
  const all: Record<string, unknown[]> = {};
  try {
    for (const block of source.blocks.keys()) {
      const { rows, values } = await source.read(block, fields);
      expect(rows).toBe(source.blocks[block]);
      for (const [name, list] of values) {
        all[name] ??= [];
        for (const value of list as unknown as unknown[]) all[name].push(value);
      }
    }
    return all;
  } finally {
    await source.close();
  }
}

const kinds = (source: Source) => Object.fromEntries(source.fields.map(({ name, kind }) => [name, kind]));
const [none, day] = [Number.NaN, 86_400_000];
const PLAIN = { i32: [1, 2, none, 4, 5], f: [0.5, none, 1.5, 2.5, -1], cat: ['a', 'b', null, 'a', 'é'] };
const DATES = [Date.UTC(2020, 1, 29), none, 0, Date.UTC(1999, 11, 31), Date.UTC(2030, 0, 1)];
const ALL = {
  ...PLAIN,
  i64: [10, 20, 30, 40, 50],
  b: [1, 0, none, 1, 1],
  date: DATES,
  time: [DATES[0]! + day / 2 + 30 * 60_000 + 15_250, none, 0, 0, 0],
  dec: [1.25, -3.5, none, 0, 99.99],
  list: [[1, 2], [], null, [3], [4, 5, 6]],
  tags: [['x'], ['y', 'z'], null, [], ['x']],
};
const KINDS = {
  ...{ i32: 'integer', f: 'number', cat: 'text', i64: 'integer', b: 'bool', date: 'date', time: 'date' },
  ...{ dec: 'number', list: 'list', tags: 'list' },
};

describe('Parquet', () => {
  test('has the types of its columns, nested ones, and images as records of bytes', async () => {
    const path = write('all.parquet', Buffer.from(TABLES.parquet_snappy, 'base64'));
    const { source } = await openSource([path]);
    expect(source.blocks).toEqual([2, 2, 1]);
    expect(kinds(source)).toEqual({ ...KINDS, img: 'image' });
    const { img, ...others } = await columns(source);
    expect(others).toEqual(ALL);
    expect(img!.map(bytes => Array.from(bytes as Uint8Array))).toEqual([[255, 0], [1], [2], [2], [2]]);
  });

  test.each(['none', 'gzip', 'zstd', 'lz4', 'brotli'] as const)('may be compressed: %s', async codec => {
    const path = write(`${codec}.parquet`, Buffer.from(TABLES[`parquet_${codec}`], 'base64'));
    expect(await columns((await openSource([path])).source)).toEqual(PLAIN);
  });

  test('is read only as far as columns are asked for', async () => {
    const path = write('some.parquet', Buffer.from(TABLES.parquet_snappy, 'base64'));
    expect(await columns((await openSource([path])).source, ['f'])).toEqual({ f: PLAIN.f });
  });

  test('has integers that no double holds exactly', async () => {
    const path = write('ids.parquet', Buffer.from(TABLES.parquet_ids, 'base64'));
    expect(await columns((await openSource([path])).source)).toEqual({
      id: [9007199254740993n, 9007199254740995n],
    });
  });

  test('that is damaged is refused', async () => {
    const bytes = Buffer.from(TABLES.parquet_snappy, 'base64');
    const cut = write('cut.parquet', bytes.subarray(0, -20));
    await expect(openSource([cut])).rejects.toThrow(/cut\.parquet cannot be read as Parquet/);
    bytes.fill(0xff, 4, 200);
    const bent = write('bent.parquet', bytes);
    await expect(openSource([bent]).then(({ source }) => columns(source))).rejects.toThrow(
      expect.objectContaining({ code: 'bad-data' }),
    );
  });
});

describe('Arrow', () => {
  test('has the types of its columns, dictionaries and nested ones among them', async () => {
    const path = write('all.arrow', Buffer.from(TABLES.arrow_none, 'base64'));
    const { source } = await openSource([path]);
    expect(source.blocks).toEqual([2, 2, 1]);
    expect(kinds(source)).toEqual(KINDS);
    expect(await columns(source)).toEqual(ALL);
  });

  test.each(['lz4', 'zstd', 'stream'] as const)(
    'may be a file or a stream, and compressed: %s',
    async form => {
      const path = write(`${form}.arrow`, Buffer.from(TABLES[`arrow_${form}`], 'base64'));
      expect(await columns((await openSource([path])).source)).toEqual(PLAIN);
    },
  );

  test('that is truncated is refused', async () => {
    const bytes = Buffer.from(TABLES.arrow_stream, 'base64');
    const path = write('cut.arrows', bytes.subarray(0, bytes.length - 200));
    await expect(openSource([path])).rejects.toThrow(
      /cut\.arrows cannot be read as Arrow: the file is truncated/,
    );
  });

  test('with a negative length is refused', async () => {
    const bytes = Buffer.from(TABLES.arrow_stream, 'base64');
    // Of each message: a mark, the length of its table, the table, and the body, whose length is field 3.
    let place = 0;
    for (let at = 0; !place; at += 8 + bytes.readInt32LE(at + 4)) {
      const table = at + 8 + bytes.readUInt32LE(at + 8);
      const fields = table - bytes.readInt32LE(table);
      const field = bytes.readUInt16LE(fields) > 10 ? bytes.readUInt16LE(fields + 10) : 0;
      if (field && bytes.readBigInt64LE(table + field) > 0n) place = table + field;
    }
    bytes.writeBigInt64LE(-(2n ** 40n), place);
    const path = write('negative.arrows', bytes);
    await expect(openSource([path])).rejects.toThrow(/negative length/);
  });

  test('holds what JSON of the same data holds', async () => {
    const [arrow, json] = await Promise.all(
      ['flights-200k.arrow', 'flights-200k.json'].map(async name =>
        columns((await openSource([vega(name)])).source),
      ),
    );
    expect(Object.keys(arrow!)).toEqual(['delay', 'distance', 'time']);
    expect(arrow!.delay).toEqual(json!.delay);
    expect(arrow!.distance).toEqual(json!.distance);
    expect(arrow!.time!.slice(0, 1000)).toEqual(
      json!.time!.slice(0, 1000).map(x => Math.fround(x as number)),
    );
  });
});

describe('JSON', () => {
  const objects = [
    { a: 1, b: 'x', c: true, d: '2020-02-29', l: [1, 2], o: { deep: 1 }, q: 'a "quoted" {brace}' },
    { b: null, a: 1.5, c: null, d: null, l: null, q: 'back\\slash' },
    { a: null, b: 'é', c: false, d: '1970-01-01', l: [], q: '' },
  ];
  const expected = {
    a: [1, 1.5, none],
    b: ['x', null, 'é'],
    c: [1, none, 0],
    d: [DATES[0], none, 0],
    l: [[1, 2], null, []],
    q: ['a "quoted" {brace}', 'back\\slash', ''],
  };

  test.each<[string, string]>([
    ['lines', objects.map(o => JSON.stringify(o)).join('\n')],
    [
      'lines with a byte order mark, empty lines and CRLF',
      `\ufeff${objects.map(o => JSON.stringify(o)).join('\r\n\r\n')}\r\n`,
    ],
    ['an array', JSON.stringify(objects)],
    ['an array over several lines', JSON.stringify(objects, null, 2)],
  ])('may be %s, in blocks of any size', async (_, text) => {
    for (const blockBytes of [1, 100, 2 ** 20]) {
      const file = await openFile(write('a.json', text));
      const source = jsonSource(file, await indexJson(file, { blockBytes }));
      expect(source.blocks).toEqual(blockBytes === 1 ? [1, 1, 1] : source.blocks);
      expect(await columns(source)).toEqual(expected);
    }
  });

  test('of objects over many lines is parsed once, at the end of each object', async () => {
    const list = Array.from({ length: 50 }, (_, i) => ({ l: [i, i + 1], q: '}' }));
    const text = list.map(o => JSON.stringify(o, null, 1)).join('\n');
    const file = await openFile(write('long.json', text));
    const source = jsonSource(file, await indexJson(file));
    const parse = vi.spyOn(JSON, 'parse');
    try {
      await source.read(0);
      // All at once, which fails without commas, and object by object.
      expect(parse).toHaveBeenCalledTimes(51);
      expect((await columns(source)).l).toEqual(list.map(({ l }) => l));
    } finally {
      parse.mockRestore();
    }
  });

  test.each<[string, string, RegExp]>([
    ['a list of lists', '[[1, 2], [3]]', /objects are expected, not lists/],
    ['damage', '{"a": 1}\n{"a": }\n', /row 2 is not JSON/],
    ['no end', '{"a": 1}\n{"a": 2', /ends in the middle of an object/],
    ['no objects', '[]', /has no objects/],
  ])('with %s is refused', async (_, text, message) => {
    await expect(
      openSource([write('bad.jsonl', text)]).then(({ source }) => columns(source)),
    ).rejects.toThrow(message);
  });
});

test('text is read in portions that end with a line, or with a character', async () => {
  const text = `one\ntwo three\n${'é'.repeat(20)}\nlast`;
  const file = await openFile(write('a.txt', text));
  const source = textSource(file, await indexText(file, 12));
  const { text: parts } = await columns(source);
  expect(parts!.slice(0, 2)).toEqual(['one', 'two three']);
  expect(parts!.join('').replaceAll('\n', '')).toBe(text.replaceAll('\n', ''));
});

test('globs are expanded in order', async () => {
  for (const name of ['g2.csv', 'g1.csv', 'g1.tsv']) write(name, 'a\n1\n');
  expect(await expandPaths([join(folder, 'g*.csv'), join(folder, 'g1.tsv')])).toEqual(
    ['g1.csv', 'g2.csv', 'g1.tsv'].map(name => join(folder, name)),
  );
  await expect(expandPaths([join(folder, 'no*.csv')])).rejects.toThrow(/No file matches/);
});

test('a file of no format that is known is refused, with those that are', async () => {
  const path = write('a.bin', Buffer.from([1, 2, 3, 4, 5, 6, 7, 8, 9]));
  await expect(openSource([path])).rejects.toThrow(/a\.bin is not a \.npz.*\.parquet/);
});
