import type { FileMetaData, ParquetParsers, SchemaTree } from 'hyparquet';
import { AgdError } from '../../../graph/errors.js';
import type { Block, Field, FieldKind, Source, Values } from '../source.js';
import type { DataFile } from './file.js';
import { checkCount, valuesOf } from './kinds.js';

/** Dates as milliseconds, without objects; what is not UTF-8 stays bytes. */
const PARSERS: Partial<ParquetParsers> = {
  timestampFromMilliseconds: Number,
  timestampFromMicroseconds: micros => Number(micros) / 1000,
  timestampFromNanoseconds: nanos => Number(nanos) / 1e6,
  dateFromDays: days => days * 86_400_000,
};

/** A Parquet file, one block per row group; columns that are not asked for are not read. Throws `bad-data`, `io`. */
export async function parquetSource(file: DataFile): Promise<Source> {
  const { parquetMetadataAsync, parquetSchema, parquetRead } = await import('hyparquet');
  const { compressors } = await import('hyparquet-compressors');
  const damaged = (error: unknown) =>
    error instanceof AgdError
      ? error
      : new AgdError('bad-data', `${file.path} cannot be read as Parquet: ${(error as Error).message}.`);
  const buffer = {
    byteLength: file.size,
    async slice(start: number, end = file.size) {
      // Unlike read, slice counts from the end where it is told a number below 0.
      const from = start < 0 ? file.size + start : start;
      const bytes = await file.read(from, end);
      return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length) as ArrayBuffer;
    },
  };
  let metadata: FileMetaData;
  let fields: (Field & { isBytes?: boolean })[];
  try {
    metadata = await parquetMetadataAsync(buffer, { geoparquet: false });
    fields = parquetSchema(metadata).children.flatMap(fieldOf);
  } catch (error) {
    throw damaged(error);
  }
  const groups = metadata.row_groups.filter(group => group.num_rows > 0);
  const blocks = groups.map(group => Number(group.num_rows));
  if (!blocks.length) throw new AgdError('bad-data', `${file.path} has no rows.`);
  const starts = [0];
  for (const rows of blocks) starts.push(starts.at(-1)! + rows);
  return {
    name: file.path,
    fields: fields.map(({ name, kind, dtype }) => ({ name, kind, ...(dtype ? { dtype } : {}) })),
    blocks,
    async read(block, wanted): Promise<Block> {
      const asked = fields.filter(({ name }) => !wanted || wanted.includes(name));
      const [rowStart, rowEnd] = [starts[block]!, starts[block + 1]!];
      const parts = new Map<string, ArrayLike<unknown>[]>();
      try {
        // Bytes that are an image are not to become text.
        for (const utf8 of [true, false]) {
          const columns = asked.filter(f => !f.isBytes === utf8).map(f => f.name);
          if (!columns.length) continue;
          await parquetRead({
            ...{ file: buffer, metadata, columns, rowStart, rowEnd, compressors, utf8, geoparquet: false },
            parsers: PARSERS,
            onChunk: ({ columnName, columnData }) => {
              parts.set(columnName, [...(parts.get(columnName) ?? []), columnData]);
            },
          });
        }
      } catch (error) {
        throw damaged(error);
      }
      const values = new Map<string, Values>();
      for (const field of asked) {
        const found = parts.get(field.name) ?? [];
        const column = found.length === 1 ? found[0]! : found.flatMap(part => Array.from(part));
        checkCount(column, rowEnd - rowStart, file.path, field.name);
        const rows = field.kind === 'image' ? Array.from(column, imageOf) : column;
        values.set(field.name, valuesOf(field, rows, file.path, rowStart + 1));
      }
      return { rows: rowEnd - rowStart, values };
    },
    close: () => file.close(),
  };
}

/** An image is its bytes, or a record of bytes and path, as in data sets of Hugging Face. */
function imageOf(value: unknown): unknown {
  if (typeof value !== 'object' || value === null || value instanceof Uint8Array) return value;
  const { bytes, path } = value as { bytes?: unknown; path?: unknown };
  return bytes ?? path ?? null;
}

/** The field of a column at the top of the schema; none where it is of a kind that feeds nothing, as a map. */
function fieldOf({ element, children }: SchemaTree): (Field & { isBytes?: boolean })[] {
  const { name, converted_type: converted, logical_type: logical, repetition_type: repetition } = element;
  if (children.length) {
    const names = children.map(child => child.element.name);
    if (converted === 'LIST' || logical?.type === 'LIST') {
      const item = children[0]?.children[0] ?? children[0];
      return item && !item.children.length ? [{ name, kind: 'list' }] : [];
    }
    const isImage = names.includes('bytes') && names.every(child => child === 'bytes' || child === 'path');
    return isImage ? [{ name, kind: 'image', isBytes: true }] : [];
  }
  if (repetition === 'REPEATED') return [{ name, kind: 'list' }];
  const kind = kindOf(element.type, converted, logical?.type);
  return [{ name, kind, ...(kind === 'image' ? { isBytes: true } : {}) }];
}

function kindOf(type?: string, converted?: string, logical?: string): FieldKind {
  if (converted === 'DECIMAL' || logical === 'DECIMAL' || logical === 'FLOAT16') return 'number';
  if (logical === 'TIMESTAMP' || logical === 'DATE' || type === 'INT96') return 'date';
  if (converted === 'DATE' || converted?.startsWith('TIMESTAMP')) return 'date';
  switch (type) {
    case 'BOOLEAN':
      return 'bool';
    case 'INT32':
    case 'INT64':
      return 'integer';
    case 'FLOAT':
    case 'DOUBLE':
      return 'number';
    default: {
      const isText =
        ['UTF8', 'ENUM', 'JSON'].includes(converted ?? '') ||
        ['STRING', 'ENUM', 'JSON', 'UUID'].includes(logical ?? '');
      return isText ? 'text' : 'image';
    }
  }
}
