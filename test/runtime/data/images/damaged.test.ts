import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { describeDamaged, findDamaged } from '../../../../src/runtime/data/images/damaged.js';
import { openImageFolder } from '../../../../src/runtime/data/sources/images.js';
import pillow from './pillow.json' with { type: 'json' };
import { bytesOf } from './pixels.js';

const folder = mkdtempSync(join(tmpdir(), 'agd-damaged-'));
afterAll(() => rmSync(folder, { recursive: true }));

describe('--skip-damaged', () => {
  it('leaves out the images that cannot be decoded, and says so', async () => {
    mkdirSync(join(folder, 'a'));
    const jpeg = bytesOf(pillow.jpeg);
    for (let i = 0; i < 12; i++)
      writeFileSync(
        join(folder, 'a', `${10 + i}.jpg`),
        i % 5 === 1 ? jpeg.subarray(0, jpeg.length - 200) : jpeg,
      );
    writeFileSync(join(folder, 'a', '30.png'), 'no image');
    const source = await openImageFolder(folder);
    const found = await findDamaged(source, ['image']);
    expect([...found.rows]).toEqual([0, 2, 3, 4, 5, 7, 8, 9, 10]);
    expect(found.damaged).toHaveLength(4);
    expect(describeDamaged(found)).toMatch(
      /^Left out 4 damaged images: Image .*a.11\.jpg cannot be decoded \([^()]+\) \(and 3 more\)\.$/,
    );
    expect(describeDamaged({ rows: found.rows, damaged: [] })).toBeUndefined();
    expect(describeDamaged({ rows: found.rows, damaged: ['Row 2 of x has no image.'] })).toBe(
      'Left out 1 damaged image: Row 2 of x has no image.',
    );
  });

  it('does not leave out all of them', async () => {
    const source = {
      ...{ name: 'x.csv', fields: [], blocks: [2] },
      read: async () => ({ rows: 2, values: new Map([['file', [null, Buffer.from('no')]]]) }),
      close: async () => {},
    };
    await expect(findDamaged(source, ['file'])).rejects.toThrow(
      /^No image of x\.csv can be decoded\. Row 1 of x\.csv has no image\.$/,
    );
  });
});
