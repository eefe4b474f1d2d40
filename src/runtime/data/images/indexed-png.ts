/**
 * PNG files with a palette, as they are common for masks: the numbers themselves, which decoders of images replace by
 * their colors. Format: W3C, Portable Network Graphics (PNG) Specification, third edition.
 */
import { inflateSync } from 'node:zlib';
import { concatBytes } from '../../../graph/bytes.js';
import type { Pixels } from './pixels.js';

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const INDEXED = 3;
/** As sharp's default limit, which refuses what is larger. */
const MOST_PIXELS = 0x3fff ** 2;

/** Undefined for any other file, also for interlaced ones and damaged ones. */
export function readIndexedPng(bytes: Uint8Array): Pixels | undefined {
  if (SIGNATURE.some((x, i) => bytes[i] !== x) || bytes.length < 33) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const [width, height] = [view.getUint32(16), view.getUint32(20)];
  const [bits, type, interlaced] = [bytes[24]!, bytes[25], bytes[28]];
  if (type !== INDEXED || interlaced || ![1, 2, 4, 8].includes(bits)) return undefined;
  if (width * height > MOST_PIXELS) return undefined;
  const row = Math.ceil((width * bits) / 8);
  const lines = inflate(imageData(bytes, view), height * (row + 1));
  return (
    lines && {
      data: unpack(unfilter(lines, height, row), height, width, row, bits),
      height,
      width,
      channels: 1,
    }
  );
}

/** The contents of the chunks of image data, one after another. */
function imageData(bytes: Uint8Array, view: DataView): Uint8Array {
  const parts: Uint8Array[] = [];
  for (let at = 8; at + 12 <= bytes.length; ) {
    const length = view.getUint32(at);
    const type = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    if (type === 'IDAT') parts.push(bytes.subarray(at + 8, at + 8 + length));
    at += 12 + length;
  }
  return concatBytes(parts);
}

function inflate(data: Uint8Array, length: number): Uint8Array | undefined {
  try {
    const out = inflateSync(data, { maxOutputLength: length });
    return out.length === length ? out : undefined;
  } catch {
    return undefined;
  }
}

/** Each line begins with the number of its filter: none, left, up, average, Paeth. A pixel is a byte at most. */
function unfilter(lines: Uint8Array, height: number, row: number): Uint8Array {
  const out = new Uint8Array(height * row);
  for (let y = 0; y < height; y++) {
    const filter = lines[y * (row + 1)];
    for (let x = 0; x < row; x++) {
      const at = y * row + x;
      const left = x ? out[at - 1]! : 0;
      const up = y ? out[at - row]! : 0;
      const corner = x && y ? out[at - row - 1]! : 0;
      const guess = [0, left, up, (left + up) >> 1, paeth(left, up, corner)][filter!] ?? 0;
      out[at] = lines[y * (row + 1) + 1 + x]! + guess;
    }
  }
  return out;
}

function paeth(left: number, up: number, corner: number): number {
  const p = left + up - corner;
  const [a, b, c] = [Math.abs(p - left), Math.abs(p - up), Math.abs(p - corner)];
  return a <= b && a <= c ? left : b <= c ? up : corner;
}

function unpack(packed: Uint8Array, height: number, width: number, row: number, bits: number): Uint8Array {
  const out = new Uint8Array(height * width);
  for (let y = 0, at = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const bit = x * bits;
      out[at++] = (packed[y * row + (bit >> 3)]! >> (8 - bits - (bit & 7))) & ((1 << bits) - 1);
    }
  return out;
}
