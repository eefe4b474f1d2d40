/** Reads protobuf's wire format (protobuf.dev/programming-guides/encoding). Errors say what is wrong with the bytes. */

/** protoc's limit of nesting. */
export const DEPTH = 100;

const strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** Texts of up to so many bytes are looked at one by one: a call of the decoder takes longer. */
const SHORT = 64;

export class WireReader {
  pos = 0;
  /** Where the message ends that is being read. */
  len: number;
  /** The last varint of 64 bits, in halves. */
  low = 0;
  high = 0;
  readonly #view: DataView;

  constructor(readonly buf: Uint8Array) {
    this.len = buf.length;
    this.#view = new DataView(buf.buffer, buf.byteOffset, buf.length);
  }

  #byte(): number {
    if (this.pos >= this.len) throw new RangeError('index out of range');
    return this.buf[this.pos++]!;
  }

  /** The next `length` bytes are read: where they start. */
  #take(length: number): number {
    const start = this.pos;
    if (length > this.len - start) throw new RangeError('index out of range');
    this.pos = start + length;
    return start;
  }

  /** A varint, as `low` and `high`. */
  long(): void {
    this.low = 0;
    this.high = 0;
    for (let shift = 0; shift < 70; shift += 7) {
      const byte = this.#byte();
      const bits = byte & 0x7f;
      if (shift < 28) this.low |= bits << shift;
      else if (shift === 28) {
        this.low |= bits << 28;
        this.high = bits >>> 4;
      } else if (shift < 63) this.high |= bits << (shift - 32);
      else this.high |= bits << 31;
      if (byte < 0x80) return;
    }
    throw new Error('invalid varint encoding');
  }

  int32(): number {
    const { buf, pos } = this;
    if (pos < this.len && buf[pos]! < 0x80) {
      this.pos++;
      return buf[pos]!;
    }
    this.long();
    return this.low;
  }

  /** A number where that is exact. */
  int64(): number | { low: number; high: number; unsigned: boolean } {
    const { buf, pos } = this;
    if (pos < this.len && buf[pos]! < 0x80) {
      this.pos++;
      return buf[pos]!;
    }
    this.long();
    const { low, high } = this;
    const value = high * 2 ** 32 + (low >>> 0);
    return Number.isSafeInteger(value) ? value : { low, high, unsigned: false };
  }

  float(): number {
    return this.#view.getFloat32(this.#take(4), true);
  }

  tag(): number {
    const tag = this.int32() >>> 0;
    if (tag < 8) throw new Error('illegal tag: field number 0');
    return tag;
  }

  /** The length of what follows, all of which is there. */
  size(): number {
    const size = this.int32() >>> 0;
    if (size > this.len - this.pos) throw new RangeError('index out of range');
    return size;
  }

  /** A view. */
  bytes(): Uint8Array {
    const size = this.size();
    const start = this.#take(size);
    return this.buf.subarray(start, start + size);
  }

  string(): string {
    const { buf } = this;
    const bytes = this.bytes();
    if (bytes.length > SHORT) return strict.decode(bytes);
    for (let i = this.pos - bytes.length; i < this.pos; i++) if (buf[i]! > 0x7f) return strict.decode(bytes);
    return String.fromCharCode.apply(null, bytes as unknown as number[]);
  }

  /** Calls `read` for each of the numbers that one field holds. */
  packed(read: () => void): void {
    const end = this.size() + this.pos;
    while (this.pos < end) read();
    if (this.pos !== end) throw new RangeError('index out of range');
  }

  /** Skips a field's content. */
  skip(wireType: number, field: number, depth: number): void {
    if (depth > DEPTH) throw new Error('max depth exceeded');
    switch (wireType) {
      case 0:
        this.long();
        return;
      case 1:
        this.#take(8);
        return;
      case 2:
        this.#take(this.size());
        return;
      case 3: {
        let tag = this.tag();
        for (; (tag & 7) !== 4; tag = this.tag()) this.skip(tag & 7, tag >>> 3, depth + 1);
        if (tag >>> 3 !== field) throw new Error('invalid end group tag');
        return;
      }
      case 5:
        this.#take(4);
        return;
      default:
        throw new Error(`invalid wire type ${wireType} of field ${field}`);
    }
  }
}
