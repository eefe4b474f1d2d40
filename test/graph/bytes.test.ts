/** Bytes as pages and Node have them in common, against what Node's Buffer gives. */
import { expect, it } from 'vitest';
import * as bytes from '../../src/graph/bytes.js';

const BYTES = Uint8Array.from({ length: 200_003 }, (_, i) => (i * 7919) >>> 3);
const TEXT = '\ufeffnaïve ☕ 𝄞, plain';

it('text', () => {
  expect([...bytes.toUtf8(TEXT)]).toEqual([...Buffer.from(TEXT)]);
  expect(bytes.fromUtf8(bytes.toUtf8(TEXT))).toBe(TEXT);
  expect(bytes.fromUtf8(BYTES)).toBe(Buffer.from(BYTES).toString());
});

it('base64', () => {
  const base64 = Buffer.from(BYTES).toString('base64');
  expect(bytes.toBase64(BYTES)).toBe(base64);
  expect(Buffer.compare(bytes.fromBase64(base64), BYTES)).toBe(0);
  expect(() => bytes.fromBase64('*')).toThrow();
});

it('a character for each byte, all of them different', () => {
  const all = Uint8Array.from({ length: 256 }, (_, i) => i);
  const text = bytes.characters(all);
  expect(text).toHaveLength(256);
  expect(new Set(text).size).toBe(256);
  expect(text.slice(0, 128)).toBe(Buffer.from(all.subarray(0, 128)).toString('latin1'));
});

it('joined', () => {
  const parts = [BYTES.subarray(3, 5), new Uint8Array(), BYTES.subarray(9, 20)];
  expect([...bytes.concatBytes(parts)]).toEqual([...Buffer.concat(parts)]);
  expect(bytes.concatBytes([])).toEqual(new Uint8Array());
});

it('equal wherever they begin, and different at each place', () => {
  const copy = new Uint8Array(BYTES.length + 1).subarray(1);
  copy.set(BYTES);
  expect(bytes.equalBytes(BYTES, copy)).toBe(true);
  expect(bytes.equalBytes(BYTES, copy.subarray(1))).toBe(false);
  expect(bytes.equalBytes(BYTES, bytes.concatBytes([BYTES, BYTES]))).toBe(false);
  expect(bytes.equalBytes(new Uint8Array(), new Uint8Array())).toBe(true);
  for (const place of [0, 3, 2 ** 16 - 1, 2 ** 16, copy.length - 1]) {
    copy[place]! ^= 128;
    expect(bytes.equalBytes(BYTES, copy)).toBe(false);
    copy[place]! ^= 128;
  }
});
