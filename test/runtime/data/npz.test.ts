import { mkdtemp, readFile, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { zipSync } from 'fflate';
import { describe, expect, test } from 'vitest';
import { Tensor } from '../../../src/graph/tensor.js';
import { encodeNpy } from '../../../src/runtime/data/npy.js';
import { decodeNpz, encodeNpz, readNpz, writeNpz } from '../../../src/runtime/data/npz.js';
import * as fixtures from './fixtures.js';

const bytesOf = (base64: string) => new Uint8Array(Buffer.from(base64, 'base64'));
const show = (arrays: Map<string, Tensor>) =>
  Object.fromEntries([...arrays].map(([name, t]) => [name, [t.dtype, [...t.dims], t.numbers()]]));
const decode = (base64: string, file = 'data.npz') => show(decodeNpz(bytesOf(base64), file));

describe('what numpy wrote', () => {
  test('deflated: every kind of type, both byte orders, Fortran order', () => {
    expect(decode(fixtures.deflatedNpz)).toEqual({
      f4: ['float32', [2, 3], [1.5, -2, Math.fround(3e-8), 4, 5, Number.POSITIVE_INFINITY]],
      fortran: ['int32', [2, 3, 2], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]],
      bigFortran: ['int16', [2, 3], [1, 2, 3, -4, 5, 300]],
      f2: ['float16', [3], [0.5, -65504, 2 ** -24]],
      f8: ['float64', [], [2.5]],
      u8: ['uint64', [1], [2 ** 64]],
      b1: ['bool', [2], [1, 0]],
      i1: ['int8', [1], [-3]],
      empty: ['uint8', [0, 4], []],
      größe: ['uint32', [1], [7]],
    });
  });

  test('stored, and with zip64 records', () => {
    expect(decode(fixtures.storedNpz)).toEqual({
      x: ['uint8', [2, 2], [1, 2, 3, 250]],
      y: ['int64', [2], [7, -8]],
    });
    // The narrow count and offset at the end are what they are in an archive too large for them.
    const wide = bytesOf(fixtures.zip64Npz).fill(0xff, -14, -2);
    const a = ['int32', [40], Array.from({ length: 40 }, (_, i) => i)];
    for (const bytes of [bytesOf(fixtures.zip64Npz), wide])
      expect(show(decodeNpz(bytes, 'a'))).toEqual({ a });
  });

  test('a lone .npy of header versions 2 and 3 is named by its file', () => {
    expect(decode(fixtures.npyV2, '/tmp/weights.npy')).toEqual({ weights: ['float64', [1], [1.25]] });
    expect(decode(fixtures.npyV3, 'ids.npy')).toEqual({ ids: ['uint16', [1], [9]] });
  });
});

describe('what we write', () => {
  const arrays = new Map([
    ['x', Tensor.from('float32', [2, 2], Float32Array.of(1, -2.5, 3, Number.NaN))],
    ['n', Tensor.from('int64', [], BigInt64Array.of(-3n))],
    ['flags', Tensor.from('bool', [3], Uint8Array.of(1, 0, 1))],
    ['none', Tensor.from('float16', [0], new Uint16Array())],
  ]);

  test('is read back, from a file too', async () => {
    const path = join(await mkdtemp(join(tmpdir(), 'npz-')), 'a.npz');
    await writeNpz(path, arrays);
    expect(show(await readNpz(path))).toEqual(show(arrays));
  });

  test('is the same bytes at any time, headers on 64 bytes as numpy has them', async () => {
    const bytes = encodeNpz(arrays);
    expect(bytes.subarray(10, 14)).toEqual(Uint8Array.of(0, 0, 0x21, 0));
    for (const array of arrays.values()) expect((encodeNpy(array).length - array.byteLength) % 64).toBe(0);
  });

  test('has no types that numpy lacks', () => {
    const half = new Map([['w', Tensor.from('bfloat16', [1], Uint16Array.of(0))]]);
    expect(() => encodeNpz(half)).toThrow(/bfloat16/);
  });
});

