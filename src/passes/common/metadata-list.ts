import { AgdError } from '../../graph/errors.js';
import type { Model } from '../../graph/ir.js';
import { isObject } from '../options/option.js';

/**
 * The records that a model lists in its metadata as JSON, none if it has no such entry. `what` names them in messages.
 * Throws `invalid-model` if the entry is not a list of which each member is a record.
 */
export function readList<T>(
  { metadata }: Pick<Model, 'metadata'>,
  key: string,
  what: string,
  isRecord: (x: Record<string, unknown>) => boolean,
): T[] {
  const text = metadata.get(key);
  if (text === undefined) return [];
  try {
    const list: unknown = JSON.parse(text);
    if (Array.isArray(list) && list.every(x => isObject(x) && isRecord(x))) return list as T[];
  } catch {}
  throw new AgdError('invalid-model', `The metadata entry '${key}' is damaged: it is not a list of ${what}.`);
}

/** Lists records in the metadata; an empty list has no entry. */
export function writeList({ metadata }: Model, key: string, records: readonly unknown[]): void {
  if (records.length) metadata.set(key, JSON.stringify(records));
  else metadata.delete(key);
}
