import { describe, expect, it } from 'vitest';
import { random } from '../../../../src/graph/random.js';
import { parseAugmentations } from '../../../../src/passes/recipe/augmentation.js';
import { augment, drawRegion, erase } from '../../../../src/runtime/data/images/augment.js';
import {
  adjustBrightness,
  adjustContrast,
  adjustHue,
  adjustSaturation,
  changeColors,
} from '../../../../src/runtime/data/images/color.js';
import { beta, drawsOf, uniform } from '../../../../src/runtime/data/images/draws.js';
import { rotate } from '../../../../src/runtime/data/images/rotate.js';
import { imageSpec } from '../../../../src/runtime/data/images/spec.js';
import pillow from './pillow.json' with { type: 'json' };
import { bytesOf, pattern } from './pixels.js';

/** Draws that give these numbers of [0, 1). */
const draws = (...values: number[]) => {
  const left = [...values];
  return () => Math.floor((left.shift() ?? 0) * 2 ** 32);
};

const grey = (...rows: number[][]) => ({
  data: Uint8Array.from(rows.flat()),
  height: rows.length,
  width: rows[0]!.length,
  channels: 1,
});
const rowsOf = ({ data, width }: { data: Uint8Array; width: number }) =>
  Array.from({ length: data.length / width }, (_, y) => [...data.subarray(y * width, (y + 1) * width)]);

describe('--augment', () => {
  it('is a list of augmentations with their options', () => {
    expect(
      parseAugmentations(
        'flip,crop:padding=4,rotate:degrees=10,color:brightness=0.2+contrast=0.2,erase,mixup:alpha=0.2,cutmix:alpha=1',
      ),
    ).toEqual([
      { kind: 'flip', p: 0.5, vertical: 0 },
      { kind: 'crop', padding: 4, ratio: [3 / 4, 4 / 3] },
      { kind: 'rotate', degrees: 10 },
      { kind: 'color', brightness: 0.2, contrast: 0.2, saturation: 0, hue: 0 },
      { kind: 'erase', p: 0.5, scale: [0.02, 0.33], ratio: [0.3, 3.3] },
      { kind: 'mixup', alpha: 0.2 },
      { kind: 'cutmix', alpha: 1 },
    ]);
    expect(parseAugmentations('crop:scale=0.08..0.5')[0]).toMatchObject({ scale: [0.08, 0.5] });
    expect(parseAugmentations('crop:scale=0.3')[0]).toMatchObject({ scale: [0.3, 1] });
  });

  it.each([
    ['flop', /did you mean 'flip'/i],
    ['', /Unknown augmentation/],
    ['flip:q=1', /Unknown option of flip/],
    ['flip:p', /^Options of flip are NAME=VALUE joined by \+/],
    ['flip:p=2', /^flip:p must be a number of at least 0 and at most 1, not 2/],
    ['flip:p=', /^Options of flip/],
    ['crop', /^crop takes padding, as crop:padding=4, or scale/],
    ['crop:padding=2+scale=0.5', /^crop takes padding/],
    ['crop:padding=1.5', /^crop:padding must be a whole number/],
    ['crop:scale=0.5..0.2', /^crop:scale must be a range LEAST\.\.MOST/],
    ['color', /^color changes nothing/],
    ['mixup:alpha=0', /^mixup:alpha must be a number of at least/],
  ])('refuses %j', (text, message) => {
    expect(() => parseAugmentations(text)).toThrow(message);
  });
});

