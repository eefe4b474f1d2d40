/**
 * FlatBuffers without a schema compiler: tables are read field by field and written from trees. Every read is checked
 * against the buffer's end and the table's (a RangeError), so that a damaged file is never taken for a sound one.
 */

/** How many times its own size a buffer may be read: what is sound is read once, but for strings that tables share. */
const READS = 16;

/** Where a vector's elements begin, and how many there are. */
type Vector = { start: number; length: number };

/** A table in a buffer, whose fields are asked for by their position in the schema. */
export class FlatTable {
  private constructor(
    private readonly view: DataView,
    private readonly at: number,
    /** What all tables of the buffer may still read: one that refers to the same vectors over and over has an end. */
    private readonly budget: { bytes: number },
  ) {}

  static root(bytes: Uint8Array): FlatTable {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    return new FlatTable(view, view.getUint32(0, true), { bytes: READS * bytes.length });
  }

  int32(field: number, otherwise = 0): number {
    const at = this.#place(field, 4);
    return at ? this.view.getInt32(at, true) : otherwise;
  }
  int64(field: number, otherwise = 0n): bigint {
    const at = this.#place(field, 8);
    return at ? this.view.getBigInt64(at, true) : otherwise;
  }
  float(field: number): number {
    const at = this.#place(field, 4);
    return at ? this.view.getFloat32(at, true) : 0;
  }
  bool(field: number): boolean {
    const at = this.#place(field, 1);
    return at ? this.view.getUint8(at) !== 0 : false;
  }
  byte(field: number): number {
    const at = this.#place(field, 1);
    return at ? this.view.getUint8(at) : 0;
  }
  string(field: number): string {
    const vector = this.#vector(field, 1);
    return vector ? this.#text(vector) : '';
  }
  strings(field: number): string[] {
    const { start = 0, length = 0 } = this.#vector(field, 4) ?? {};
    return Array.from({ length }, (_, i) => this.#text(this.#vectorAt(start + 4 * i, 1)));
  }
  table(field: number): FlatTable | undefined {
    const at = this.#place(field, 4);
    return at ? this.#tableAt(at) : undefined;
  }

  /** A vector of bytes, or a string's: a view of the buffer. */
  bytes(field: number): Uint8Array | undefined {
    const vector = this.#vector(field, 1);
    return vector && this.#bytes(vector);
  }
  int64s(field: number): number[] {
    const { start = 0, length = 0 } = this.#vector(field, 8) ?? {};
    return Array.from({ length }, (_, i) => Number(this.view.getBigInt64(start + 8 * i, true)));
  }
  tables(field: number): FlatTable[] {
    const { start = 0, length = 0 } = this.#vector(field, 4) ?? {};
    return Array.from({ length }, (_, i) => this.#tableAt(start + 4 * i));
  }

  /** Where a field of this width lies; 0 where the table does not have it. */
  #place(field: number, width: number): number {
    const vtable = this.at - this.view.getInt32(this.at, true);
    const slot = 4 + 2 * field;
    if (slot + 2 > this.view.getUint16(vtable, true)) return 0;
    const offset = this.view.getUint16(vtable + slot, true);
    if (offset + width > this.view.getUint16(vtable + 2, true))
      throw new RangeError('A field goes past the end of its table.');
    return offset && this.at + offset;
  }

  #tableAt(at: number): FlatTable {
    return new FlatTable(this.view, this.#follow(at), this.budget);
  }

  #follow(at: number): number {
    return at + this.view.getUint32(at, true);
  }

  #bytes({ start, length }: Vector): Uint8Array {
    return new Uint8Array(this.view.buffer, this.view.byteOffset + start, length);
  }

  #text(vector: Vector): string {
    const bytes = this.#bytes(vector);
    if (this.view.getUint8(vector.start + vector.length) !== 0 || bytes.includes(0))
      throw new RangeError('A string does not end where it should.');
    try {
      return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
    } catch {
      throw new RangeError('A string is not valid UTF-8.');
    }
  }

  #vector(field: number, width: number): Vector | undefined {
    const at = this.#place(field, 4);
    return at ? this.#vectorAt(at, width) : undefined;
  }

  #vectorAt(at: number, width: number): Vector {
    const start = this.#follow(at) + 4;
    const length = this.view.getUint32(start - 4, true);
    if (start + length * width > this.view.byteLength) throw new RangeError('A vector goes past the end.');
    this.budget.bytes -= length * width;
    if (this.budget.bytes < 0) throw new RangeError('Vectors are read too often.');
    return { start, length };
  }
}

