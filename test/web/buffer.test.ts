/** What pages have in place of Node's Buffer gives what Node's gives. */
import { Buffer as NodeBuffer } from 'node:buffer';
import { expect, it } from 'vitest';
import { Buffer } from '../../src/web/node/buffer.js';

const BYTES = Uint8Array.from({ length: 20_000 }, (_, i) => (i * 7919) >>> 3);
const TEXT = '\ufeffnaïve ☕ 𝄞, plain';
const [ours, nodes] = [Buffer.from(BYTES), NodeBuffer.from(BYTES)];

it.each(['latin1', 'hex', 'base64', 'utf8'] as const)('bytes as %s', encoding => {
  expect(ours.toString(encoding)).toBe(nodes.toString(encoding));
  expect(ours.toString(encoding, 3, 500)).toBe(nodes.toString(encoding, 3, 500));
});

it('text as bytes', () => {
  const base64 = nodes.toString('base64');
  expect([...Buffer.from(base64, 'base64')]).toEqual([...nodes]);
  expect([...Buffer.from(TEXT)]).toEqual([...NodeBuffer.from(TEXT)]);
  expect(`${Buffer.from(TEXT)}`).toBe(TEXT);
  expect(Buffer.byteLength(TEXT)).toBe(NodeBuffer.byteLength(TEXT));
});

it('copies bytes, and is a view of an ArrayBuffer', () => {
  const place = Uint8Array.of(1, 2, 3, 4);
  const [copy, view] = [Buffer.from(place), Buffer.from(place.buffer, 1, 2)];
  place.fill(9);
  expect([...copy]).toEqual([1, 2, 3, 4]);
  expect([...view]).toEqual([9, 9]);
  expect(view.subarray(1)).toBeInstanceOf(Buffer);
  expect([...Buffer.concat([copy, view])]).toEqual([1, 2, 3, 4, 9, 9]);
  expect([...Buffer.alloc(2), ...Buffer.of(7)]).toEqual([0, 0, 7]);
});

it.each([
  [
    [1, 2],
    [1, 2],
  ],
  [
    [1, 2],
    [1, 3],
  ],
  [[2], [1, 3]],
  [[1, 2], [1]],
  [[], [0]],
])('compares %j with %j', (a, b) => {
  const [one, other] = [Uint8Array.from(a), Uint8Array.from(b)];
  expect(Buffer.compare(one, other)).toBe(NodeBuffer.compare(one, other));
});

it('reads numbers', () => {
  expect(ours.readInt32LE(5)).toBe(nodes.readInt32LE(5));
  expect(ours.readUIntBE(3, 6)).toBe(nodes.readUIntBE(3, 6));
});
