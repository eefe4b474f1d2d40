import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseAugmentations } from '../../../../src/passes/recipe/augmentation.js';
import type { Recipe } from '../../../../src/passes/recipe/recipe.js';
import { encodeImages } from '../../../../src/runtime/data/images/encode.js';
import { applyRecipe } from '../../../../src/runtime/data/recipe/apply-recipe.js';
import { fitRecipe, type RecipeInput } from '../../../../src/runtime/data/recipe/fit-recipe.js';
import type { Source, Values } from '../../../../src/runtime/data/source.js';
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

/** What the rows of a source become, as batches are made. */
async function take(source: Source, recipe: Recipe, numbers: number[], options = {}) {
  const { values } = await source.read(0);
  const rows = Uint32Array.from(numbers);
  const chosen = [...values].map(
    ([name, list]) => [name, numbers.map(row => (list as readonly string[])[row]!)] as const,
  );
  const block = { rows: rows.length, values: new Map<string, Values>(chosen) };
  const images = await encodeImages(recipe, block, undefined, { rows, ...options });
  const inputs = recipe.inputs.map(({ input }) => input).filter(input => !images.has(input));
  return new Map([...images, ...(await applyRecipe(recipe, block, { inputs }))]);
}

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
    expect(recipe.inputs[0]).toMatchObject({ input: 'x', dtype: 'float32', dims: [3, 6, 6] });
    const taken = await take(source, recipe, [15, 2]);
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
    const pixels = (await take(source, stored, [0])).get('x')!;
    expect(pixels.dims).toEqual([1, 3, 4, 4]);
    expect(new Set(pixels.numbers())).toEqual(new Set([1, -1]));
    await expect(fitRecipe(source, {}, [open, target])).rejects.toThrow(
      /of any size: give one, as image\(size=224\)/,
    );
    await expect(
      fitRecipe(source, { columns: { x: 'image:image(size=4,sharp=1)' } }, [open, target]),
    ).rejects.toThrow(/sharp/);
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
    const plain = await take(source, recipe, [0, 1, 2], { augment });
    expect(plain.get('target')!.dims).toEqual([3, 2, 4]);
    expect(plain.get('target')!.numbers().slice(0, 8)).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
    const moved = await take(source, recipe, [0, 1, 2], { augment, pass: { seed: 3, epoch: 0 } });
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
    const mask = (await take(source, recipe, [1])).get('target')!;
    expect(mask).toMatchObject({ dtype: 'int64', dims: [1, 2, 4] });
    expect(mask.numbers()).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
  });
});
