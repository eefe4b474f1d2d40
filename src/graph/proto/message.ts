/**
 * Helpers for the conversion of all messages: 64-bit integers, keyed entries, and fields that the IR does not
 * represent.
 */
import type { Int } from '../ir.js';
import type { Entry, Int64, Message } from './schema.js';

/** A decoded 64-bit integer: a number up to 2^53 in magnitude, and a bigint beyond. */
export function readInt(value: Int64 | null | undefined): Int {
  if (typeof value !== 'object' || value === null) return value ?? 0;
  const number = value.high * 2 ** 32 + (value.low >>> 0);
  return Number.isSafeInteger(number) ? number : (BigInt(value.high) << 32n) | BigInt(value.low >>> 0);
}

export function writeInt(value: Int): Int64 {
  if (typeof value === 'number') return value;
  const half = (bits: bigint) => Number(BigInt.asIntN(32, bits));
  return { low: half(value), high: half(value >> 32n), unsigned: false };
}

/** A copy of a message with some fields changed, including its unknown fields, which a spread would lose. */
export function amend<M extends Message>(message: M | undefined, changes: NoInfer<M>): M {
  if (!message) return changes;
  const amended = Object.assign({}, message, changes);
  if (message.$unknowns) amended.$unknowns ??= message.$unknowns;
  return amended;
}

/** Values that the IR represents as an empty string. */
const EMPTY: readonly unknown[] = ['', 'ai.onnx'];

/**
 * The fields of a message that the IR does not represent; undefined if there are none. A represented string that is
 * present but empty is included, so that it is written back.
 */
export function rest<M extends Message>(message: M, owned: readonly (keyof M)[]): M | undefined {
  let left: M | undefined;
  for (const key of Object.keys(message) as (keyof M)[]) {
    if (owned.includes(key) && !EMPTY.includes(message[key])) continue;
    left ??= {} as M;
    left[key] = message[key];
  }
  const { $unknowns } = message;
  return $unknowns ? ({ ...left, $unknowns } as M) : left;
}

/**
 * Treats a list of messages as a map: the key and value of a message, and a new or changed message for a key and value.
 */
type Keyed<Item, Value> = {
  key: (item: Item) => string;
  value: (item: Item) => Value;
  write: (key: string, value: Value, before?: Item) => Item;
};

/**
 * The list of messages for the map `now`. Messages of `before` with an unchanged value are kept, including repeated
 * keys; new keys follow.
 */
export function writeKeyed<Item, Value>(
  now: ReadonlyMap<string, Value>,
  before: readonly Item[],
  { key, value, write }: Keyed<Item, Value>,
): Item[] {
  const was = new Map(before.map(item => [key(item), value(item)]));
  const kept = before.filter(item => now.has(key(item)));
  const updated = kept.map(item => {
    const current = now.get(key(item))!;
    return current === was.get(key(item)) ? item : write(key(item), current, item);
  });
  return [...updated, ...[...now].filter(([k]) => !was.has(k)).map(([k, v]) => write(k, v))];
}

const ENTRY: Keyed<Entry, string> = {
  key: entry => entry.key ?? '',
  value: entry => entry.value ?? '',
  write: (key, value, before) => amend(before, { key, value }),
};

export function readEntries(entries: readonly Entry[] | null | undefined): Map<string, string> {
  return new Map(entries?.map(entry => [ENTRY.key(entry), ENTRY.value(entry)]));
}

export function writeEntries(now: ReadonlyMap<string, string>, before: readonly Entry[] = []): Entry[] {
  return writeKeyed(now, before, ENTRY);
}
