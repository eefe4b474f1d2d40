import { expect, test } from 'vitest';
import type { Shape } from '../../../src/graph/ir.js';
import { fitShape } from '../../../src/runtime/data/fit.js';

test.each<[sample: number[], wanted: Shape, dims: number[] | undefined]>([
  [
    [28, 28],
    [1, 28, 28],
    [1, 28, 28],
  ],
  [
    [28, 28, 1],
    [1, 28, 28],
    [1, 28, 28],
  ],
  [[1], [], []],
  [[], [1], [1]],
  [
    [1, 28],
    [1, 28],
    [1, 28],
  ],
  [[28, 28], ['C', 28, 28], undefined],
  [
    [3, 4],
    ['T', null],
    [3, 4],
  ],
  [
    [1, 4],
    ['T', 'D'],
    [1, 4],
  ],
  [[3, 4], ['T', 'T'], undefined],
  [
    [3, 3],
    ['T', 'T'],
    [3, 3],
  ],
  [[1, 5], ['T', 1, 'D'], undefined],
  [
    [2, 1, 5],
    ['T', 'D'],
    [2, 5],
  ],
  [[784], [1, 28, 28], undefined],
  [[28, 28], [784], undefined],
  [[28, 27], [28, 28], undefined],
  [[5], ['K'], undefined],
])('%j for %j', (sample, wanted, dims) => {
  expect(fitShape(sample, wanted, new Map([['K', 6]]))?.dims).toEqual(dims);
});

test('symbols are settled by the first that has them', () => {
  const first = fitShape([3, 4], ['T', 'D'], new Map())!;
  expect([...first.symbols]).toEqual([
    ['T', 3],
    ['D', 4],
  ]);
  expect(fitShape([4], ['T'], first.symbols)).toBeUndefined();
});
