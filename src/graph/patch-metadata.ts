/** Sets a metadata entry of a model file and leaves all other bytes unchanged. */
import { concatBytes, fromUtf8, toUtf8 } from './bytes.js';
import { BYTES, wireFields } from './wire.js';

/** ModelProto.metadata_props; StringStringEntryProto.key and .value. */
const METADATA = 14;
const KEY = 1;
const VALUE = 2;

/** The model file with this entry, which replaces one with the same key. Without a value, the entry is removed. */
export function withEntry(bytes: Uint8Array, key: string, value: string | undefined): Uint8Array {
  const kept: Uint8Array[] = [];
  let from = 0;
  for (const field of wireFields(bytes)) {
    if (field.id !== METADATA || field.type !== BYTES || keyOf(bytes, field) !== key) continue;
    kept.push(bytes.subarray(from, field.start));
    from = field.end;
  }
  kept.push(bytes.subarray(from));
  if (value === undefined) return kept.length === 1 ? bytes : concatBytes(kept);
  const entry = concatBytes([field(KEY, toUtf8(key)), field(VALUE, toUtf8(value))]);
  return concatBytes([...kept, field(METADATA, entry)]);
}

function keyOf(bytes: Uint8Array, { from, end }: { from: number; end: number }): string | undefined {
  let key: string | undefined;
  for (const { id, from: start, end: stop } of wireFields(bytes, from, end))
    if (id === KEY) key = fromUtf8(bytes.subarray(start, stop));
  return key;
}

function field(id: number, content: Uint8Array): Uint8Array {
  return concatBytes([varint(id * 8 + BYTES), varint(content.length), content]);
}

function varint(value: number): Uint8Array {
  const out: number[] = [];
  for (; value >= 0x80; value = Math.floor(value / 0x80)) out.push((value % 0x80) | 0x80);
  return Uint8Array.of(...out, value);
}
