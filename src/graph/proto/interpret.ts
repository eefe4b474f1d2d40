/**
 * Reads and writes messages by a table of their fields. Nothing is compiled at run time, which pages under a strict
 * content security policy forbid.
 */
import protobuf from 'protobufjs/minimal.js';

/** Messages by name: the fields of each, with their types (`float`, `int64[]`, `NodeProto` ...) and numbers. */
export type Schema = Readonly<Record<string, Readonly<Record<string, readonly [type: string, id: number]>>>>;

type Tree = { [field: string]: unknown; $unknowns?: Uint8Array[] };

/** protoc's limit of nesting. */
const DEPTH = 100;

/** Bytes of a message above which what it was written to is not kept. */
const KEPT = 2 ** 20;

/** Wire types. */
const BYTES = 2;
const SCALARS = { float: 5, int32: 0, int64: 0, string: BYTES, bytes: BYTES } as const;
type Scalar = keyof typeof SCALARS;

/** `scalar` or `message` is set. */
type Field = {
  name: string;
  /** Number and wire type. */
  tag: number;
  wireType: number;
  isRepeated: boolean;
  /** Lists of numbers may come as one field. */
  isPackable: boolean;
  scalar: Scalar | undefined;
  message: MessageType | undefined;
};

/** A message type: its fields in the order of their numbers, and by number. */
class MessageType {
  readonly fields: Field[] = [];
  readonly byId: (Field | undefined)[] = [];
  /** Of each type its own, so that its messages share their layout in memory. */
  readonly Shape = class {} as new () => Tree;
}

/** Reads and writes the messages of `schema`. */
export class Interpreter {
  readonly #types = new Map<string, MessageType>();
  /** Of the message before: a new one would grow from a few bytes again, by a copy at a time. */
  #writer: protobuf.Writer | undefined;

  constructor(schema: Schema) {
    for (const name of Object.keys(schema)) this.#types.set(name, new MessageType());
    for (const [name, { fields, byId }] of this.#types) {
      for (const [field, [kind, id]] of Object.entries(schema[name]!)) {
        const element = kind.replace('[]', '');
        const isRepeated = kind !== element;
        const message = this.#types.get(element);
        const scalar = message ? undefined : (element as Scalar);
        const wireType = scalar ? SCALARS[scalar] : BYTES;
        const tag = (id << 3) | wireType;
        const isPackable = isRepeated && wireType !== BYTES;
        byId[id] = { name: field, tag, wireType, isRepeated, isPackable, scalar, message };
      }
      fields.push(...byId.flatMap(field => field ?? []));
    }
  }

  /** The message of this type; what the schema does not know is in `$unknowns`, tags included. Bytes are views. */
  read(name: string, bytes: Uint8Array): object {
    // A Buffer's own slice() would not copy, so views must be of the plain kind.
    const reader = new protobuf.Reader(new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength));
    return new MessageReader(reader).message(this.#types.get(name)!, reader.len);
  }

  write(name: string, message: object): Uint8Array {
    const writer = this.#writer?.reset() ?? protobuf.Writer.create();
    this.#writer = undefined;
    new MessageWriter(writer).message(this.#types.get(name)!, message as Tree);
    const bytes = writer.finish();
    if (bytes.length < KEPT) this.#writer = writer;
    return bytes;
  }
}

class MessageReader {
  #depth = 0;
  constructor(private readonly reader: protobuf.Reader) {}

