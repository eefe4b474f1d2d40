import { describe, expect, it } from 'vitest';
import { describeImages, imageSpec, takesImages } from '../../../../src/runtime/data/images/spec.js';

const input = (shape: (number | string)[], dtype = 'float32') => ({ name: 'x', dtype, shape });

describe('how images feed an input', () => {
  it.each([
    [['N', 3, 224, 224], 'chw', 224, 224, 3],
    [['N', 224, 160, 3], 'hwc', 224, 160, 3],
    [['N', 1, 28, 28], 'chw', 28, 28, 1],
    [['N', 28, 28], 'none', 28, 28, 1],
    [['N', 3, 4, 4], 'chw', 4, 4, 3],
    [['N', 4, 4, 3], 'hwc', 4, 4, 3],
  ] as const)('follows from its shape %j', (shape, layout, height, width, channels) => {
    expect(imageSpec(input([...shape]))).toMatchObject({ layout, height, width, channels });
  });

  it('is what the parameters say where the shape leaves it open', () => {
    expect(imageSpec(input(['N', 'C', 'H', 'W']), { size: '32x48', color: 'grey' })).toMatchObject({
      layout: 'chw',
      height: 32,
      width: 48,
      channels: 1,
    });
    expect(imageSpec(input(['N', 'H', 'W', 'C']), { size: 32, layout: 'hwc' })).toMatchObject({
      layout: 'hwc',
      channels: 3,
    });
  });

  it('is said in one line', () => {
    const given = { resize: 256, normalize: 'imagenet', filter: 'bicubic' };
    expect(describeImages('x', imageSpec(input(['N', 3, 224, 224]), given))).toBe(
      "Images feed 'x' as 224x224 RGB float32 (CHW): resize=256, fit=cover, filter=bicubic, normalize=imagenet",
    );
    expect(describeImages('x', imageSpec(input(['N', 8, 9], 'uint8'), { fit: 'exact' }))).toBe(
      "Images feed 'x' as 8x9 grey uint8: fit=exact, filter=bilinear, pixels 0 to 255",
    );
    expect(describeImages('x', imageSpec(input(['N', 1, 8, 9]), { mean: '0.2', std: '0.3' }))).toMatch(
      /mean=0\.2, std=0\.3$/,
    );
  });

  it('has a normalization of as many channels as the images', () => {
    const of = (channels: number, given: object) => {
      const { mean, std } = imageSpec(input(['N', channels, 8, 9]), { ...given });
      return { mean, std };
    };
    expect(of(3, {})).toEqual({ mean: [0, 0, 0], std: [1, 1, 1] });
    expect(of(3, { mean: '0.1/0.2/0.3', std: 0.5 })).toEqual({ mean: [0.1, 0.2, 0.3], std: [0.5, 0.5, 0.5] });
    expect(of(4, { normalize: 'imagenet' }).mean).toEqual([0.485, 0.456, 0.406, 0]);
    expect(of(1, { normalize: '-1..1' })).toEqual({ mean: [0.5], std: [0.5] });
    expect(() => of(1, { normalize: 'clip' })).toThrow(
      /^mean has 3 numbers, but the images have one channel/,
    );
  });

  it.each([
    [['N', 10], {}, /^Input 'x' is \[N,10\], which takes no images/],
    [['N', 7, 20, 20], {}, /which takes no images: those are \[N, C, H, W\]/],
    [['N', 3, 'H', 'W'], {}, /of any size: give one, as image\(size=224\)/],
    [['N', 3, 'H', 'W'], { size: 'big' }, /^size must be a number of pixels or HxW, not big/],
    [['N', 3, 32, 32], { size: 64 }, /images of size 64x64 do not fit it/],
    [['N', 3, 32, 32], { color: 'grey' }, /it takes 3 channels, not 1/],
    [['N', 3, 32, 32], { color: 'cmyk' }, /^color must be one of grey, rgb, rgba/],
    [['N', 3, 32, 32], { normalise: 'clip' }, /did you mean 'normalize'/i],
    [['N', 3, 32, 32], { normalize: 'imagnet' }, /did you mean 'imagenet'/i],
    [['N', 3, 32, 32], { normalize: 'clip', mean: 0 }, /^normalize cannot be combined/],
    [['N', 3, 32, 32], { fit: 'exact', resize: 40 }, /^resize is for fit=cover/],
    [['N', 3, 32, 32], { resize: 16 }, /^Images resized to 16 are smaller than the 32x32/],
    [['N', 3, 32, 32], { resize: 'x' }, /^resize must be a whole number/],
    [['N', 3, 32, 32], { mean: '0.5/a/1' }, /^mean must be numbers, as 0\.5 or/],
    [['N', 3, 32, 32], { std: 0 }, /^std must be above 0/],
  ] as const)('is refused: %j with %j', (shape, given, message) => {
    expect(() => imageSpec(input([...shape]), given)).toThrow(message);
  });

  it('leaves uint8 pixels as they are', () => {
    expect(() => imageSpec(input(['N', 3, 8, 9], 'uint8'), { normalize: 'imagenet' })).toThrow(
      /takes uint8 pixels, which are not normalized/,
    );
  });

  it('is asked of inputs of images alone', () => {
    expect(
      [
        ['N', 3, 8, 9],
        ['N', 8, 9, 3],
        ['N', 10],
        ['N', 5, 6, 7],
      ].map(shape => takesImages({ shape })),
    ).toEqual([true, true, false, false]);
  });
});
