import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseAugmentations } from '../../../../src/runtime/data/images/augmentation.js';
import { openImageSamples } from '../../../../src/runtime/data/images/samples.js';
import { type ImageTask, loadImages } from '../../../../src/runtime/data/images/worker.js';
import { fitRecipe, type RecipeInput } from '../../../../src/runtime/data/recipe/fit-recipe.js';
import { openImageFolder } from '../../../../src/runtime/data/sources/images.js';

const base = mkdtempSync(join(tmpdir(), 'agd-samples-'));
afterAll(() => rmSync(base, { recursive: true }));

/** Files of one color, or of these grey pixels in rows of 4. */
async function write(path: string, pixels: string | number[]) {
  mkdirSync(join(base, path, '..'), { recursive: true });
  const image =
    typeof pixels === 'string'
      ? sharp({ create: { width: 12, height: 8, channels: 3, background: pixels } })
      : sharp(Uint8Array.from(pixels), {
          raw: { width: 4, height: pixels.length / 4, channels: 1 },
        }).toColourspace('b-w');
  await image.png().toFile(join(base, path));
}
beforeAll(async () => {
  for (let i = 0; i < 10; i++) {
    await write(`pets/cats/${i}.png`, '#ff0000');
    await write(`pets/dogs/${i}.png`, '#0000ff');
  }
  for (let i = 0; i < 3; i++) {
    await write(`scenes/images/${i}.png`, [0, 40, 80, 120, 160, 200, 240, 250]);
    await write(`scenes/masks/${i}.png`, [0, 1, 2, 3, 4, 5, 6, 7]);
  }
});

const x = { name: 'x', dtype: 'float32', shape: ['N', 3, 6, 6] } as const satisfies RecipeInput;
const target = {
  name: 'target',
  dtype: 'int64',
  shape: ['N'],
  range: { least: 0, most: 1 },
  isTarget: true,
} as const satisfies RecipeInput;

describe('a folder of images', () => {
  it('feeds the input and the target, by the names of its folders', async () => {
    const source = await openImageFolder(join(base, 'pets'));
    const { recipe, notes } = await fitRecipe(source, {}, [x, target]);
    expect(notes.join()).toContain("--columns 'x=image:image' --label label");
    const samples = await openImageSamples(source, recipe);
    expect(samples.length).toBe(20);
    expect(samples.arrays.get('x')).toEqual({ dtype: 'float32', dims: [3, 6, 6] });
    const taken = await samples.take(Uint32Array.of(15, 2));
    expect(taken.get('target')!.numbers()).toEqual([1, 0]);
    const pixels = taken.get('x')!;
    expect(pixels.dims).toEqual([2, 3, 6, 6]);
    const channels = Array.from({ length: 6 }, (_, i) => pixels.numbers()[i * 36]);
    expect(channels).toEqual([0, 0, 1, 1, 0, 0]);
  });

  it('is read by a recipe as it was fitted, in the shape and normalization that it says', async () => {
    const source = await openImageFolder(join(base, 'pets'));
    const open = { ...x, shape: ['N', 3, 'H', 'W'] };
    const columns = { x: 'image:image(size=4,normalize=-1..1)' };
    const { recipe } = await fitRecipe(source, { columns }, [open, target]);
    const stored = JSON.parse(JSON.stringify(recipe));
    const samples = await openImageSamples(source, stored, { inputs: ['x'] });
    expect([...samples.arrays.keys()]).toEqual(['x']);
    const pixels = (await samples.take(Uint32Array.of(0))).get('x')!;
    expect(pixels.dims).toEqual([1, 3, 4, 4]);
    expect(new Set(pixels.numbers())).toEqual(new Set([1, -1]));
    await expect(fitRecipe(source, {}, [open, target])).rejects.toThrow(
      /of any size: give one, as image\(size=224\)/,
    );
    await expect(
      fitRecipe(source, { columns: { x: 'image:image(size=4,sharp=1)' } }, [open, target]),
    ).rejects.toThrow(/sharp/);
  });

  it('is divided among threads with the same result', async () => {
    const source = await openImageFolder(join(base, 'pets'));
    const { recipe } = await fitRecipe(source, {}, [x, target]);
    const augment = parseAugmentations('flip,crop:padding=2,color:brightness=0.3');
    const tasks: ImageTask[] = [];
    const load = async (task: ImageTask) => {
      tasks.push(task);
      // Later tasks are done first.
      await new Promise(done => setTimeout(done, 20 - tasks.length));
      return loadImages(structuredClone(task));
    };
    const rows = Uint32Array.from({ length: 20 }, (_, i) => (i * 7) % 20);
    const pass = { seed: 1, epoch: 4 };
    const shared = await openImageSamples(source, recipe, { augment, load });
    const alone = await openImageSamples(source, recipe, { augment });
    const a = (await shared.take(rows, pass)).get('x')!;
    expect(a.bytes).toEqual((await alone.take(rows, pass)).get('x')!.bytes);
    expect(tasks.map(({ rows }) => rows.length)).toEqual([8, 8, 4]);
    expect((await alone.take(rows)).get('x')!.bytes).not.toEqual(a.bytes);
  });
});

describe('images with masks', () => {
  const classes = { ...target, shape: ['N', 'H', 'W'], range: { least: 0, most: 7 } };
  const input = { ...x, shape: ['N', 3, 2, 4] };

  it('feed a target of classes, moved as their images are', async () => {
    const source = await openImageFolder(join(base, 'scenes'));
    const { recipe } = await fitRecipe(source, { columns: { target: 'mask:image(mask=true,size=2x4)' } }, [
      input,
      classes,
    ]);
    const augment = parseAugmentations('flip,crop:padding=1');
    const samples = await openImageSamples(source, recipe, { augment });
    const rows = Uint32Array.of(0, 1, 2);
    const plain = await samples.take(rows);
    expect(plain.get('target')!.dims).toEqual([3, 2, 4]);
    expect(plain.get('target')!.numbers().slice(0, 8)).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
    const moved = await samples.take(rows, { seed: 3, epoch: 0 });
    const shades = [0, 40, 80, 120, 160, 200, 240, 250];
    const pixels = moved.get('x')!.numbers();
    moved
      .get('target')!
      .numbers()
      .forEach((value, i) => {
        const shade = Math.round(pixels[Math.floor(i / 8) * 24 + (i % 8)]! * 255);
        expect(value).toBe(shades.indexOf(shade));
      });
    expect(moved.get('target')!.numbers()).not.toEqual(plain.get('target')!.numbers());
  });

  it('are found by themselves where the target has its size', async () => {
    const source = await openImageFolder(join(base, 'scenes'));
    const { recipe } = await fitRecipe(source, {}, [input, { ...classes, shape: ['N', 2, 4] }]);
    const samples = await openImageSamples(source, recipe);
    expect(samples.arrays.get('target')).toEqual({ dtype: 'uint8', dims: [2, 4] });
  });
});