  /** The message that ends at `end`, or its fields added to `into`. */
  message(type: MessageType, end: number, into: Tree = new type.Shape()): Tree {
    const { reader } = this;
    const limit = reader.len;
    if (this.#depth > DEPTH) throw new Error('max depth exceeded');
    if (end > limit) throw new RangeError('index out of range');
    reader.len = end;
    while (reader.pos < end) {
      const start = reader.pos;
      const tag = reader.tag();
      const field = type.byId[tag >>> 3];
      if (field?.wireType === (tag & 7)) {
        if (!field.isRepeated) into[field.name] = this.#value(field, into[field.name]);
        else if (into[field.name]) (into[field.name] as unknown[]).push(this.#value(field));
        else into[field.name] = [this.#value(field)];
      } else if (field?.isPackable && (tag & 7) === BYTES) {
        into[field.name] ??= [];
        this.#packed(field, into[field.name] as number[]);
      } else {
        reader.skipType(tag & 7, this.#depth, tag >>> 3);
        keepUnknown(into, reader.raw(start, reader.pos));
      }
    }
    if (reader.pos !== end) throw new RangeError('index out of range');
    reader.len = limit;
    return into;
  }

  /** A message that comes a second time is merged into the first, `before`. */
  #value({ scalar, message }: Field, before?: unknown): unknown {
    const { reader } = this;
    switch (scalar) {
      case 'string':
        return reader.stringVerify();
      case 'bytes':
        return reader.bytes();
      case 'int64':
        return isOneByte(reader) ? reader.buf[reader.pos++] : reader.int64();
      case 'int32':
        return reader.int32();
      case 'float':
        return reader.float();
    }
    const end = reader.size() + reader.pos;
    this.#depth++;
    const content = this.message(message!, end, before as Tree | undefined);
    this.#depth--;
    return content;
  }

  #packed({ scalar }: Field, list: number[]): void {
    if (scalar === 'float') this.reader.floats(list);
    else if (scalar === 'int64') this.reader.int64s(list as never);
    else this.reader.int32s(list);
  }
}

/** Most integers are so small; protobufjs makes two objects of each. */
const isOneByte = ({ buf, pos, len }: protobuf.Reader) => pos < len && buf[pos]! < 0x80;

/** Not enumerable, so that a message's keys are its fields. */
function keepUnknown(message: Tree, bytes: Uint8Array): void {
  if (message.$unknowns) message.$unknowns.push(bytes);
  else Object.defineProperty(message, '$unknowns', { value: [bytes], writable: true, configurable: true });
}

const isSmall = (value: unknown) => typeof value === 'number' && value >= 0 && value < 2 ** 31;

class MessageWriter {
  #depth = 0;
  constructor(private readonly writer: protobuf.Writer) {}

  message(type: MessageType, message: Tree): void {
    if (this.#depth > DEPTH) throw new Error('max depth exceeded');
    const { fields } = type;
    // By index: an iterator makes an object for each field, most of which are not set.
    for (let i = 0; i < fields.length; i++) {
      const field = fields[i]!;
      const value = message[field.name];
      if (value === undefined || value === null) continue;
      if (!field.isRepeated) this.#field(field, value);
      else this.#list(field, value as unknown[]);
    }
    message.$unknowns?.forEach(bytes => {
      this.writer.raw(bytes);
    });
  }

  #list(field: Field, values: readonly unknown[]): void {
    for (let i = 0; i < values.length; i++) this.#field(field, values[i]);
  }

  #field({ tag, scalar, message }: Field, value: unknown): void {
    const { writer } = this;
    writer.uint32(tag);
    if (scalar) {
      PUT[scalar](writer, value as never);
      return;
    }
    // A message that is encoded already.
    if (ArrayBuffer.isView(value)) {
      writer.bytes(value as Uint8Array);
      return;
    }
    this.#depth++;
    writer.fork();
    this.message(message!, value as Tree);
    writer.ldelim();
    this.#depth--;
  }
}

/** Functions of their own, which an engine need not optimize again for each kind of field that comes up. */
const PUT: Record<Scalar, (writer: protobuf.Writer, value: never) => void> = {
  string: (writer, value) => writer.string(value),
  bytes: (writer, value) => writer.bytes(value),
  // protobufjs makes two objects of each.
  int64: (writer, value) => (isSmall(value) ? writer.uint32(value) : writer.int64(value)),
  int32: (writer, value) => writer.int32(value),
  float: (writer, value) => writer.float(value),
};
