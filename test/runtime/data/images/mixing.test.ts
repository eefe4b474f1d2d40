import { describe, expect, it } from 'vitest';
import { parseAugmentations } from '../../../../src/passes/recipe/augmentation.js';
import { mixingOf } from '../../../../src/runtime/data/images/mixing.js';

const x = { name: 'x', dtype: 'float32', shape: ['N', 3, 8, 8] } as const;
const target = { name: 'target', dtype: 'int64', shape: ['N'] } as const;
const mix = { target: 'target_mixed', share: 'target_share' };
const list = parseAugmentations('flip,mixup');

describe('what mixup and cutmix mix', () => {
  it('is the only input of images, and the target', () => {
    expect(mixingOf(list, [x, target], { kind: 'nll', target: 'target', mix })).toEqual({
      ...{ list, images: 'x', target: 'target', second: mix },
    });
    const values = { ...target, dtype: 'float32' } as const;
    expect(mixingOf(list, [x, values], { kind: 'mse', target: 'target' })).toEqual({
      ...{ list, images: 'x', target: 'target' },
    });
  });

  it('is nothing where the list has neither', () => {
    expect(mixingOf(parseAugmentations('flip'), [x], { kind: 'mse' })).toBeUndefined();
    expect(mixingOf(undefined, [x], { kind: 'mse' })).toBeUndefined();
  });

  it.each([
    [
      [{ ...x, shape: ['N', 10] }, target],
      'nll',
      /mixup mixes the images of one float32 input, and the model has none/,
    ],
    [[x, { ...x, name: 'y' }, target], 'nll', /the model has 2: 'x', 'y'/],
    [[{ ...x, dtype: 'uint8' }, target], 'nll', /the model has none/],
    [[x, target], 'nll', /inject the model with --mix-targets/],
    [[x, target], 'output', /computes its loss of one class for each itself/],
  ] as const)('is refused of %j with %s', (inputs, kind, message) => {
    expect(() => mixingOf(list, inputs as never, { kind, target: 'target' })).toThrow(message);
  });
});
