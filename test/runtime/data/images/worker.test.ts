import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseAugmentations } from '../../../../src/passes/recipe/augmentation.js';
import { maskSpec } from '../../../../src/runtime/data/images/mask.js';
import { loadSharp } from '../../../../src/runtime/data/images/sharp.js';
import { imageSpec } from '../../../../src/runtime/data/images/spec.js';
import { loadImages } from '../../../../src/runtime/data/images/worker.js';
import { pattern } from './pixels.js';

const folder = mkdtempSync(join(tmpdir(), 'agd-worker-'));
const files = Array.from({ length: 9 }, (_, i) => join(folder, `${i}.png`));
beforeAll(async () => {
  for (const [i, file] of files.entries()) {
    const { data, width, height } = pattern(20 + i, 24);
    await sharp(data, { raw: { width, height, channels: 3 } })
      .png()
      .toFile(file);
  }
});
afterAll(() => rmSync(folder, { recursive: true }));

const spec = imageSpec({ name: 'x', dtype: 'float32', shape: ['N', 3, 16, 16] });
const all = parseAugmentations(
  'crop:scale=0.3,flip,crop:padding=2,rotate,color:brightness=0.2+contrast=0.2+saturation=0.2+hue=0.1,erase,mixup',
);
const rows = [5, 0, 3, 8, 8, 1];
const load = (these: number[], more = {}) =>
  loadImages({
    images: these.map(row => files[row]!),
    rows: these,
    spec,
    augment: all,
    pass: { seed: 7, epoch: 2 },
    ...more,
  });

describe('samples with images', () => {
  it('are the same however they are divided among threads and batches', async () => {
    const images = await load(rows);
    const size = 3 * 16 * 16;
    expect(images).toHaveLength(rows.length * size);
    for (const [i, row] of rows.entries())
      expect(await load([row])).toEqual(images.slice(i * size, (i + 1) * size));
    expect((await load([...rows].reverse())).slice(0, size)).toEqual(images.slice(-size));
  });

  it('are other ones in each epoch, and of each seed', async () => {
    const images = await load(rows);
    expect(await load(rows, { pass: { seed: 7, epoch: 3 } })).not.toEqual(images);
    expect(await load(rows, { pass: { seed: 8, epoch: 2 } })).not.toEqual(images);
  });

  it.each(['crop:scale=0.3', 'flip:p=1', 'crop:padding=4', 'rotate', 'color:contrast=0.5', 'erase:p=1'])(
    'are changed by %s, each in its own way',
    async text => {
      const augment = parseAugmentations(text);
      const [changed, plain] = [await load([0, 0, 1], { augment }), await load([0, 0, 1], { augment: [] })];
      const size = changed.length / 3;
      expect(changed.slice(0, size)).not.toEqual(plain.slice(0, size));
      expect(changed.slice(0, size)).toEqual(changed.slice(size, 2 * size));
      const change = (i: number) =>
        changed.slice(i * size, (i + 1) * size).map((x, k) => x - plain[i * size + k]!);
      expect(change(2)).not.toEqual(change(0));
    },
  );

  it('are not augmented without a pass: in validation', async () => {
    const plain = await load(rows, { augment: undefined });
    expect(await load(rows, { pass: undefined })).toEqual(plain);
    expect(await load(rows)).not.toEqual(plain);
  });

  it('have masks that move with them', async () => {
    const mask = maskSpec({ name: 'target', shape: ['N', 'H', 'W'] }, 16, 16, spec);
    const grey = files.map(file => file.replace('.png', '.grey.png'));
    for (const [i, file] of files.entries()) await sharp(file).extractChannel(0).png().toFile(grey[i]!);
    const nearest = { ...spec, filter: 'nearest', mean: [0, 0, 0], std: [1 / 255, 1 / 255, 1 / 255] };
    const more = { augment: parseAugmentations('crop:scale=0.3,flip:vertical=0.5,crop:padding=3') };
    const images = await load(rows, { spec: nearest, ...more });
    const masks = await load(rows, { spec: mask, images: rows.map(row => grey[row]!), ...more });
    const red = rows.flatMap((_, i) => [...images.subarray(i * 768, i * 768 + 256)]);
    expect([...masks]).toEqual(red.map(Math.round));
  });

  it('name the image that is damaged or missing', async () => {
    await expect(load([3], { images: [Buffer.from('no image')], source: 'a.parquet' })).rejects.toThrow(
      /^Image in row 4 of a\.parquet cannot be decoded/,
    );
    await expect(load([3], { images: [null] })).rejects.toThrow(/^Row 4 of the data has no image/);
  });
});

describe('sharp', () => {
  it('is asked for where it is not installed', async () => {
    const missing = () => Promise.reject(new Error("Cannot find package 'sharp'\nrequire stack"));
    const { loadSharp: fresh } = await import('../../../../src/runtime/data/images/sharp.js?fresh' as string);
    await expect((fresh as typeof loadSharp)(missing)).rejects.toThrow(
      expect.objectContaining({
        code: 'bad-option',
        message:
          "Images are decoded by the package sharp, which cannot be loaded here (Cannot find package 'sharp'). Install it: npm install sharp.",
      }),
    );
    expect(await (fresh as typeof loadSharp)()).toBe(await loadSharp());
  });
});
