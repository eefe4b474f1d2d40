/** Stands in for Node's Buffer, as far as the library uses it: bytes, and their text in four encodings. */
type Encoding = 'utf8' | 'latin1' | 'hex' | 'base64';

/** Characters of one call of `fromCharCode`: arguments are on the stack. */
const PIECE = 8192;

/** One character per byte; a TextDecoder's latin1 is Windows-1252. */
function latin1(bytes: Uint8Array): string {
  let text = '';
  for (let at = 0; at < bytes.length; at += PIECE)
    text += String.fromCharCode(...bytes.subarray(at, at + PIECE));
  return text;
}

const decoder = new TextDecoder('utf-8', { ignoreBOM: true });

const TO_TEXT: Record<Encoding, (bytes: Uint8Array) => string> = {
  utf8: bytes => decoder.decode(bytes),
  latin1,
  hex: bytes => Array.from(bytes, byte => byte.toString(16).padStart(2, '0')).join(''),
  base64: bytes => btoa(latin1(bytes)),
};

export class Buffer extends Uint8Array<ArrayBuffer> {
  /** The bytes of a text or a copy of a list of bytes; a view of an ArrayBuffer. */
  static override from(
    source: string | ArrayLike<number> | Iterable<number> | ArrayBuffer,
    offset?: unknown,
    length?: number,
  ): Buffer {
    if (typeof source !== 'string') return new Buffer(source as ArrayBuffer, offset as number, length);
    const bytes =
      offset === 'base64'
        ? Uint8Array.from(atob(source), c => c.charCodeAt(0))
        : new TextEncoder().encode(source);
    return new Buffer(bytes.buffer, bytes.byteOffset, bytes.length);
  }

  static alloc(length: number): Buffer {
    return new Buffer(new ArrayBuffer(length));
  }
  static allocUnsafe(length: number): Buffer {
    return new Buffer(new ArrayBuffer(length));
  }
  static byteLength(text: string): number {
    return new TextEncoder().encode(text).length;
  }

  static concat(parts: readonly Uint8Array[]): Buffer {
    const all = Buffer.alloc(parts.reduce((n, part) => n + part.length, 0));
    let at = 0;
    for (const part of parts) {
      all.set(part, at);
      at += part.length;
    }
    return all;
  }

  /** -1, 0 or 1: the order of the first bytes that differ, or else of the lengths. */
  static compare(a: Uint8Array, b: Uint8Array): number {
    const shorter = Math.min(a.length, b.length);
    let at = 0;
    while (at < shorter && a[at] === b[at]) at++;
    return at < shorter ? Math.sign(a[at]! - b[at]!) : Math.sign(a.length - b.length);
  }

  override toString(encoding: Encoding = 'utf8', start = 0, end = this.length): string {
    return TO_TEXT[encoding](new Uint8Array(this.buffer, this.byteOffset, this.length).subarray(start, end));
  }

  readInt32LE(offset = 0): number {
    return new DataView(this.buffer, this.byteOffset, this.length).getInt32(offset, true);
  }

  /** Up to six bytes, the first of them the highest. */
  readUIntBE(offset: number, count: number): number {
    return this.subarray(offset, offset + count).reduce((n, byte) => n * 256 + byte, 0);
  }
}
