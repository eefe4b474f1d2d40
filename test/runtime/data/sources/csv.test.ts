import { readFileSync, writeFileSync } from 'node:fs';
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { parse } from 'csv-parse/sync';
import { beforeAll, describe, expect, test } from 'vitest';
import { random } from '../../../../src/graph/random.js';
import type { Source } from '../../../../src/runtime/data/source.js';
import { csvSource, indexCsv } from '../../../../src/runtime/data/sources/csv.js';
import { openFile } from '../../../../src/runtime/data/sources/file.js';
import { openSource } from '../../../../src/runtime/data/sources/open.js';
import { vega } from '../vega.js';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'csv-'));
});

async function open(content: string | Uint8Array, blockBytes?: number, name = 'a.csv'): Promise<Source> {
  const path = join(folder, name);
  writeFileSync(path, content);
  const file = await openFile(path);
  try {
    return csvSource(file, await indexCsv(file, { blockBytes }));
  } catch (error) {
    await file.close();
    throw error;
  }
}

/** All values of each column. */
async function columns(source: Source): Promise<Record<string, unknown[]>> {
  const all: Record<string, unknown[]> = Object.fromEntries(source.fields.map(({ name }) => [name, []]));
  try {
    for (const block of source.blocks.keys())
      for (const [name, values] of (await source.read(block)).values)
        all[name]!.push(...(values as unknown as unknown[]));
    return all;
  } finally {
    await source.close();
  }
}

const kinds = (source: Source) => Object.fromEntries(source.fields.map(({ name, kind }) => [name, kind]));