describe('refused, in a line that names file and array', () => {
  const stored = () => bytesOf(fixtures.storedNpz);
  const edit = (bytes: Uint8Array, change: (view: DataView, bytes: Uint8Array) => void) => {
    change(new DataView(bytes.buffer), bytes);
    return bytes;
  };
  const directoryAt = (view: DataView) => view.getUint32(view.byteLength - 6, true);
  const replace = (base64: string, from: string, to: string) =>
    new Uint8Array(Buffer.from(Buffer.from(base64, 'base64').toString('latin1').replace(from, to), 'latin1'));

  test.each<[string, () => Uint8Array, RegExp]>([
    ['not a zip', () => new TextEncoder().encode('x,y\n1,2\n'.repeat(9)), /not a complete zip archive/],
    ['empty file', () => new Uint8Array(), /not a complete zip archive/],
    ['truncated', () => stored().subarray(0, 400), /not a complete zip archive/],
    ['truncated in front', () => stored().subarray(40), /not a complete zip archive|damaged/],
    [
      'flipped bit in the data',
      () =>
        edit(stored(), (_, b) => {
          b[170]! ^= 1;
        }),
      /member 'x.npy' is damaged/,
    ],
    ['encrypted', () => edit(stored(), v => v.setUint8(directoryAt(v) + 8, 1)), /'x.npy' is encrypted/],
    ['bzip2', () => edit(stored(), v => v.setUint16(directoryAt(v) + 10, 12, true)), /method 12/],
    [
      'a size that cannot be',
      () => edit(bytesOf(fixtures.deflatedNpz), v => v.setUint32(directoryAt(v) + 24, 3e9, true)),
      /'f4.npy' claims 3000000000 bytes/,
    ],
    [
      'a size larger than what is there',
      () => edit(bytesOf(fixtures.deflatedNpz), v => v.setUint32(directoryAt(v) + 24, 5000, true)),
      /'f4.npy' is damaged/,
    ],
    [
      'a size smaller than what is there',
      () => edit(bytesOf(fixtures.deflatedNpz), v => v.setUint32(directoryAt(v) + 24, 100, true)),
      /'f4.npy' is damaged/,
    ],
    [
      'an offset past the end',
      () => edit(stored(), v => v.setUint32(directoryAt(v) + 42, 1e9, true)),
      /'x.npy' is damaged or truncated/,
    ],
    [
      'a member twice',
      () =>
        edit(bytesOf(fixtures.deflatedNpz), v => {
          const first = directoryAt(v);
          const second = first + 46 + v.getUint16(first + 28, true) + v.getUint16(first + 30, true);
          v.setUint32(second + 42, v.getUint32(first + 42, true), true);
        }),
      /overlaps another one/,
    ],
    [
      'two names of a member',
      () => edit(stored(), (_, b) => b.set([0x79], 30)),
      /'x.npy' is damaged or truncated/,
    ],
    [
      'far more than it holds',
      () =>
        edit(zipSync({ 'x.npy': new Uint8Array(280_000) }, { level: 0 }), v => {
          v.setUint16(directoryAt(v) + 10, 8, true);
          v.setUint32(directoryAt(v) + 24, 2 ** 28 + 1, true);
        }),
      /would unpack to 268435457/,
    ],
    ['structs', () => bytesOf(fixtures.structNpy), /elements of type struct/],
    ['objects', () => replace(fixtures.npyV3, "'<u2'", "'|O' "), /type '\|O'/],
    [
      'version 4',
      () =>
        edit(bytesOf(fixtures.npyV3), (_, b) => {
          b[6] = 4;
        }),
      /version 4/,
    ],
    ['too few elements', () => bytesOf(fixtures.npyV3).subarray(0, 129), /takes 2 bytes, but 1 are there/],
    [
      'a shape beyond any file',
      () => replace(fixtures.npyV3, '(1,)', '(9e9,)'.replace('e9', '99')),
      /cannot be read|takes/,
    ],
    ['a header cut off', () => bytesOf(fixtures.npyV3).subarray(0, 60), /header is truncated/],
    ['a header of one byte', () => bytesOf(fixtures.npyV3).subarray(0, 11), /header is truncated/],
    ['no shape', () => replace(fixtures.npyV3, "'shape'", "'shade'"), /header cannot be read/],
  ])('%s', (_, bytes, message) => {
    expect(() => decodeNpz(bytes(), 'f')).toThrow(
      expect.objectContaining({ code: 'bad-data', message: expect.stringMatching(message) }),
    );
    expect(() => decodeNpz(bytes(), 'f')).toThrow(/^f\b[^\n]*$/);
  });

  test('a file that is not there', async () => {
    await expect(readNpz('/nowhere/a.npz')).rejects.toThrow(expect.objectContaining({ code: 'io' }));
  });

  test('nothing is half-written', async () => {
    const path = join(await mkdtemp(join(tmpdir(), 'npz-')), 'a.npz');
    await writeFile(path, 'before');
    const bad = new Map([['w', Tensor.from('bfloat16', [1], Uint16Array.of(0))]]);
    await expect(writeNpz(path, bad)).rejects.toThrow(/bfloat16/);
    expect(await readFile(path, 'utf8')).toBe('before');
  });
});

test('text beside the numbers is no obstacle until it is asked for', () => {
  const names = decodeNpz(bytesOf(fixtures.stringNpz), 'a.npz').get('names')!;
  expect([names.dtype, names.dims.length]).toEqual(['string', 1]);
  expect(() => names.bytes).toThrow(/a.npz: array 'names': text cannot be read as numbers/);
});
