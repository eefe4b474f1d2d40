/** MurmurHash3 by Austin Appleby, the form of 32 bits, seed 0, of text in UTF-8 (github.com/aappleby/smhasher, public domain). */

const encoder = new TextEncoder();

export function murmur3(text: string): number {
  const bytes = encoder.encode(text);
  const mix = (k: number) => Math.imul(rotate(Math.imul(k, 0xcc9e2d51), 15), 0x1b873593);
  let h = 0;
  let i = 0;
  for (; i + 4 <= bytes.length; i += 4) {
    const k = bytes[i]! | (bytes[i + 1]! << 8) | (bytes[i + 2]! << 16) | (bytes[i + 3]! << 24);
    h = (Math.imul(rotate(h ^ mix(k), 13), 5) + 0xe6546b64) | 0;
  }
  let rest = 0;
  for (let j = bytes.length - 1; j >= i; j--) rest = (rest << 8) | bytes[j]!;
  if (i < bytes.length) h ^= mix(rest);
  h ^= bytes.length;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

const rotate = (x: number, k: number) => (x << k) | (x >>> (32 - k));
