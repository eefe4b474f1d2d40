/** Bytes by what Node and browsers both have; in Node, some of them come in a Buffer, whose own methods pages lack. */

export function concatBytes(parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const all = new Uint8Array(parts.reduce((n, part) => n + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** The same bytes, not as a Buffer, whose parts are Buffers, which take longer to make. */
export const plain = ({ buffer, byteOffset, length }: Uint8Array) =>
  new Uint8Array(buffer, byteOffset, length);

/** Bytes that are compared at a time. */
const PART = 2 ** 16;

export function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false;
  for (let at = 0; at < a.length; at += PART) {
    const [x, y] = [wordsOf(a.subarray(at, at + PART)), wordsOf(b.subarray(at, at + PART))];
    for (let i = 0; i < x.length; i++) if (x[i] !== y[i]) return false;
  }
  return true;
}

/** A copy, as bytes of a file begin anywhere; four at a time are compared several times faster than one by one. */
function wordsOf(bytes: Uint8Array): Uint32Array {
  const words = new Uint32Array((bytes.length + 3) >> 2);
  new Uint8Array(words.buffer).set(bytes);
  return words;
}

const encoder = new TextEncoder();
const decoder = new TextDecoder('utf-8', { ignoreBOM: true });
const narrow = new TextDecoder('latin1');

export const toUtf8 = (text: string): Uint8Array<ArrayBuffer> => encoder.encode(text);
/** Keeps a byte order mark; what is not UTF-8 becomes U+FFFD. */
export const fromUtf8 = (bytes: Uint8Array): string => decoder.decode(bytes);
/** One character per byte, which tells bytes apart. From 128 on they are those of Windows-1252. */
export const characters = (bytes: Uint8Array): string => narrow.decode(bytes);

/** Arguments of one call are on the stack. */
const ARGUMENTS = 8192;

export function toBase64(bytes: Uint8Array): string {
  let text = '';
  for (let at = 0; at < bytes.length; at += ARGUMENTS)
    text += String.fromCharCode.apply(null, bytes.subarray(at, at + ARGUMENTS) as unknown as number[]);
  return btoa(text);
}

/** Throws for other text. */
export function fromBase64(text: string): Uint8Array<ArrayBuffer> {
  const all = atob(text);
  const bytes = new Uint8Array(all.length);
  for (let i = 0; i < all.length; i++) bytes[i] = all.charCodeAt(i);
  return bytes;
}
