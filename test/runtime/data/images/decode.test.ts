import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, describe, expect, it } from 'vitest';
import { checkImage, decode, decodeImage, toChannels } from '../../../../src/runtime/data/images/decode.js';
import { writePixels } from '../../../../src/runtime/data/images/normalize.js';
import { imageSpec } from '../../../../src/runtime/data/images/spec.js';
import pillow from './pillow.json' with { type: 'json' };
import { bytesOf, pattern } from './pixels.js';

const jpeg = bytesOf(pillow.jpeg);
const folder = mkdtempSync(join(tmpdir(), 'agd-images-'));
afterAll(() => rmSync(folder, { recursive: true }));

const square = (size: number, more = {}) =>
  imageSpec({ name: 'x', dtype: 'float32', shape: ['N', 3, size, size] }, more);

describe('an image file', () => {
  it('is decoded as by Pillow, turned as its EXIF orientation says', async () => {
    const { data, height, width, channels } = await decode(jpeg);
    const { upright } = pillow;
    expect([height, width, channels]).toEqual([upright.height, upright.width, 3]);
    expect(data).toEqual(bytesOf(upright.pixels));
  });

  it('is made grey as by Pillow', async () => {
    expect(toChannels(await decode(jpeg), 1).data).toEqual(bytesOf(pillow.grey));
  });

  it('of four inks is made of colors as by Pillow, from a file or bytes', async () => {
    const bytes = bytesOf(pillow.cmyk.file);
    const path = join(folder, 'inks.jpg');
    writeFileSync(path, bytes);
    for (const image of [bytes, path])
      expect(await decode(image)).toMatchObject({ channels: 3, data: bytesOf(pillow.cmyk.pixels) });
  });

  it.each(pillow.crops)(
    "is resized to $short and cropped to $size as by torchvision's transforms",
    async crop => {
      const image = await decodeImage(jpeg, square(crop.size, { resize: crop.short }));
      expect(image.data).toEqual(bytesOf(crop.pixels));
    },
  );

  it('is normalized as by torchvision, with its channels first', async () => {
    const spec = square(8, { resize: 9, normalize: 'imagenet' });
    const out = new Float32Array(3 * 8 * 8);
    writePixels(await decodeImage(jpeg, spec), spec, out, 0);
    pillow.normalized.forEach((x, i) => {
      expect(Math.abs(out[i]! - x)).toBeLessThan(2e-7);
    });
    const last = imageSpec(
      { name: 'x', dtype: 'float32', shape: ['N', 8, 8, 3] },
      { resize: 9, normalize: 'imagenet' },
    );
    const hwc = new Float32Array(out.length);
    writePixels(await decodeImage(jpeg, last), last, hwc, 0);
    for (let i = 0; i < 64; i++) for (let c = 0; c < 3; c++) expect(hwc[i * 3 + c]).toBe(out[c * 64 + i]);
  });

  it('gains and loses channels', async () => {
    const { data } = pattern(6, 5, 1);
    const png = await sharp(data, { raw: { width: 5, height: 6, channels: 1 } })
      .png()
      .toBuffer();
    const read = (shape: number[]) => decodeImage(png, imageSpec({ name: 'x', dtype: 'uint8', shape }));
    expect((await read([1, 6, 5])).data).toEqual(data);
    const [a, b] = data;
    expect([...(await read([1, 6, 5, 3])).data.subarray(0, 6)]).toEqual([a, a, a, b, b, b]);
    expect([...(await read([1, 6, 5, 4])).data.subarray(0, 5)]).toEqual([a, a, a, 255, b]);
    const { data: rgba } = pattern(2, 2, 4);
    const clear = await sharp(rgba, { raw: { width: 2, height: 2, channels: 4 } })
      .png()
      .toBuffer();
    const rgb = await decode(clear).then(image => toChannels(image, 3));
    expect([...rgb.data]).toEqual([...rgba].filter((_, i) => i % 4 < 3));
  });

  it('is padded with black where it is to be contained, and stretched where the size is to be exact', async () => {
    const white = await sharp({ create: { width: 8, height: 4, channels: 3, background: 'white' } })
      .png()
      .toBuffer();
    const contained = await decodeImage(white, square(8, { fit: 'contain' }));
    const rows = Array.from({ length: 8 }, (_, y) => contained.data[y * 24]);
    expect(rows).toEqual([0, 0, 255, 255, 255, 255, 0, 0]);
    const exact = await decodeImage(white, square(8, { fit: 'exact' }));
    expect(exact.data.every(x => x === 255)).toBe(true);
  });

  it('is named where it is damaged or not there', async () => {
    const path = join(folder, 'cut.jpg');
    writeFileSync(path, jpeg.subarray(0, jpeg.length - 200));
    for (const read of [() => decodeImage(path, square(8)), () => checkImage(path)])
      await expect(read()).rejects.toThrow(
        expect.objectContaining({
          code: 'bad-data',
          message: expect.stringMatching(
            /^Image .*cut\.jpg cannot be decoded \([^()]+\); train --skip-damaged leaves/,
          ),
        }),
      );
    await expect(decodeImage(join(folder, 'no.jpg'), square(8))).rejects.toThrow(
      expect.objectContaining({ code: 'io', message: expect.stringMatching(/no\.jpg is not there\.$/) }),
    );
    await expect(decodeImage(Buffer.from('GIF'), square(8))).rejects.toThrow(/^Image an image cannot/);
    await checkImage(jpeg);
  });
});