/** What a field of a table may hold; `undefined` leaves it out. */
export type FlatField =
  | { int32: number }
  | { int64: bigint }
  | { float: number }
  | { bool: boolean }
  | FlatNode;
type FlatNode =
  | { table: readonly (FlatField | undefined)[] }
  | { tables: readonly { table: readonly (FlatField | undefined)[] }[] }
  | { string: string }
  | { bytes: Uint8Array }
  | { int64s: readonly number[] };

/** A buffer with this table as its root, and the four characters that tell what it is. */
export function encodeFlatbuffer(
  root: { table: readonly (FlatField | undefined)[] },
  identifier: string,
): Uint8Array {
  const writer = new Writer();
  const at = writer.reserve(8, 8);
  writer.text(at + 4, identifier);
  writer.link(at, root);
  return writer.finish();
}

/** Parents come before their children: offsets point forward, and are filled in when the child is written. */
class Writer {
  #bytes = new Uint8Array(1 << 16);
  #view = new DataView(this.#bytes.buffer);
  #length = 0;

  finish(): Uint8Array {
    return this.#bytes.slice(0, this.#length);
  }

  /** Room of `size` bytes at a multiple of `alignment`, plus `ahead`. */
  reserve(size: number, alignment: number, ahead = 0): number {
    const at = Math.ceil((this.#length + ahead) / alignment) * alignment - ahead;
    this.#length = at + size;
    if (this.#length > this.#bytes.length) {
      const larger = new Uint8Array(2 * this.#length);
      larger.set(this.#bytes);
      this.#bytes = larger;
      this.#view = new DataView(larger.buffer);
    }
    return at;
  }

  text(at: number, text: string): void {
    this.#bytes.set(new TextEncoder().encode(text), at);
  }

  /** Writes the node, and its offset at `from`. */
  link(from: number, node: FlatNode): void {
    const at = this.#node(node);
    this.#view.setUint32(from, at - from, true);
  }

  #node(node: FlatNode): number {
    if ('table' in node) return this.#table(node.table);
    if ('tables' in node) {
      const at = this.#vector(node.tables.length, 4);
      node.tables.forEach((table, i) => {
        this.link(at + 4 + 4 * i, table);
      });
      return at;
    }
    if ('int64s' in node) {
      const at = this.#vector(node.int64s.length, 8);
      node.int64s.forEach((value, i) => {
        this.#view.setBigInt64(at + 4 + 8 * i, BigInt(value), true);
      });
      return at;
    }
    const bytes = 'bytes' in node ? node.bytes : new TextEncoder().encode(node.string);
    // At multiples of eight, so that tensors can be used where they lie; strings end with a zero.
    const at = this.#vector(bytes.length, 1, 8);
    this.#bytes.set(bytes, at + 4);
    return at;
  }

  /** Room for the length and the elements, which begin at a multiple of `alignment`, and a zero. */
  #vector(length: number, width: number, alignment = width): number {
    const at = this.reserve(4 + length * width + 1, alignment, 4);
    this.#view.setUint32(at, length, true);
    return at;
  }

  /** The vtable, then the table: its fields in order, each at a multiple of its size. */
  #table(fields: readonly (FlatField | undefined)[]): number {
    const vtable = this.reserve(4 + 2 * fields.length, 8);
    let size = 4;
    const offsets = fields.map(field => {
      if (!field) return 0;
      const width = 'int64' in field ? 8 : 'bool' in field ? 1 : 4;
      const offset = Math.ceil(size / width) * width;
      size = offset + width;
      return offset;
    });
    const at = this.reserve(size, 8);
    this.#view.setUint16(vtable, 4 + 2 * fields.length, true);
    this.#view.setUint16(vtable + 2, size, true);
    this.#view.setInt32(at, at - vtable, true);
    offsets.forEach((offset, i) => {
      this.#view.setUint16(vtable + 4 + 2 * i, offset, true);
    });
    fields.forEach((field, i) => {
      if (field) this.#field(at + offsets[i]!, field);
    });
    return at;
  }

  #field(at: number, field: FlatField): void {
    if ('int32' in field) this.#view.setInt32(at, field.int32, true);
    else if ('int64' in field) this.#view.setBigInt64(at, field.int64, true);
    else if ('float' in field) this.#view.setFloat32(at, field.float, true);
    else if ('bool' in field) this.#view.setUint8(at, field.bool ? 1 : 0);
    else this.link(at, field);
  }
}
