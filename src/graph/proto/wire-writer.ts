/** Writes protobuf's wire format (protobuf.dev/programming-guides/encoding). */
const encoder = new TextEncoder();

type Long = number | { readonly low: number; readonly high: number };

/** The bytes of a varint below 2^32. */
const lengthOf = (value: number) =>
  value < 0x80 ? 1 : value < 0x4000 ? 2 : value < 0x20_0000 ? 3 : value < 0x1000_0000 ? 4 : 5;

export class WireWriter {
  #bytes = new Uint8Array(256);
  #view = new DataView(this.#bytes.buffer);
  #at = 0;
  /** Where the messages begin that are being written. */
  readonly #open: number[] = [];

  /** Room for `count` more bytes: where they start. */
  #room(count: number): number {
    const start = this.#at;
    this.#at += count;
    if (this.#at > this.#bytes.length) {
      const more = new Uint8Array(Math.max(2 * this.#bytes.length, this.#at));
      more.set(this.#bytes.subarray(0, start));
      this.#bytes = more;
      this.#view = new DataView(more.buffer);
    }
    return start;
  }

  #varint(value: number, at: number): void {
    let [rest, to] = [value, at];
    for (; rest > 0x7f; rest >>>= 7) this.#bytes[to++] = (rest & 0x7f) | 0x80;
    this.#bytes[to] = rest;
  }

  uint32(value: number): this {
    this.#varint(value, this.#room(lengthOf(value)));
    return this;
  }

  /** Negative ones take ten bytes. */
  int32(value: number): this {
    return value >= 0 ? this.uint32(value) : this.int64({ low: value, high: -1 });
  }

  /** Unsigned ones too, in halves. */
  int64(value: Long): this {
    const isNumber = typeof value === 'number';
    if (isNumber && value >= 0 && value < 2 ** 32) return this.uint32(value);
    let low = (isNumber ? value : value.low) >>> 0;
    let high = (isNumber ? Math.floor(value / 2 ** 32) : value.high) >>> 0;
    while (high || low > 0x7f) {
      this.#bytes[this.#room(1)] = (low & 0x7f) | 0x80;
      low = ((low >>> 7) | (high << 25)) >>> 0;
      high >>>= 7;
    }
    this.#bytes[this.#room(1)] = low;
    return this;
  }

  float(value: number): this {
    const at = this.#room(4);
    this.#view.setFloat32(at, value, true);
    return this;
  }

  double(value: number): this {
    const at = this.#room(8);
    this.#view.setFloat64(at, value, true);
    return this;
  }

  bytes(value: Uint8Array): this {
    return this.uint32(value.length).raw(value);
  }

  string(value: string): this {
    return this.bytes(encoder.encode(value));
  }

  /** Bytes as they are. */
  raw(value: Uint8Array): this {
    const at = this.#room(value.length);
    this.#bytes.set(value, at);
    return this;
  }

  /** Begins a message, whose length comes before it. */
  fork(): this {
    this.#open.push(this.#room(1));
    return this;
  }

  /** Ends the message. */
  ldelim(): this {
    const start = this.#open.pop()!;
    const length = this.#at - start - 1;
    const more = lengthOf(length) - 1;
    if (more) {
      const end = this.#room(more);
      this.#bytes.copyWithin(start + 1 + more, start + 1, end);
    }
    this.#varint(length, start);
    return this;
  }

  finish(): Uint8Array {
    return this.#bytes.slice(0, this.#at);
  }
}
