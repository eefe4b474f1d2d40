/** Numbers in protobuf's wire format, against its definition in bigints. */
import { expect, it } from 'vitest';
import { WireReader } from '../../../src/graph/proto/wire-reader.js';
import { WireWriter } from '../../../src/graph/proto/wire-writer.js';

/** The varint of a number in two's complement of 64 bits. */
function varint(value: bigint): number[] {
  const bytes: number[] = [];
  let rest = BigInt.asUintN(64, value);
  for (; rest > 0x7fn; rest >>= 7n) bytes.push(Number(rest & 0x7fn) | 0x80);
  return [...bytes, Number(rest)];
}

const powers = Array.from({ length: 64 }, (_, bit) => 2n ** BigInt(bit));
const INTEGERS = powers
  .flatMap(p => [p - 1n, p, -p, -p + 1n, p + 5n])
  .filter(x => BigInt.asIntN(64, x) === x);

it('64-bit integers', () => {
  for (const x of INTEGERS) {
    const halves = { low: Number(BigInt.asIntN(32, x)), high: Number(BigInt.asIntN(32, x >> 32n)) };
    const bytes = new WireWriter().int64(halves).finish();
    expect([...bytes], `${x}`).toEqual(varint(x));
    const isSafe = Number.isSafeInteger(Number(x));
    if (isSafe) expect([...new WireWriter().int64(Number(x)).finish()], `${x}`).toEqual(varint(x));
    const read = new WireReader(bytes).int64();
    expect(read, `${x}`).toEqual(isSafe ? Number(x) : { ...halves, unsigned: false });
  }
});

it('32-bit integers', () => {
  for (const x of INTEGERS.filter(x => BigInt.asIntN(32, x) === x)) {
    const bytes = new WireWriter().int32(Number(x)).finish();
    expect([...bytes], `${x}`).toEqual(varint(x));
    expect(new WireReader(bytes).int32()).toBe(Number(x));
  }
});

it.each([0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152])(
  'messages of %d bytes in messages',
  length => {
    const content = new Uint8Array(length).map((_, i) => i);
    const writer = new WireWriter().uint32(7);
    writer.fork().fork().raw(content).ldelim().ldelim();
    const inner = [...varint(BigInt(length)), ...content.subarray(0, 3)];
    const written = writer.uint32(9).finish();
    const reader = new WireReader(written);
    expect(reader.int32()).toBe(7);
    const outer = new WireReader(reader.bytes());
    expect([...outer.buf.subarray(0, inner.length)]).toEqual(inner);
    expect(Buffer.compare(outer.bytes(), content)).toBe(0);
    expect([outer.pos, reader.int32(), reader.pos]).toEqual([outer.len, 9, written.length]);
  },
);

it.each(['', 'plain', 'naïve', '\ufeff☕ 𝄞', 'x'.repeat(500)])('the text %j', text => {
  expect(new WireReader(new WireWriter().string(text).finish()).string()).toBe(text);
});

it.each<[string, number[], (reader: WireReader) => unknown]>([
  ['a varint without an end', [0x80, 0x80], r => r.int64()],
  ['a varint of eleven bytes', Array(11).fill(0x80), r => r.int64()],
  ['a text that is not UTF-8', [2, 0xc3, 0x28], r => r.string()],
  ['more bytes than there are', [5, 1, 2], r => r.bytes()],
  ['half a number', [1, 2], r => r.float()],
  ['field 0', [0x02], r => r.tag()],
  ['the end of another group', [0x14], r => r.skip(3, 1, 0)],
  ['a wire type that is none', [0], r => r.skip(6, 1, 0)],
])('refuses %s', (_, bytes, read) => {
  expect(() => read(new WireReader(Uint8Array.from(bytes)))).toThrow();
});
