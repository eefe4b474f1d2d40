import { expect, it } from 'vitest';
import type { DType } from '../../src/graph/dtype.js';
import { Tensor } from '../../src/graph/tensor.js';

it('is made from the array type of its elements only', () => {
  expect(() => Tensor.from('float32', [2], new Float64Array(2))).toThrow(
    'A float32 tensor is made from Float32Array, not from Float64Array.',
  );
  expect(() => Tensor.from('int64', [2], Int32Array.of(1, 2))).toThrow('BigInt64Array, not from Int32Array');
  expect(() => Tensor.from('float32', [2], [1, 2] as never)).toThrow('not from an array');
  expect(() => Tensor.from('float32', [2], undefined as never)).toThrow('not from undefined');
  expect(Tensor.from('bool', [2], Uint8Array.of(1, 0)).numbers()).toEqual([1, 0]);
  expect(Tensor.from('uint8', [2], Buffer.from([1, 2])).numbers()).toEqual([1, 2]);
});

it('is made from as many elements as its shape says', () => {
  expect(() => Tensor.from('float32', [2, 3], new Float32Array(5))).toThrow(
    'A float32 tensor of shape [2,3] takes 6 elements, but the array has 5.',
  );
  expect(() => Tensor.from('int64', [], new BigInt64Array(2))).toThrow('takes 1 elements');
  expect(Tensor.from('float32', [0, 4], new Float32Array(0)).size).toBe(0);
});

// The values that ml_dtypes 0.5 has for these codes, and of sub-byte types those of the ONNX specification.
it.each<[DType, number[], number[]]>([
  ['float16', [0x00, 0x3c, 0x00, 0xc0], [1, -2]],
  ['bfloat16', [0x80, 0x3f, 0x00, 0xc0], [1, -2]],
  ['int4', [0xf1, 0x08], [1, -1, -8]],
  ['uint4', [0xf1, 0x08], [1, 15, 8]],
  ['int2', [0b11100100], [0, 1, -2, -1]],
  ['uint2', [0b11100100], [0, 1, 2, 3]],
  ['float8e4m3fn', [0x38, 0x7e, 0x7f, 0x01, 0xb8], [1, 448, Number.NaN, 2 ** -9, -1]],
  ['float8e4m3fnuz', [0x40, 0x7f, 0x80], [1, 240, Number.NaN]],
  ['float8e5m2', [0x3c, 0x7b, 0x7c, 0xfc, 0x7f, 0x01], [1, 57344, Infinity, -Infinity, Number.NaN, 2 ** -16]],
  ['float8e5m2fnuz', [0x40, 0x7f, 0x80], [1, 57344, Number.NaN]],
  ['float8e8m0', [127, 130, 255], [1, 8, Number.NaN]],
  ['float4e2m1', [0x21, 0xf7], [0.5, 1, 6, -6]],
  ['float6e2m3', [0b11011111, 0b00001111], [7.5, -7.5]],
])('reads numbers of %s', (dtype, bytes, want) => {
  expect(new Tensor(dtype, [want.length], Uint8Array.from(bytes)).numbers()).toEqual(want);
});
