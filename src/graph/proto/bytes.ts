/** Protobuf's wire format, read and written value by value (https://protobuf.dev/programming-guides/encoding/). */

/** A 64-bit integer on its way from or to the wire: a number up to 2^53 in magnitude, two halves beyond. */
export type Int64 = number | { low: number; high: number; unsigned: boolean };

const RANGE = 'a value ends beyond its message';

const strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
const utf8 = new TextEncoder();

/** Texts up to this length are read and written character by character, which is faster for names. */
const SHORT = 48;

/** Reads values from `pos` on, none beyond `end`. Throws an Error for what is malformed. */
export class ByteReader {
  pos = 0;
  end: number;
  readonly #view: DataView;

  constructor(private readonly bytes: Uint8Array) {
    this.end = bytes.length;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** The number and wire type of a field. */
  tag(): number {
    return this.#short(0x0f);
  }

  /** The length of what follows. */
  size(): number {
    return this.#short(0x07);
  }

  /** A varint of at most five bytes, whose last is at most `last`. */
  #short(last: number): number {
    let value = 0;
    for (let shift = 0; shift < 28; shift += 7) {
      const byte = this.#byte();
      value |= (byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    const byte = this.#byte();
    if (byte > last) throw new Error('a length or field number is too large');
    return value + byte * 2 ** 28;
  }

  #byte(): number {
    if (this.pos >= this.end) throw new RangeError(RANGE);
    return this.bytes[this.pos++]!;
  }

  int32(): number {
    const value = this.int64();
    return typeof value === 'number' ? value | 0 : value.low;
  }

  int64(): Int64 {
    let byte = this.#byte();
    if (byte < 0x80) return byte;
    let low = byte & 0x7f;
    let high = 0;
    for (let shift = 7; shift < 70; shift += 7) {
      byte = this.#byte();
      const bits = byte & 0x7f;
      if (shift < 32) low |= bits << shift;
      if (shift > 25) high |= shift < 32 ? bits >> (32 - shift) : bits << (shift - 32);
      if (byte >= 0x80) continue;
      const value = high * 2 ** 32 + (low >>> 0);
      return Number.isSafeInteger(value) ? value : { low, high, unsigned: false };
    }
    throw new Error('a number has no end');
  }

  float(): number {
    return this.#view.getFloat32(this.#skip(4), true);
  }

  bytesField(): Uint8Array {
    const size = this.size();
    const start = this.#skip(size);
    return this.bytes.subarray(start, start + size);
  }

  /** Throws for what is not UTF-8. */
  string(): string {
    const content = this.bytesField();
    if (content.length > SHORT) return strict.decode(content);
    let text = '';
    for (let i = 0; i < content.length; i++) {
      if (content[i]! >= 0x80) return strict.decode(content);
      text += String.fromCharCode(content[i]!);
    }
    return text;
  }

  /** The bytes from `start` to the current position. */
  since(start: number): Uint8Array {
    return this.bytes.subarray(start, this.pos);
  }

  /** Skips the content of a field; of a group, up to its end, in at most `depth` groups. */
  skip(tag: number, depth: number): void {
    if (depth < 0) throw new Error('groups are nested too deep');
    if (tag >>> 3 === 0) throw new Error('a field has the number 0');
    switch (tag & 7) {
      case 0:
        while (this.#byte() >= 0x80);
        return;
      case 1:
        this.#skip(8);
        return;
      case 2:
        this.#skip(this.size());
        return;
      case 3:
        this.#group(tag, depth);
        return;
      case 5:
        this.#skip(4);
        return;
      default:
        throw new Error(`a field has the wire type ${tag & 7}`);
    }
  }

  #group(start: number, depth: number): void {
    for (;;) {
      const tag = this.tag();
      if (tag === start + 1) return;
      if ((tag & 7) === 4) throw new Error('a group ends that did not begin');
      this.skip(tag, depth - 1);
    }
  }

  /** Returns the position before. */
  #skip(count: number): number {
    const { pos } = this;
    if (pos + count > this.end) throw new RangeError(RANGE);
    this.pos += count;
    return pos;
  }
}

/** Writes values one after the other; each method returns the writer. */
export class ByteWriter {
  #bytes = new Uint8Array(256);
  #pos = 0;
  /** Where the contents of messages under way start. */
  readonly #starts: number[] = [];

  /** Makes room for so many bytes. */
  #room(count: number): Uint8Array {
    const needed = this.#pos + count;
    if (needed > this.#bytes.length) {
      const grown = new Uint8Array(Math.max(2 * this.#bytes.length, needed));
      grown.set(this.#bytes);
      this.#bytes = grown;
    }
    return this.#bytes;
  }

  uint32(value: number): this {
    const bytes = this.#room(5);
    let rest = value;
    for (; rest >= 0x80; rest >>>= 7) bytes[this.#pos++] = (rest & 0x7f) | 0x80;
    bytes[this.#pos++] = rest;
    return this;
  }

  int32(value: number): this {
    return value < 0 ? this.int64(value) : this.uint32(value);
  }

  /** Negative numbers take ten bytes. */
  int64(value: Int64): this {
    if (typeof value === 'number' && value >= 0 && value < 2 ** 31) return this.uint32(value);
    const bytes = this.#room(10);
    let low = (typeof value === 'number' ? value : value.low) >>> 0;
    let high = (typeof value === 'number' ? Math.floor(value / 2 ** 32) : value.high) >>> 0;
    while (high || low >= 0x80) {
      bytes[this.#pos++] = (low & 0x7f) | 0x80;
      low = ((low >>> 7) | (high << 25)) >>> 0;
      high >>>= 7;
    }
    bytes[this.#pos++] = low;
    return this;
  }

  float(value: number): this {
    const bytes = this.#room(4);
    new DataView(bytes.buffer).setFloat32(this.#pos, value, true);
    this.#pos += 4;
    return this;
  }

  double(value: number): this {
    const bytes = this.#room(8);
    new DataView(bytes.buffer).setFloat64(this.#pos, value, true);
    this.#pos += 8;
    return this;
  }

  raw(content: Uint8Array): this {
    this.#room(content.length).set(content, this.#pos);
    this.#pos += content.length;
    return this;
  }

  bytesField(content: Uint8Array): this {
    return this.uint32(content.length).raw(content);
  }

  string(text: string): this {
    this.fork();
    const bytes = this.#room(3 * text.length);
    if (text.length > SHORT || !this.#ascii(text, bytes))
      this.#pos += utf8.encodeInto(text, bytes.subarray(this.#pos)).written;
    return this.ldelim();
  }

  /** False, with nothing written, for a text with other characters. */
  #ascii(text: string, bytes: Uint8Array): boolean {
    for (let i = 0; i < text.length; i++) {
      const code = text.charCodeAt(i);
      if (code >= 0x80) return false;
      bytes[this.#pos + i] = code;
    }
    this.#pos += text.length;
    return true;
  }

  /** Begins a message, whose length is written by `ldelim`. */
  fork(): this {
    this.#room(1);
    this.#starts.push(++this.#pos);
    return this;
  }

  /** Ends the message that was begun last. */
  ldelim(): this {
    const start = this.#starts.pop()!;
    const length = this.#pos - start;
    let more = 0;
    for (let rest = length; rest >= 0x80; rest = Math.floor(rest / 128)) more++;
    // One byte was left for the length.
    if (more) this.#room(more).copyWithin(start + more, start, this.#pos);
    this.#pos = start - 1;
    this.uint32(length);
    this.#pos += length;
    return this;
  }

  finish(): Uint8Array {
    return this.#bytes.slice(0, this.#pos);
  }
}
