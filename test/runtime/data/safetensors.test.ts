import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { Tensor } from '../../../src/graph/tensor.js';
import {
  decodeSafetensors,
  encodeSafetensors,
  readSafetensors,
  writeSafetensors,
} from '../../../src/runtime/data/safetensors.js';
import * as fixtures from './fixtures.js';

const show = (arrays: Map<string, Tensor>) =>
  Object.fromEntries([...arrays].map(([name, t]) => [name, [t.dtype, [...t.dims], t.numbers()]]));

/** A file of this header and this many bytes of elements. */
function file(header: unknown, length: number): Uint8Array {
  const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header));
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(BigInt(json.length));
  return new Uint8Array(Buffer.concat([size, json, Buffer.alloc(length)]));
}

test('reads what the reference implementation wrote', () => {
  const { tensors, metadata } = decodeSafetensors(
    new Uint8Array(Buffer.from(fixtures.safetensors, 'base64')),
  );
  expect(metadata).toEqual({ format: 'pt', note: 'é' });
  const { e4m3, ...others } = Object.fromEntries(tensors);
  expect([e4m3!.dtype, [...e4m3!.bytes]]).toEqual(['float8e4m3fn', [0x38, 0xc0]]);
  expect(show(new Map(Object.entries(others)))).toEqual({
    w: ['float32', [2, 2], [1, -2, 3.5, 4]],
    ids: ['int64', [2], [5, -6]],
    h: ['bfloat16', [2], [1.5, -0.25]],
    half: ['float16', [1], [0.5]],
    mask: ['bool', [3], [1, 0, 1]],
    bytes: ['uint8', [2], [1, 255]],
    scalar: ['float64', [], [2.5]],
  });
});

test('elements that others left unaligned are moved once, not at each use', () => {
  const entry = { dtype: 'F32', shape: [1], data_offsets: [0, 4] };
  const files = ['a', 'ab', 'abc', 'abcd'].map(name => file({ [name]: entry }, 4));
  for (const bytes of files)
    for (const tensor of decodeSafetensors(bytes).tensors.values())
      expect(tensor.data.buffer).toBe(tensor.bytes.buffer);
});

describe('what we write', () => {
  const tensors = new Map([
    ['mask', Tensor.from('bool', [3], Uint8Array.of(1, 0, 1))],
    ['w', Tensor.from('float32', [2], Float32Array.of(1, -2))],
    ['step', Tensor.from('int64', [], BigInt64Array.of(7n))],
    ['__proto__', Tensor.from('float64', [0, 3], new Float64Array())],
  ]);

  test('is read back in its order, from a file too', async () => {
    const path = join(await mkdtemp(join(tmpdir(), 'st-')), 'a.safetensors');
    await writeSafetensors(path, tensors, { format: 'pt' });
    const read = await readSafetensors(path);
    expect([...read.tensors.keys()]).toEqual([...tensors.keys()]);
    expect(read.tensors.get('w')!.numbers()).toEqual([1, -2]);
    expect(read.tensors.get('mask')!.numbers()).toEqual([1, 0, 1]);
    expect(read.tensors.get('step')!.numbers()).toEqual([7]);
    expect(read.metadata).toEqual({ format: 'pt' });
    expect(decodeSafetensors(encodeSafetensors(tensors)).metadata).toEqual({});
  });

  test('is aligned: every tensor starts at a multiple of its width', () => {
    for (const note of ['', '1', '12', '123'])
      for (const tensor of decodeSafetensors(encodeSafetensors(tensors, { note })).tensors.values())
        expect(tensor.data.byteOffset).toBe(tensor.bytes.byteOffset);
  });

  test('has no strings and no tensor in the place of the metadata', () => {
    const w = tensors.get('w')!;
    expect(() => encodeSafetensors(new Map([['__metadata__', w]]))).toThrow(/__metadata__/);
    const text = new Tensor('string', [0], new Uint8Array());
    expect(() => encodeSafetensors(new Map([['s', text]]))).toThrow(/string/);
  });
});

describe('refused, in a line that names file and tensor', () => {
  const u8 = (shape: unknown, data_offsets: unknown, dtype: unknown = 'U8') => ({
    dtype,
    shape,
    data_offsets,
  });

  test.each<[string, Uint8Array, RegExp]>([
    ['empty', new Uint8Array(), /0 bytes hold no header/],
    ['a header longer than the file', file({}, 0).fill(0xff, 0, 4), /claims a header of 4294967295/],
    [
      'cut off',
      encodeSafetensors(new Map([['w', Tensor.from('int8', [9], new Int8Array(9))]])).slice(0, -1),
      /take 9 bytes, but 8 follow/,
    ],
    ['no JSON', file('{"a":', 0), /not JSON/],
    ['no UTF-8', file('{"?":1}', 0).fill(0xff, 10, 11), /not JSON/],
    ['a list', file([], 0), /not a JSON object/],
    ['metadata of numbers', file({ __metadata__: { a: 1 } }, 0), /__metadata__/],
    ['an entry that is none', file({ a: 3 }, 0), /tensor 'a': its header entry/],
    ['an unknown type', file({ a: u8([1], [0, 1], 'F128') }, 1), /tensor 'a': element type 'F128'/],
    [
      "an object's own names for a type",
      file({ a: u8([1], [0, 1], 'constructor') }, 1),
      /element type 'constructor'/,
    ],
    ['an object for a type', file({ a: u8([1], [0, 1], { toString: 1 }) }, 1), /element type {'toString':1}/],
    ['a negative extent', file({ a: u8([-1], [0, 1]) }, 1), /not lists of non-negative integers/],
    ['a fractional offset', file({ a: u8([1], [0.5, 1.5]) }, 2), /not lists of non-negative integers/],
    ['offsets backwards', file({ a: u8([1], [1, 0]) }, 1), /takes 1 bytes/],
    [
      'offsets of the wrong length',
      file({ a: u8([3], [0, 2]) }, 2),
      /takes 3 bytes, but its offsets \[0,2\] span 2/,
    ],
    ['a product beyond integers', file({ a: u8([2 ** 40, 2 ** 40], [0, 0]) }, 0), /takes/],
    ['a gap', file({ a: u8([1], [0, 1]), b: u8([1], [2, 3]) }, 3), /gap or overlap at offset 1/],
    ['an overlap', file({ a: u8([2], [0, 2]), b: u8([2], [1, 3]) }, 3), /gap or overlap at offset 1/],
    ['bytes behind', file({ a: u8([1], [0, 1]) }, 2), /take 1 bytes, but 2 follow/],
    ['bytes that are not there', file({ a: u8([9], [0, 9]) }, 2), /take 9 bytes, but 2 follow/],
  ])('%s', (_, bytes, message) => {
    expect(() => decodeSafetensors(bytes, 'f')).toThrow(
      expect.objectContaining({ code: 'bad-data', message: expect.stringMatching(message) }),
    );
    expect(() => decodeSafetensors(bytes, 'f')).toThrow(/^f\b[^\n]*$/);
  });
});
