import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import type { Source } from '../../../../src/runtime/data/source.js';
import { openImageFolder, resolveImages } from '../../../../src/runtime/data/sources/images.js';

const base = mkdtempSync(join(tmpdir(), 'agd-folder-'));
afterAll(() => rmSync(base, { recursive: true }));
let folders = 0;

/** A new folder with these files, which are empty: paths are all that is read of them. */
function folderOf(...files: string[]): string {
  const folder = join(base, `${folders++}`);
  mkdirSync(folder);
  for (const file of files) {
    mkdirSync(dirname(join(folder, file)), { recursive: true });
    writeFileSync(join(folder, file), '');
  }
  return folder;
}

async function rowsOf(source: Source): Promise<Record<string, unknown[]>> {
  const rows: Record<string, unknown[]> = {};
  for (const block of source.blocks.keys())
    for (const [name, values] of (await source.read(block)).values)
      rows[name] = [...(rows[name] ?? []), ...(values as unknown[])];
  return rows;
}

describe('a folder of images', () => {
  it('has the names of its folders as labels, sorted, and counts other files', async () => {
    const folder = folderOf(
      'dogs/2.JPG',
      'cats/10.png',
      'cats/siamese/1.webp',
      'cats-and-dogs/1.jpg',
      'cats/.hidden.png',
      '.cache/1.png',
      'dogs/notes.txt',
      'Thumbs.db',
    );
    const source = await openImageFolder(folder);
    expect(source.fields).toEqual([
      { name: 'image', kind: 'image' },
      { name: 'label', kind: 'text' },
    ]);
    expect(await rowsOf(source)).toEqual({
      image: ['cats/10.png', 'cats/siamese/1.webp', 'cats-and-dogs/1.jpg', 'dogs/2.JPG'].map(f =>
        join(folder, f),
      ),
      label: ['cats', 'cats', 'cats-and-dogs', 'dogs'],
    });
    expect(source.ignored).toBe(2);
    expect([...(await source.read(0, ['label'])).values.keys()]).toEqual(['label']);
  });

  it('is read in blocks', async () => {
    const source = await openImageFolder(folderOf(...Array.from({ length: 1030 }, (_, i) => `${i}.png`)));
    expect(source.blocks).toEqual([1024, 6]);
    const { image, label } = await rowsOf(source);
    expect(new Set(image).size).toBe(1030);
    expect(label).toBeUndefined();
  });

  it('pairs images with masks of the same name', async () => {
    const folder = folderOf('images/a/1.jpg', 'images/2.jpg', 'masks/a/1.png', 'masks/2.png', 'masks/3.png');
    const source = await openImageFolder(folder);
    expect(source.fields.map(({ kind }) => kind)).toEqual(['image', 'image']);
    expect(await rowsOf(source)).toEqual({
      image: ['images/2.jpg', 'images/a/1.jpg'].map(f => join(folder, f)),
      mask: ['masks/2.png', 'masks/a/1.png'].map(f => join(folder, f)),
    });
    await expect(openImageFolder(folderOf('images/1.jpg', 'masks/2.png'))).rejects.toThrow(
      /^Image .*1\.jpg has no mask in .*masks\.$/,
    );
  });

  it('is refused where its folders are parts of a data set', async () => {
    const folder = folderOf('val/cats/1.png', 'train/cats/2.png');
    await expect(openImageFolder(folder)).rejects.toThrow(
      `has train and val where the folders of the classes are expected: use --data ${join(folder, 'train')} --val ${join(folder, 'val')}.`,
    );
  });

  it('is refused without images, with images outside of the classes, and where it is not there', async () => {
    await expect(openImageFolder(folderOf('a.txt'))).rejects.toThrow(/holds no images \(1 other file\)\.$/);
    await expect(openImageFolder(folderOf())).rejects.toThrow(/holds no images \(it is empty\)\.$/);
    await expect(openImageFolder(folderOf('cats/1.png', 'b.png'))).rejects.toThrow(
      /also b\.png outside of them: move it/,
    );
    await expect(openImageFolder(join(base, 'none'))).rejects.toThrow(
      expect.objectContaining({ code: 'io' }),
    );
  });
});

describe('a table of images', () => {
  const table = (files: (string | null)[]): Source => ({
    name: 'labels.csv',
    fields: [
      { name: 'file', kind: 'text' },
      { name: 'label', kind: 'text' },
    ],
    blocks: [files.length],
    async read(_, fields = ['file', 'label']) {
      const values = { file: files, label: files.map((_, i) => `class ${i}`) };
      return {
        rows: files.length,
        values: new Map(fields.map(name => [name, values[name as keyof typeof values]])),
      };
    },
    async close() {},
  });

  it('has their paths from where it is', async () => {
    const file = join(base, 'set', 'labels.csv');
    const source = await resolveImages(table(['a/1.jpg', 'b\\2.jpg', '/elsewhere/3.png', null]), file);
    expect(source.fields[0]).toEqual({ name: 'file', kind: 'image' });
    const { file: paths, label } = await rowsOf(source);
    expect(paths).toEqual([
      join(base, 'set', 'a/1.jpg'),
      join(base, 'set', 'b/2.jpg'),
      '/elsewhere/3.png',
      null,
    ]);
    expect(label![0]).toBe('class 0');
  });

  it('is any other table where no column names image files, unless it is said', async () => {
    const plain = table(['x', 'y']);
    expect(await resolveImages(plain, 'labels.csv')).toBe(plain);
    expect((await resolveImages(plain, 'labels.csv', ['file'])).fields[0]!.kind).toBe('image');
  });
});
