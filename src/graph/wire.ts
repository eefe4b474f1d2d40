/** Protobuf's wire format: finds and edits fields by number, without decoding the whole file. */
import { AgdError } from './errors.js';

/**
 * A field: its tag starts at `start`, and its content (for messages and bytes, without the length) is at `from` to
 * `end`.
 */
export type WireField = { id: number; type: number; start: number; from: number; end: number };

export const VARINT = 0;
export const FIXED64 = 1;
export const BYTES = 2;
export const FIXED32 = 5;

/** The field at the start of `head`, and its total length; `head` need not contain all of it. */
export function fieldAt(head: Uint8Array): { id: number; length: number } | undefined {
  try {
    const tag = readVarint(head, 0, head.length);
    const [id, type] = [Math.floor(tag / 8), tag % 8];
    if (type === FIXED64 || type === FIXED32) return { id, length: next + (type === FIXED64 ? 8 : 4) };
    if (type !== VARINT && type !== BYTES) return undefined;
    const value = readVarint(head, next, head.length);
    return { id, length: type === VARINT ? next : next + value };
  } catch {
    return undefined;
  }
}

/** The fields of the message at `from` to `end`, in order. Throws `not-onnx` if the bytes are not a message. */
export function wireFields(bytes: Uint8Array, from = 0, end = bytes.length): WireField[] {
  const fields: WireField[] = [];
  for (let at = from; at < end; ) {
    const field = wireField(bytes, at, end);
    fields.push(field);
    at = field.end;
  }
  return fields;
}

/** The field at `start` of a message that ends at `end`. Throws as `wireFields` does. */
export function wireField(bytes: Uint8Array, start: number, end: number): WireField {
  const tag = readVarint(bytes, start, end);
  const type = tag % 8;
  const to = endOf(bytes, type, end);
  return { id: Math.floor(tag / 8), type, start, from: next, end: to };
}

/** Whether a message has a field of this number. */
export function hasField(bytes: Uint8Array, { from, end }: WireField, id: number): boolean {
  for (let at = from; at < end; ) {
    const tag = readVarint(bytes, at, end);
    if (Math.floor(tag / 8) === id) return true;
    at = endOf(bytes, tag % 8, end);
  }
  return false;
}

/** The end of the field whose tag was read last. `next` is where its content begins. */
function endOf(bytes: Uint8Array, type: number, end: number): number {
  const from = next;
  let to = from;
  if (type === VARINT || type === BYTES) {
    const value = readVarint(bytes, from, end);
    to = type === BYTES ? next + value : next;
    if (type === VARINT) next = from;
  } else if (type === FIXED64) to = from + 8;
  else if (type === FIXED32) to = from + 4;
  else throw damaged();
  if (to > end) throw damaged();
  return to;
}

/** Where the last varint ended: an object for each would take longer than reading it. */
let next = 0;

function readVarint(bytes: Uint8Array, from: number, end: number): number {
  let value = 0;
  let factor = 1;
  for (let at = from; at < end && at < from + 10; at++) {
    const byte = bytes[at]!;
    value += (byte & 0x7f) * factor;
    if (byte < 0x80) {
      next = at + 1;
      return value;
    }
    factor *= 128;
  }
  throw damaged();
}

const damaged = () => new AgdError('not-onnx', 'Not an ONNX file, or damaged: a field has no end.');

export function varint(value: number): Uint8Array {
  const bytes: number[] = [];
  let rest = value;
  for (; rest >= 0x80; rest = Math.floor(rest / 128)) bytes.push((rest % 128) | 0x80);
  bytes.push(rest);
  return Uint8Array.from(bytes);
}

/** Encodes a field that is a message or bytes. */
export function bytesField(id: number, content: Uint8Array): Uint8Array[] {
  return [varint(id * 8 + BYTES), varint(content.length), content];
}

/** Replaces `length` bytes at `offset`. The length may change only if they are the whole content of a field. */
export type Edit = { offset: number; length: number; bytes: Uint8Array };

/** Applies edits, which must not overlap, and returns the file in pieces. Enclosing messages get their new lengths. */
export function editMessage(bytes: Uint8Array, edits: readonly Edit[]): Uint8Array[] {
  const sorted = [...edits].sort((a, b) => a.offset - b.offset);
  return [...edited(bytes, sorted, 0, bytes.length)];
}

function* edited(
  bytes: Uint8Array,
  edits: readonly Edit[],
  from: number,
  end: number,
): Generator<Uint8Array> {
  if (edits.every(e => e.bytes.length === e.length)) {
    yield* replaced(bytes, edits, from, end);
    return;
  }
  let next = 0;
  for (const field of wireFields(bytes, from, end)) {
    const first = next;
    while (next < edits.length && edits[next]!.offset < field.end) next++;
    const within = edits.slice(first, next);
    if (within.every(e => e.bytes.length === e.length)) {
      yield* replaced(bytes, within, field.start, field.end);
      continue;
    }
    const [only] = within;
    const isWhole = only!.offset === field.from && only!.length === field.end - field.from;
    const content = isWhole ? [only!.bytes] : [...edited(bytes, within, field.from, field.end)];
    yield varint(field.id * 8 + BYTES);
    yield varint(content.reduce((n, c) => n + c.length, 0));
    yield* content;
  }
}

/** The same for edits that change no length. */
function* replaced(
  bytes: Uint8Array,
  edits: readonly Edit[],
  from: number,
  end: number,
): Generator<Uint8Array> {
  let at = from;
  for (const edit of edits) {
    yield bytes.subarray(at, edit.offset);
    yield edit.bytes;
    at = edit.offset + edit.length;
  }
  yield bytes.subarray(at, end);
}
