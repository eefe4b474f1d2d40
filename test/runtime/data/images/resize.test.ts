/** Against Pillow, whose resizing the models of torchvision, timm and Hugging Face were trained with: the same bytes. */
import { describe, expect, it } from 'vitest';
import { type Filter, resize } from '../../../../src/runtime/data/images/resize.js';
import pillow from './pillow.json' with { type: 'json' };
import { bytesOf, pattern } from './pixels.js';

describe('resize', () => {
  it.each(pillow.resized)('is that of Pillow: $filter to $height x $width', ({ pixels, ...to }) => {
    const out = resize(pattern(13, 19), to.height, to.width, to.filter as Filter);
    expect(out).toMatchObject({ height: to.height, width: to.width, channels: 3 });
    expect(out.data).toEqual(bytesOf(pixels));
  });

  it('is that of Pillow for grey images', () => {
    const { height, width, pixels } = pillow.resizedGrey;
    expect(resize(pattern(13, 19, 1), height, width, 'bicubic').data).toEqual(bytesOf(pixels));
  });

  it.each(['bilinear', 'bicubic', 'lanczos', 'nearest'] as const)(
    'computes a part as in the whole: %s',
    filter => {
      const image = pattern(13, 19);
      for (const [height, width] of [
        [9, 8],
        [13, 8],
        [9, 19],
        [13, 19],
      ] as const) {
        const whole = resize(image, height, width, filter);
        const window = { left: 2, top: 3, width: 5, height: 4 };
        const part = resize(image, height, width, filter, window);
        for (let y = 0; y < 4; y++)
          for (let i = 0; i < 15; i++)
            expect(part.data[y * 15 + i]).toBe(whole.data[((y + 3) * width + 2) * 3 + i]);
      }
    },
  );
});
