import { deflateSync } from 'node:zlib';
import sharp from 'sharp';
import { describe, expect, it } from 'vitest';
import { readIndexedPng } from '../../../../src/runtime/data/images/indexed-png.js';
import { decodeMask, maskSpec } from '../../../../src/runtime/data/images/mask.js';
import { imageSpec } from '../../../../src/runtime/data/images/spec.js';
import pillow from './pillow.json' with { type: 'json' };
import { bytesOf } from './pixels.js';

const image = (height: number, width: number, more = {}) =>
  imageSpec({ name: 'x', dtype: 'float32', shape: ['N', 3, height, width] }, more);
const maskOf = (of: ReturnType<typeof image>, more = {}) => maskSpec(target, of.height, of.width, of, more);
const target = { name: 'target', shape: ['N', 'H', 'W'] };
const png = (data: number[], width: number, channels: 1 | 3 = 1) =>
  sharp(Uint8Array.from(data), { raw: { width, height: data.length / width / channels, channels } })
    .toColourspace(channels === 1 ? 'b-w' : 'srgb')
    .png()
    .toBuffer();

describe('a mask', () => {
  it.each(['file', 'bits4'] as const)('with a palette has the numbers, not the colors (%s)', name => {
    const { palette } = pillow;
    const pixels = readIndexedPng(bytesOf(palette[name]))!;
    expect([pixels.height, pixels.width]).toEqual([7, 9]);
    expect(pixels.data).toEqual(bytesOf(palette.pixels));
  });

  it('with a palette is not decoded where it has more pixels than decoders of images take', () => {
    const size = 0x4000;
    const head = Buffer.from([
      137,
      80,
      78,
      71,
      13,
      10,
      26,
      10,
      0,
      0,
      0,
      13,
      ...Buffer.from('IHDR'),
      ...Array(17),
    ]);
    head.writeUInt32BE(size, 16);
    head.writeUInt32BE(size, 20);
    head.set([1, 3], 24);
    const data = deflateSync(Buffer.alloc(size * (size / 8 + 1)), { level: 1 });
    const chunk = Buffer.alloc(data.length + 12);
    chunk.writeUInt32BE(data.length, 0);
    chunk.write('IDAT', 4);
    data.copy(chunk, 8);
    expect(readIndexedPng(Buffer.concat([head, chunk]))).toBeUndefined();
  });

  it('with a palette feeds its numbers', async () => {
    const { palette } = pillow;
    const { data } = await decodeMask(bytesOf(palette.file), maskOf(image(7, 9)));
    expect(data).toEqual(bytesOf(palette.pixels));
  });

  it('with a palette is read by every filter of the format', async () => {
    // Every filter is in a file of sharp's adaptive filtering sooner or later; colors tell which number is which.
    const data = Array.from({ length: 64 * 40 }, (_, i) => (i * i + (i >> 5) * 3) % 7);
    const raw = sharp(Uint8Array.from(data.flatMap(x => [x * 30, 255 - x * 20, x * 10])), {
      raw: { width: 64, height: 40, channels: 3 },
    });
    const file = await raw.png({ palette: true, adaptiveFiltering: true, dither: 0 }).toBuffer();
    const indexed = readIndexedPng(file)!;
    const of = new Map(data.map((x, i) => [x, indexed.data[i]!]));
    expect(new Set(of.values()).size).toBe(7);
    expect([...indexed.data]).toEqual(data.map(x => of.get(x)));
  });

  it('is resized without interpolation, and padded with a class of its own', async () => {
    const file = await png([0, 0, 5, 5, 1, 1, 2, 2], 4);
    const spec = maskOf(image(4, 4, { fit: 'contain' }), { outside: 255 });
    const { data } = await decodeMask(file, spec);
    expect([...data]).toEqual([255, 255, 255, 255, 0, 0, 5, 5, 1, 1, 2, 2, 255, 255, 255, 255]);
    const larger = await decodeMask(file, maskOf(image(4, 8, { fit: 'exact' })));
    expect(new Set([...larger.data])).toEqual(new Set([0, 5, 1, 2]));
    const region = { left: 2, top: 0, width: 1, height: 2 };
    const part = await decodeMask(file, maskOf(image(2, 2)), () => region);
    expect([...part.data]).toEqual([5, 5, 2, 2]);
  });

  it('has values by which its classes are told', async () => {
    const spec = maskOf(image(2, 2), { values: '0/255' });
    expect([...(await decodeMask(await png([0, 255, 255, 0], 2), spec)).data]).toEqual([0, 1, 1, 0]);
    await expect(decodeMask(await png([0, 255, 7, 0], 2), spec, undefined, 'm.png')).rejects.toThrow(
      'Mask m.png has pixels of 7, which is none of the values 0, 255.',
    );
  });

  it('is refused in color, where it does not fit, and with unknown parameters', async () => {
    const spec = maskOf(image(1, 1));
    await expect(decodeMask(await png([1, 2, 3], 1, 3), spec, undefined, 'm.png')).rejects.toThrow(
      /^Mask m\.png is in color/,
    );
    expect([...(await decodeMask(await png([4, 4, 4], 1, 3), spec)).data]).toEqual([4]);
    await expect(decodeMask('/no/such.png', spec)).rejects.toThrow(/is not there/);
    expect(() => maskSpec({ name: 't', shape: ['N', 10] }, 2, 2)).toThrow(/masks of 2x2 do not fit/);
    expect(() => maskSpec({ name: 't', shape: ['N', 3, 3] }, 2, 2)).toThrow(/do not fit/);
    expect(() => maskOf(image(2, 2), { outside: 300 })).toThrow(/whole numbers from 0 to 255/);
    expect(() => maskOf(image(2, 2), { value: 1 })).toThrow(/Unknown parameter of masks/);
  });

  it('leaves files without a palette, and damaged ones, to the decoder', async () => {
    expect(readIndexedPng(await png([1, 2], 2))).toBeUndefined();
    const whole = bytesOf(pillow.palette.file);
    expect(readIndexedPng(whole.subarray(0, 20))).toBeUndefined();
    expect(readIndexedPng(whole.subarray(0, whole.length - 30))).toBeUndefined();
  });
});
