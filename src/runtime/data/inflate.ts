import { inflateRawSync } from 'node:zlib';

/** Bytes that are unpacked at a time. */
const BLOCK = 2 ** 24;

/** What Deflate packed, of `size` bytes. Throws where it is damaged, truncated or more. Pages have a stand-in. */
export function inflate(packed: Uint8Array, size: number): Uint8Array {
  const { buffer, byteOffset, length } = inflateRawSync(packed, {
    maxOutputLength: Math.max(size, 1),
    chunkSize: Math.min(Math.max(size, 64), BLOCK),
  });
  return new Uint8Array(buffer, byteOffset, length);
}
