/** Arrow files (Feather, version 2) and streams, one block per record batch. */
import type { Column, DataType } from '@uwdata/flechette';
import { characters } from '../../../graph/bytes.js';
import { AgdError } from '../../../graph/errors.js';
import type { Block, Field, FieldKind, Source, Values } from '../source.js';
import type { DataFile } from './file.js';
import { checkCount, valuesOf } from './kinds.js';

const HEADS = { schema: 1, dictionary: 2, records: 3 };
const CONTINUATION = -1;

type Message = { start: number; end: number; head: number; rows: number };

/** Throws `bad-data`, `io`. */
export async function arrowSource(file: DataFile): Promise<Source> {
  const { tableFromIPC, setCompressionCodec } = await import('@uwdata/flechette');
  await addCodecs(setCompressionCodec);
  const messages = await findMessages(file);
  const schema = messages.find(({ head }) => head === HEADS.schema);
  const batches = messages.filter(({ head, rows }) => head === HEADS.records && rows > 0);
  if (!schema) throw new AgdError('bad-data', `${file.path} cannot be read as Arrow: it has no schema.`);
  if (!batches.length) throw new AgdError('bad-data', `${file.path} has no rows.`);
  const bytesOf = ({ start, end }: Message) => file.read(start, end);
  const tableOf = async (batch?: Message) => {
    const before = messages.filter(m => m.head === HEADS.dictionary && (!batch || m.start < batch.start));
    const parts = await Promise.all([schema, ...(batch ? [...before, batch] : [])].map(bytesOf));
    try {
      // Views need addresses that their elements can start at.
      return tableFromIPC(
        parts.map(part => new Uint8Array(part)),
        { useDate: false, useBigInt: false, useProxy: false },
      );
    } catch (error) {
      throw new AgdError('bad-data', `${file.path} cannot be read as Arrow: ${(error as Error).message}.`);
    }
  };
  const { schema: described } = await tableOf();
  const fields = described.fields.flatMap(({ name, type }): Field[] => {
    const kind = kindOf(type);
    return kind ? [{ name, kind }] : [];
  });
  const before = [0];
  for (const { rows } of batches) before.push(before.at(-1)! + rows);
  return {
    name: file.path,
    fields,
    blocks: batches.map(({ rows }) => rows),
    async read(block, wanted): Promise<Block> {
      const table = await tableOf(batches[block]!);
      const values = new Map<string, Values>();
      for (const field of fields)
        if (!wanted || wanted.includes(field.name)) {
          const column = table.getChild(field.name) as Column<unknown>;
          const list = valuesIn(column);
          checkCount(list, batches[block]!.rows, file.path, field.name);
          values.set(field.name, valuesOf(field, list, file.path, before[block]! + 1));
        }
      return { rows: batches[block]!.rows, values };
    },
    close: () => file.close(),
  };
}

/** As a typed array where that is what it is. */
function valuesIn(column: Column<unknown>): ArrayLike<unknown> {
  const values = column.toArray() as ArrayLike<unknown>;
  if (!ArrayBuffer.isView(values)) return values;
  return values instanceof Float64Array || values instanceof Float32Array || values instanceof Int32Array
    ? values
    : Float64Array.from(values as unknown as ArrayLike<number | bigint>, Number);
}

/** The messages of a file or a stream, which lie one after the other (the footer of a file repeats where). */
async function findMessages(file: DataFile): Promise<Message[]> {
  const { FlatTable } = await import('../flatbuffer.js');
  const damaged = (what: string) =>
    new AgdError('bad-data', `${file.path} cannot be read as Arrow: ${what}.`);
  const magic = await file.read(0, 8);
  let at = characters(magic).startsWith('ARROW1') ? 8 : 0;
  const messages: Message[] = [];
  try {
    while (at + 4 <= file.size) {
      const prefix = new DataView((await file.read(at, at + 8)).buffer);
      const hasMark = prefix.getInt32(0, true) === CONTINUATION;
      const length = prefix.getInt32(hasMark ? 4 : 0, true);
      if (length <= 0) break;
      const from = at + (hasMark ? 8 : 4);
      const bytes = await file.read(from, from + length);
      if (bytes.length < length) throw damaged('the file is truncated');
      const message = FlatTable.root(bytes);
      const head = message.byte(1);
      const end = from + length + Number(message.int64(3));
      // Its length is signed: read back into the file, the loop would not end.
      if (end < from + length) throw damaged('a message has a negative length');
      if (end > file.size) throw damaged('the file is truncated');
      const rows = head === HEADS.records ? Number(message.table(2)?.int64(0) ?? 0n) : 0;
      messages.push({ start: at, end, head, rows });
      at = end;
    }
  } catch (error) {
    if (error instanceof RangeError) throw damaged(error.message.replace(/\.$/, ''));
    throw error;
  }
  return messages;
}

/** Arrow compresses the buffers of a batch with LZ4 frames or Zstandard. */
async function addCodecs(set: typeof import('@uwdata/flechette').setCompressionCodec): Promise<void> {
  const { compressors } = await import('hyparquet-compressors');
  const never = () => {
    throw new AgdError('unsupported-type', 'Arrow files are not written.');
  };
  const [lz4, zstd] = [0, 1] as const;
  set(zstd, {
    encode: never,
    decode: (bytes: Uint8Array, size = 0) => compressors.ZSTD!(bytes, size).slice(),
  });
  set(lz4, {
    encode: never,
    decode: (bytes: Uint8Array, size = 0) => decodeLz4Frame(bytes, size, compressors.LZ4_RAW!),
  });
}

/** An LZ4 frame: header, blocks of at most 4 MB with their sizes, an empty one at the end. Format: lz4_Frame_format.md. */
export function decodeLz4Frame(
  bytes: Uint8Array,
  size: number,
  decodeBlock: (bytes: Uint8Array, size: number) => Uint8Array,
): Uint8Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  if (view.getUint32(0, true) !== 0x184d2204) throw new RangeError('an LZ4 buffer does not begin as one');
  const flags = bytes[4]!;
  const [independent, checksum, hasSize, dictionary] = [0x20, 0x10, 0x08, 0x01].map(
    bit => (flags & bit) !== 0,
  );
  if (dictionary) throw new RangeError('LZ4 with a dictionary cannot be read');
  const largest = 2 ** (8 + 2 * ((bytes[5]! >> 4) & 7));
  let at = 7 + (hasSize ? 8 : 0);
  const out = new Uint8Array(size);
  let to = 0;
  for (;;) {
    const length = view.getUint32(at, true);
    at += 4;
    if (length === 0) return out;
    const [stored, n] = [length >= 2 ** 31, length & 0x7fffffff];
    const block = bytes.subarray(at, at + n);
    at += n + (checksum ? 4 : 0);
    if (!stored && !independent && to > 0) throw new RangeError('LZ4 with dependent blocks cannot be read');
    const part = stored ? block : decodeBlock(block, Math.min(largest, size - to));
    out.set(part, to);
    to += part.length;
  }
}

function kindOf(type: DataType): FieldKind | undefined {
  const { typeId } = type;
  switch (typeId) {
    case 2:
      return 'integer';
    case 3:
    case 7:
      return 'number';
    case 6:
      return 'bool';
    case 8:
    case 10:
      return 'date';
    case 5:
    case 20:
    case 24:
      return 'text';
    case 4:
    case 15:
    case 19:
    case 23:
      return 'image';
    case 12:
    case 16:
    case 21:
    case 25:
    case 26:
      return 'list';
    case -1:
      return kindOf((type as { dictionary: DataType }).dictionary);
    default:
      return undefined;
  }
}
