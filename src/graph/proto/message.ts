/** What every message's conversion needs: 64-bit integers, keyed entries, and fields the IR has no place for. */
import type { Int } from '../ir.js';
import type { Entry, Int64, Message } from './schema.js';

/** A 64-bit integer off the wire: a number where it fits 2^53, else a bigint. */
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

/** A message with some fields changed; the unknown fields, which spreading would miss, come along. */
export function amend<M extends Message>(message: M | undefined, changes: NoInfer<M>): M {
  if (!message) return changes;
  const amended = Object.assign({}, message, changes);
  if (message.$unknowns) amended.$unknowns ??= message.$unknowns;
  return amended;
}

/** Spellings of what the IR knows as an empty string; a file may say it in any of these ways, or not at all. */
const EMPTY: readonly unknown[] = ['', 'ai.onnx'];

/**
 * The fields of a message that the IR does not own, undefined where there are none. An owned text that is
 * there but says nothing counts among them, so that it is written again.
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

/** How a list of messages is a map: the key and the value of one, and one (anew or amended) of a key and value. */
type Keyed<Item, Value> = {
  key: (item: Item) => string;
  value: (item: Item) => Value;
  write: (key: string, value: Value, before?: Item) => Item;
};

/**
 * The list that says what `now` says: messages of `before` whose value has not changed are kept as they
 * are, repeated keys included; new keys follow.
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
