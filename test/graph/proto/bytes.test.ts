import { describe, expect, it } from 'vitest';
import { ByteReader, ByteWriter } from '../../../src/graph/proto/bytes.js';
import { readInt, writeInt } from '../../../src/graph/proto/message.js';

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');

/** The examples of the encoding guide, and the limits of the types. */
const INTEGERS: [bigint | number, string][] = [
  [0, '00'],
  [150, '9601'],
  [2 ** 31, '8080808008'],
  [2 ** 32, '8080808010'],
  [2 ** 53 - 1, 'ffffffffffffff0f'],
  [-1, 'ffffffffffffffffff01'],
  [-(2 ** 53) + 1, '81808080808080f0ff01'],
  [2n ** 63n - 1n, 'ffffffffffffffff7f'],
  [-(2n ** 63n), '80808080808080808001'],
];

describe('integers', () => {
  it.each(INTEGERS)('%s is %s', (value, text) => {
    const bytes = new ByteWriter().int64(writeInt(value)).finish();
    expect(hex(bytes)).toBe(text);
    const reader = new ByteReader(bytes);
    expect([readInt(reader.int64()), reader.pos]).toEqual([value, bytes.length]);
  });

  it.each([
    ['beyond ten bytes', 'ffffffffffffffffffff01'],
    ['cut', 'ff'],
  ])('%s are refused', (_, text) => {
    expect(() => new ByteReader(Buffer.from(text, 'hex')).int64()).toThrow(/a number has no end|ends beyond/);
  });
});

describe('texts', () => {
  it.each(['', 'a', 'ß', '😀', 'a'.repeat(47), 'é'.repeat(64), 'x'.repeat(20_000)])('%# come back', text => {
    const bytes = new ByteWriter().string('before').string(text).string('after').finish();
    const reader = new ByteReader(bytes);
    expect([reader.string(), reader.string(), reader.string()]).toEqual(['before', text, 'after']);
    expect(reader.pos).toBe(bytes.length);
  });

  it('that are not UTF-8 are refused', () => {
    expect(() => new ByteReader(Uint8Array.of(2, 0x61, 0xff)).string()).toThrow();
  });
});

it('messages have their length in front, whatever it is', () => {
  for (const size of [0, 127, 128, 20_000, 3_000_000]) {
    const bytes = new ByteWriter()
      .fork()
      .fork()
      .raw(new Uint8Array(size))
      .ldelim()
      .uint32(7)
      .ldelim()
      .finish();
    const outer = new ByteReader(bytes);
    expect(outer.size()).toBe(bytes.length - outer.pos);
    expect([outer.bytesField().length, outer.size(), outer.pos]).toEqual([size, 7, bytes.length]);
  }
});

describe('fields that are skipped', () => {
  const skip = (...bytes: number[]) => {
    const reader = new ByteReader(Uint8Array.from(bytes));
    reader.skip(reader.tag(), 3);
    return reader.pos;
  };

  it('end where they end, groups too', () => {
    expect(skip(0x08, 0x96, 0x01, 9)).toBe(3);
    expect(skip(0x0a, 2, 1, 2, 9)).toBe(4);
    expect(skip(0x0b, 0x13, 0x18, 1, 0x14, 0x0c, 9)).toBe(6);
  });

  it.each([
    ['with the number 0', [0x00, 1]],
    ['of an unknown type', [0x0e, 1]],
    ['longer than the file', [0x0a, 9, 1]],
    ['in groups that end wrongly', [0x0b, 0x14]],
    ['in groups without an end', [0x0b, 0x08, 1]],
    ['in too many groups', [0x0b, 0x0b, 0x0b, 0x0b, 0x0b]],
  ])('%s are refused', (_, bytes) => expect(() => skip(...bytes)).toThrow());
});