describe('a CSV file', () => {
  test('has quoted fields with delimiters, line breaks and quotes, and any line ends', async () => {
    const text = '\ufeffa,"b ""x""",c\r\n"1,5","two\nlines",3\r\n\r\n"say ""hi""",,4';
    const source = await open(text);
    expect(await columns(source)).toEqual({
      a: ['1,5', 'say "hi"'],
      'b "x"': ['two\nlines', null],
      c: [3, 4],
    });
  });

  test.each([';', '\t', '|'])('may be delimited by %j', async delimiter => {
    const source = await open(['a,b', '1,"x,y"', '2,z'].join('\n').replaceAll(/,(?!y)/g, delimiter));
    expect(await columns(source)).toEqual({ a: [1, 2], b: ['x,y', 'z'] });
  });

  test.each(['sep=;\n', '\ufeffSEP=;\r\n'])('may name its delimiter as Excel does: %j', async first => {
    expect(await columns(await open(`${first}a;b\n1,5;x\n2,5;y\n`))).toEqual({
      a: ['1,5', '2,5'],
      b: ['x', 'y'],
    });
    expect(await columns(await open(`${first}a,b\n1,2\n`))).toEqual({ 'a,b': ['1,2'] });
  });

  test('may begin with comments; the last such line names the columns if it has as many', async () => {
    const rows = '1;2;x\n3;4;y\n';
    const values = (names: string[]) =>
      Object.fromEntries(
        names.map((name, i) => [
          name,
          [
            [1, 3],
            [2, 4],
            ['x', 'y'],
          ][i],
        ]),
      );
    const all = async (text: string) => columns(await open(text));
    expect(await all(`# made by a tool, at 12:00\r\n# 2; "of\n#\na;b;c\n${rows}`)).toEqual(
      values(['a', 'b', 'c']),
    );
    expect(await all(`\ufeff## 2; tables\n#a;b;c\n${rows}`)).toEqual(values(['#a', 'b', 'c']));
    expect(await all(`# no header\n${rows}`)).toEqual(values(['column1', 'column2', 'column3']));
    expect(await all('#a,b\n1,2\n')).toEqual({ '#a': [1], b: [2] });
  });

  test('that ends lines with CR alone is refused', async () => {
    await expect(open('a,b\r1,2\r')).rejects.toThrow(
      "a.csv ends its lines with CR alone, as old programs for the Mac do: convert it with tr '\\r' '\\n'.",
    );
  });

  test('without a header has numbered columns', async () => {
    expect(await columns(await open('1,a\n2,b\n'))).toEqual({ column1: [1, 2], column2: ['a', 'b'] });
  });

  test('has columns of the kind that all their values are of, missing ones apart', async () => {
    const source = await open(
      'i,f,b,d,zip,mix,none\n1,1.5,true,2020-02-29,00501,1,\nNA,-2e3,False,2020-03-01T12:00:00+01:00,10,x,NaN\n,,null,,,,\n',
    );
    expect(kinds(source)).toEqual({
      ...{ i: 'integer', f: 'number', b: 'bool', d: 'date', zip: 'text', mix: 'text', none: 'text' },
    });
    expect(await columns(source)).toEqual({
      i: [1, Number.NaN, Number.NaN],
      f: [1.5, -2000, Number.NaN],
      b: [1, 0, Number.NaN],
      d: [Date.UTC(2020, 1, 29), Date.UTC(2020, 2, 1, 11), Number.NaN],
      zip: ['00501', '10', null],
      mix: ['1', 'x', null],
      none: [null, null, null],
    });
  });

  test('numbers are those that JavaScript reads', async () => {
    const draw = random(1);
    const texts = Array.from({ length: 500 }, () => {
      const digits = String(draw()) + String(draw() % 10 ** (draw() % 8));
      const at = draw() % digits.length;
      return `${draw() % 2 ? '-' : ''}${digits.slice(0, at) || '0'}.${digits.slice(at)}${draw() % 9 ? '' : 'e-7'}`;
    });
    const { x } = await columns(await open(`x\n${texts.join('\n')}`));
    expect(x).toEqual(texts.map(Number));
  });

  test('in blocks of any size is what csv-parse reads', async () => {
    const draw = random(7);
    const cell = () => {
      const text = Array.from({ length: draw() % 9 }, () => 'ab "\n,;x\r\u00e9'[draw() % 11]).join('');
      return `"t${text.replaceAll('"', '""')}"`;
    };
    const text = `h1,h2,h3\n${Array.from({ length: 200 }, () => [cell(), cell(), cell()].join(',')).join('\n')}\n`;
    const expected = parse(text, { columns: true }) as Record<string, string>[];
    for (const size of [1, 50, 700, 2 ** 20]) {
      const source = await open(text, size);
      if (size < 1000) expect(source.blocks.length).toBeGreaterThan(5);
      const found = await columns(source);
      expect(found.h2!.map((_, i) => ({ h1: found.h1![i], h2: found.h2![i], h3: found.h3![i] }))).toEqual(
        expected,
      );
    }
  });

  test('of real data is what csv-parse reads', async () => {
    const path = vega('birdstrikes.csv');
    const expected = parse(readFileSync(path), { columns: true }) as Record<string, string>[];
    const { source } = await openSource([path]);
    const found = await columns(source);
    for (const { name, kind } of source.fields) {
      const texts = expected.map(row => row[name]!);
      const read = (text: string) =>
        kind === 'text'
          ? text || null
          : kind === 'date'
            ? Date.parse(`${text}Z`)
            : text
              ? Number(text)
              : Number.NaN;
      expect(found[name], name).toEqual(texts.map(read));
    }
  });

  test('may be compressed', async () => {
    const path = join(folder, 'b.csv.gz');
    writeFileSync(path, gzipSync('a,b\n1,x\n'));
    const { source, spec } = await openSource([path]);
    expect(await columns(source)).toEqual({ a: [1], b: ['x'] });
    expect(spec).toBeUndefined();
    writeFileSync(path, gzipSync('a,b\n1,x\n').subarray(0, 20));
    await expect(openSource([path])).rejects.toThrow(/b\.csv\.gz is not a sound gzip file/);
  });

  test.each<[string, string | Uint8Array, RegExp]>([
    ['a row with another number of fields', 'a,b\n1,2\n3\n', /row 2 has 1 field, but there are 2 columns/],
    ['text after a closing quote', 'a,b\n"x"y,2\n', /row 1: text follows a closing quote/],
    ['a quote that is never closed', 'a,b\n"x,2\n', /never closed/],
    ['UTF-16', Buffer.from('a,b\n1,2\n', 'utf16le'), /is UTF-16.*iconv/],
    ['Latin-1', Buffer.from('a,b\nx,2\ny,\u00e9\n', 'latin1'), /row 2: column 'b' is not UTF-8.*iconv/],
    ['a column twice', 'a,a\n1,2\n', /two columns named 'a'/],
    ['no rows', 'a,b\n', /has no rows/],
    ['nothing', '', /is empty/],
  ])('with %s is refused', async (_, content, message) => {
    await expect(open(content).then(columns)).rejects.toThrow(
      expect.objectContaining({ code: 'bad-data', message: expect.stringMatching(message) }),
    );
  });

  test('whose value is of another kind than all that were looked at names row and column', async () => {
    // Of this many blocks only some are looked at.
    const rows = Array.from({ length: 400 }, (_, i) => `${i},${i}`);
    rows[80] = '80,oops';
    const source = await open(`a,b\n${rows.join('\n')}\n`, 1);
    expect(kinds(source)).toEqual({ a: 'integer', b: 'integer' });
    await expect(columns(source)).rejects.toThrow(/row 81: column 'b' holds numbers before, but here 'oops'/);
  });
});

describe('several files', () => {
  test('are one after the other, with kinds that take the values of all', async () => {
    writeFileSync(join(folder, 'p1.csv'), 'a,b\n1,2\n');
    writeFileSync(join(folder, 'p2.csv'), 'b,a\nx,1.5\n');
    const { source } = await openSource(['p1.csv', 'p2.csv'].map(name => join(folder, name)));
    expect(await columns(source)).toEqual({ a: [1, 1.5], b: ['2', 'x'] });
  });

  test('with other columns are refused, with the difference', async () => {
    writeFileSync(join(folder, 'q1.csv'), 'a,b\n1,2\n');
    writeFileSync(join(folder, 'q2.csv'), 'a,c\n1,2\n');
    await expect(openSource(['q1.csv', 'q2.csv'].map(name => join(folder, name)))).rejects.toThrow(
      /q2\.csv lacks 'b' and has 'c' too, unlike .*q1\.csv/,
    );
  });
});
