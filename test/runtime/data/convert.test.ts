import { describe, expect, test } from 'vitest';
import type { DType } from '../../../src/graph/dtype.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { firstMisfit, takeRows } from '../../../src/runtime/data/convert.js';

const rows = Uint32Array.of(2, 0, 2);

describe('takeRows', () => {
  test('copies rows as they are where the type is the same', () => {
    const x = Tensor.from('float32', [3, 2], Float32Array.of(1, 2, 3, 4, Number.NaN, -0));
    const batch = takeRows(x, rows, 'float32', [3, 1, 2], 1);
    expect([batch.dtype, batch.dims, batch.data]).toEqual([
      'float32',
      [3, 1, 2],
      Float32Array.of(Number.NaN, -0, 1, 2, Number.NaN, -0),
    ]);
  });

  test.each<[Tensor, DType, number[]]>([
    [Tensor.from('uint8', [3], Uint8Array.of(0, 1, 255)), 'float32', [255, 0, 255]],
    [Tensor.from('uint8', [3], Uint8Array.of(0, 1, 255)), 'int64', [255, 0, 255]],
    [Tensor.from('int32', [3], Int32Array.of(-7, 1, 9)), 'int64', [9, -7, 9]],
    [Tensor.from('int64', [3], BigInt64Array.of(-7n, 1n, 9n)), 'int32', [9, -7, 9]],
    [Tensor.from('int64', [3], BigInt64Array.of(-7n, 1n, 9n)), 'float32', [9, -7, 9]],
    [Tensor.from('uint64', [3], BigUint64Array.of(7n, 1n, 2n ** 62n + 1n)), 'int64', [2 ** 62, 7, 2 ** 62]],
    [Tensor.from('float64', [3], Float64Array.of(0.1, 1, -3)), 'float32', [-3, Math.fround(0.1), -3]],
    [Tensor.from('float64', [3], Float64Array.of(4, 1, -3)), 'int64', [-3, 4, -3]],
    [Tensor.from('float16', [3], Uint16Array.of(0x3c00, 0, 0xc000)), 'float32', [-2, 1, -2]],
    [Tensor.from('bfloat16', [3], Uint16Array.of(0x3f80, 0, 0xc000)), 'float16', [-2, 1, -2]],
    [Tensor.from('float32', [3], Float32Array.of(1, 0, -2)), 'bfloat16', [-2, 1, -2]],
    [Tensor.from('bool', [3], Uint8Array.of(1, 0, 0)), 'float32', [0, 1, 0]],
  ])('%# converts', (array, dtype, expected) => {
    expect(takeRows(array, rows, dtype, [3], 1).numbers()).toEqual(expected);
  });

  test('64-bit integers keep every bit', () => {
    const x = Tensor.from('uint64', [1], BigUint64Array.of(2n ** 62n + 1n));
    expect(takeRows(x, Uint32Array.of(0), 'int64', [1], 1).data).toEqual(BigInt64Array.of(2n ** 62n + 1n));
  });

  test('a pixel times 1/255 is the float32 that division gives', () => {
    const pixels = Tensor.from(
      'uint8',
      [256],
      Uint8Array.from({ length: 256 }, (_, i) => i),
    );
    const all = Uint32Array.from({ length: 256 }, (_, i) => i);
    const divided = Array.from(all, v => Math.fround(v / 255));
    expect(takeRows(pixels, all, 'float32', [256], 1 / 255).numbers()).toEqual(divided);
  });

  test('scales where the type stays, too', () => {
    const x = Tensor.from('float32', [3], Float32Array.of(1, 2, 3));
    expect(takeRows(x, rows, 'float32', [3], 2).numbers()).toEqual([6, 2, 6]);
  });
});

test.each<[Tensor, DType, number | bigint | undefined]>([
  [Tensor.from('float32', [2], Float32Array.of(3, -4)), 'int64', undefined],
  [Tensor.from('float32', [2], Float32Array.of(3, 0.5)), 'int64', 0.5],
  [Tensor.from('float32', [1], Float32Array.of(Number.NaN)), 'int32', Number.NaN],
  [Tensor.from('float64', [1], Float64Array.of(2 ** 63)), 'int64', 2 ** 63],
  [Tensor.from('float16', [1], Uint16Array.of(0x3800)), 'int32', 0.5],
  [Tensor.from('int64', [2], BigInt64Array.of(1n, 2n ** 31n)), 'int32', 2n ** 31n],
  [Tensor.from('int8', [2], Int8Array.of(1, -1)), 'uint64', -1],
  [Tensor.from('uint64', [1], BigUint64Array.of(2n ** 63n)), 'int64', 2n ** 63n],
  [Tensor.from('uint8', [1], Uint8Array.of(2)), 'bool', 2],
  [Tensor.from('float64', [1], Float64Array.of(1e300)), 'float16', undefined],
])('firstMisfit %#', (array, dtype, misfit) => {
  expect(firstMisfit(array, dtype)).toBe(misfit);
});

const SHUFFLED = Array.from({ length: 37 }, (_, i) => (i * 7) % 12);

test.each<[string, number, number, number[]]>([
  ['words', 0, 5, [11, 0, 3, 3]],
  ['words that are not aligned', 1, 5, [11, 0, 3, 3]],
  ['one word, more than are read ahead', 0, 1, SHUFFLED],
  ['a line of the cache', 0, 16, SHUFFLED],
  ['several lines', 0, 31, SHUFFLED],
  ['the widest that are copied by words', 0, 64, SHUFFLED],
  ['more than these', 0, 65, SHUFFLED],
  ['a part of the array', 0, 5, [3, 4, 5, 6]],
  ['a part that is not aligned', 3, 70, [10, 11]],
  ['a part, and one row out of it', 0, 5, [3, 4, 7, 6]],
  ['none', 0, 5, []],
])('takes rows of %s', (_, offset, width, list) => {
  const bytes = new Uint8Array(offset + 12 * width * 4);
  const whole = bytes.subarray(offset);
  whole.forEach((_, i) => {
    whole[i] = (i * 37) % 251;
  });
  const rows = Uint32Array.from(list);
  const dims = [rows.length, width];
  const taken = takeRows(new Tensor('float32', [12, width], whole), rows, 'float32', dims, 1);
  const want = [...rows].flatMap(row => [...whole.subarray(row * width * 4, (row + 1) * width * 4)]);
  expect([...taken.bytes]).toEqual(want);
});
