import { expect, it } from 'vitest';
import type { DType } from '../../../src/graph/dtype.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { convert } from '../../../src/runtime/data/convert.js';
import { checkRange } from '../../../src/runtime/data/targets.js';

const error = (
  values: number[],
  range: { least: number; most: number; ignored?: number },
  dtype: DType = 'int64',
) => {
  const array = convert(Tensor.from('float64', [values.length], Float64Array.from(values)), dtype);
  try {
    checkRange({ name: 'target', range }, array, 'y');
  } catch (e) {
    return (e as Error).message;
  }
  return undefined;
};
const classes = (count: number) => ({ least: 0, most: count - 1, ignored: undefined });

it.each<[string, number[], number, string]>([
  ['that count from 1', [1, 2, 3, 1], 3, 'the labels count from 1: subtract 1 from them'],
  ['of signs', [1, -1, -1], 2, 'write the classes -1 and 1 as 0 and 1'],
  ['of one score', [0, 1, 1], 1, 'for two classes, 0 and 1, use --loss bce-with-logits'],
  [
    'of a class more',
    [0, 1, 2, 3],
    3,
    'the labels go up to 3, but the output has 3 classes: train a model with an output of 4',
  ],
  ['of many more classes', [0, 1, 7, 9], 3, 'train a model with an output of 10'],
  [
    'with a mark of none',
    [0, 1, 255, 2],
    3,
    'if 255 marks targets without a class, --ignore-index 255 leaves them out',
  ],
  ['with a negative mark', [0, 1, -100, 2], 3, 'if -100 marks targets without a class, --ignore-index -100'],
  ['of odd numbers', [0, -3, -1, 2], 3, 'classes are numbered from 0'],
])('advises on labels %s', (_, values, count, advice) => {
  expect(error(values, classes(count))).toContain(`; `);
  expect(error(values, classes(count))).toContain(advice);
});

it('looks at the labels that are not ignored', () => {
  expect(error([1, 2, 3, -1], { ...classes(3), ignored: -1 })).toContain('the labels count from 1');
  expect(error([0, 2, -1], { ...classes(3), ignored: -1 })).toBeUndefined();
});

const shares = { least: 0, most: 1 };

it.each<[string, number[], DType, string]>([
  ['of signs', [1, -1], 'float32', 'write the classes -1 and 1 as 0 and 1'],
  ['of ones and twos', [1, 2, 1], 'int64', 'write the classes 1 and 2 as 0 and 1'],
  ['of 8-bit numbers', [0, 255, 3], 'uint8', '--scale target=1/255'],
  ['of class numbers', [0, 5, 3], 'int64', '--loss cross-entropy'],
  ['of other numbers', [0, 1.5], 'float32', '--scale target=FACTOR'],
])('advises on probabilities %s', (_, values, dtype, advice) => {
  expect(error(values, shares, dtype)).toContain(advice);
});
