import { describe, expect, test } from 'vitest';
import { decodeNpy } from '../../../src/runtime/data/npy.js';

/** An array with this header, and this many bytes of elements. */
function npy(header: string, elements = 0): Uint8Array {
  const bytes = new Uint8Array(10 + header.length + elements);
  bytes.set([0x93, ...Buffer.from('NUMPY'), 1, 0]);
  new DataView(bytes.buffer).setUint16(8, header.length, true);
  bytes.set(Buffer.from(header, 'latin1'), 10);
  return bytes;
}
const header = (shape: string, order = 'False', descr = "'<f4'") =>
  `{'descr': ${descr}, 'fortran_order': ${order}, 'shape': ${shape}, }`;
const dims = (text: string, elements = 0) => decodeNpy(npy(text, elements), 'x.npy').dims;

describe('a header', () => {
  test.each<[string, number[], number]>([
    [header('(2, 3)'), [2, 3], 24],
    [header('(2L, 3L)'), [2, 3], 24],
    [header('(2,)'), [2], 8],
    [header('()'), [], 4],
    [`{'shape':(1,2),'fortran_order':True,'descr':'<f4'}   \n`, [1, 2], 8],
    [header('(0, 1000000000000)', 'True'), [0, 1e12], 0],
  ])('%s is read as numpy reads it', (text, shape, size) => {
    expect(dims(text, size)).toEqual(shape);
  });

  test.each([
    header('(2)'),
    header('(1 1)'),
    header('(1, 1 1)'),
    header('(01,)'),
    header('(-1,)'),
    header('[1]'),
    header('(1,'),
    header('(1,)').slice(0, -1),
    `${header('(1,)')} {}`,
    header('(1,)', 'true'),
    header('(1,)', 'False', "'\\x3cf4'"),
    header('(1,)', 'False', '"<f4"'),
    `{'descr': '<f4', 'shape': (1,)}`,
    `{'descr': '<f4', 'descr': '<i4', 'fortran_order': False, 'shape': (1,)}`,
    `{'constructor': '<f4', 'fortran_order': False, 'shape': (1,)}`,
  ])('%s is refused', text => {
    expect(() => dims(text, 4)).toThrow('x.npy: the .npy header cannot be read.');
  });

  test.each<[string, string, RegExp]>([
    ['a shape that takes exponential time to match', header(`(${'1'.repeat(60)}`), /cannot be read/],
    ['more text than numpy reads', header(`(${'1,'.repeat(6000)})`), /takes \d+ bytes/],
    ['more axes than numpy has', header(`(${'1,'.repeat(65)})`), /not a possible shape/],
    ['more elements than can be counted', header('(9007199254740993, 1)'), /not a possible shape/],
    ['a product that overflows', header('(4294967296, 4294967296)'), /not a possible shape/],
    ['a type by the name of a property', header('(1,)', 'False', "'<constructor1'"), /elements of type/],
  ])('with %s is refused in no time', (_, text, message) => {
    expect(() => dims(text, 4)).toThrow(message);
  });
});