describe('an augmentation', () => {
  const image = grey([1, 2, 3], [4, 5, 6]);
  const run = (text: string, values: number[], given = image) => ({
    image: augment(given, parseAugmentations(text), draws(...values)).image,
    mask: augment(given, parseAugmentations(text), draws(...values), 9).image,
  });

  it('flips image and mask', () => {
    const { image: out, mask } = run('flip', [0.1, 0.9]);
    expect(rowsOf(out)).toEqual([
      [3, 2, 1],
      [6, 5, 4],
    ]);
    expect(mask).toEqual(out);
    expect(rowsOf(run('flip', [0.6, 0.9]).image)).toEqual(rowsOf(image));
    expect(rowsOf(run('flip:vertical=0.5', [0.6, 0.1]).image)).toEqual([
      [4, 5, 6],
      [1, 2, 3],
    ]);
  });

  it('crops what was padded, the mask with the class of the outside', () => {
    const { image: out, mask } = run('crop:padding=1', [0.99, 0]);
    expect(rowsOf(out)).toEqual([
      [0, 0, 0],
      [2, 3, 0],
    ]);
    expect(rowsOf(mask)).toEqual([
      [9, 9, 9],
      [2, 3, 9],
    ]);
    const far = augment(grey([1]), parseAugmentations('crop:padding=4'), draws(0.99, 0.99));
    expect(rowsOf(far.image)).toEqual([[0]]);
  });

  it('rotates by a right angle exactly, counterclockwise', () => {
    const square = grey([1, 2, 3], [4, 5, 6], [7, 8, 9]);
    const turned = [
      [3, 6, 9],
      [2, 5, 8],
      [1, 4, 7],
    ];
    expect(rowsOf(rotate(square, Math.PI / 2))).toEqual(turned);
    expect(rowsOf(rotate(square, Math.PI / 2, { nearest: true }))).toEqual(turned);
    const { image: out, mask } = run('rotate:degrees=45', [0.999999], square);
    expect(out.data[4]).toBe(5);
    expect(out.data[0]).toBeLessThan(5);
    expect(new Set([...mask.data]).size).toBeGreaterThan(3);
    expect([...mask.data].every(x => Number.isInteger(x) && x >= 1 && x <= 9)).toBe(true);
  });

  it('changes colors as torchvision does', () => {
    const colors = pattern(6, 5);
    expect(adjustBrightness(colors, 1.3).data).toEqual(bytesOf(pillow.brightness));
    expect(adjustContrast(colors, 0.6).data).toEqual(bytesOf(pillow.contrast));
    expect(adjustSaturation(colors, 1.7).data).toEqual(bytesOf(pillow.saturation));
    expect(adjustHue(colors, 0.2).data).toEqual(bytesOf(pillow.hue));
  });

  it('leaves masks and alpha in their colors', () => {
    const rgba = pattern(3, 4, 4);
    const out = changeColors(rgba, { brightness: 0.7, contrast: 1.2, saturation: 0.5, hue: 0.1 });
    expect([...out.data].filter((_, i) => i % 4 === 3)).toEqual([...rgba.data].filter((_, i) => i % 4 === 3));
    expect(out.data).not.toEqual(rgba.data);
    const { image: bright, mask } = run('color:brightness=0.5+hue=0.5', [0.99, 0.5, 0.5, 0.9]);
    expect([...bright.data]).toEqual([1, 2, 4, 5, 7, 8]);
    expect(mask).toEqual(image);
  });

  it('erases a rectangle in every layout', () => {
    const { erased } = augment(
      grey(...Array(8).fill(Array(8).fill(7))),
      parseAugmentations('erase:p=1+scale=0.25..0.25+ratio=1..1'),
      draws(0, 0, 0, 0.3, 0.5),
    );
    expect(erased).toEqual([{ left: 1, top: 2, width: 4, height: 4 }]);
    for (const shape of [
      ['N', 3, 8, 8],
      ['N', 8, 8, 3],
      ['N', 8, 8],
    ]) {
      const spec = imageSpec({ name: 'x', dtype: 'float32', shape });
      const out = new Float32Array(2 * 64 * spec.channels).fill(1);
      erase(erased, spec, out, 64 * spec.channels);
      const zeros = [...out.keys()].filter(i => out[i] === 0).map(i => i - 64 * spec.channels);
      expect(zeros).toHaveLength(16 * spec.channels);
      const places = zeros.map(i => (spec.layout === 'hwc' ? Math.floor(i / 3) : i % 64));
      for (const place of places) {
        expect(place % 8).toBeGreaterThanOrEqual(1);
        expect(place % 8).toBeLessThan(5);
        expect(Math.floor(place / 8)).toBeGreaterThanOrEqual(2);
        expect(Math.floor(place / 8)).toBeLessThan(6);
      }
    }
  });

  it('reads a random part of an image, within it and of the wanted area', () => {
    const list = parseAugmentations('flip,crop:scale=0.2..0.6');
    for (let i = 0; i < 200; i++) {
      const part = drawRegion(list, 50, 80, random(i))!;
      expect(part.left).toBeGreaterThanOrEqual(0);
      expect(part.left + part.width).toBeLessThanOrEqual(80);
      expect(part.top + part.height).toBeLessThanOrEqual(50);
      const area = (part.width * part.height) / 4000;
      expect(area).toBeGreaterThan(0.18);
      expect(area).toBeLessThan(0.62);
    }
    // No part of a strip has that aspect ratio and area: the largest in the center.
    expect(drawRegion(list, 5, 400, random(1))).toEqual({ left: 196, top: 0, width: 7, height: 5 });
    expect(drawRegion(parseAugmentations('flip'), 5, 40, random(1))).toBeUndefined();
  });
});

describe('draws', () => {
  it('differ by seed, epoch and row, and are the same again', () => {
    const first = (seed: number, epoch: number, row: number) => drawsOf(seed, epoch, row)();
    const all = [first(0, 0, 0), first(1, 0, 0), first(0, 1, 0), first(0, 0, 1)];
    expect(new Set(all).size).toBe(4);
    expect(first(0, 1, 0)).toBe(all[2]);
  });

  it.each([0.2, 1, 3])('of Beta(%f, same) have its mean and variance', a => {
    const draw = random(1);
    const values = Array.from({ length: 20_000 }, () => beta(draw, a));
    const mean = values.reduce((s, x) => s + x, 0) / values.length;
    const variance = values.reduce((s, x) => s + (x - mean) ** 2, 0) / values.length;
    expect(values.every(x => x >= 0 && x <= 1)).toBe(true);
    expect(mean).toBeCloseTo(0.5, 1);
    expect(Math.abs(variance - 1 / (4 * (2 * a + 1)))).toBeLessThan(0.004);
  });

  it('are uniform in [0, 1)', () => {
    expect(uniform(() => 0)).toBe(0);
    expect(uniform(() => 2 ** 32 - 1)).toBeLessThan(1);
    expect(uniform(() => 2 ** 31, 2, 4)).toBe(3);
  });
});
