/** Kinds of fields whose files do not say what they hold: found from the values, and values made of what was read. */
import { AgdError } from '../../../graph/errors.js';
import type { Field, FieldKind, Values } from '../source.js';

/** Kinds by the name of the field, where they are known before: those that a recipe was fitted on. */
export type Kinds = ReadonlyMap<string, FieldKind>;

/** What stands for a missing value in text files. */
export const MISSING: ReadonlySet<string> = new Set(['', 'NA', 'N/A', 'NaN', 'nan', 'null', 'NULL']);

/** The kind that takes the values of both; undefined where none does. */
export function widen(a: FieldKind | undefined, b: FieldKind | undefined): FieldKind | undefined {
  if (a === undefined || b === undefined || a === b) return a ?? b;
  const both = new Set([a, b]);
  if (both.has('list') || both.has('image') || both.has('tensor')) return undefined;
  return both.has('integer') && both.has('number') ? 'number' : 'text';
}

const NUMBER = /^[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?$/;
const INFINITE = /^[+-]?inf(?:inity)?$/i;
const DATE =
  /^(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?)?\s*(Z|UTC|[+-]\d\d:?\d\d)?$/;

/** The kind of one value of a text file. */
export function kindOfText(text: string): FieldKind | undefined {
  if (MISSING.has(text)) return undefined;
  if (NUMBER.test(text)) {
    // Numbers with leading zeros are codes: 00501 is not 501.
    if (/^[+-]?0\d/.test(text)) return /[.eE]/.test(text) ? 'number' : 'text';
    return /[.eE]/.test(text) ? 'number' : 'integer';
  }
  if (INFINITE.test(text)) return 'number';
  if (/^(?:true|false)$/i.test(text)) return 'bool';
  return Number.isNaN(parseDate(text)) ? 'text' : 'date';
}

/** The number that a text of this kind is, NaN where it is missing; undefined where it is of another kind. */
export function numberOf(text: string, kind: FieldKind): number | undefined {
  if (MISSING.has(text)) return Number.NaN;
  switch (kind) {
    case 'bool':
      return /^true$/i.test(text) ? 1 : /^false$/i.test(text) ? 0 : undefined;
    case 'date': {
      const time = parseDate(text);
      return Number.isNaN(time) ? undefined : time;
    }
    default:
      if (NUMBER.test(text)) return Number(text);
      if (INFINITE.test(text)) return text.startsWith('-') ? -Infinity : Infinity;
      return undefined;
  }
}

/** Milliseconds since 1970 of a date in ISO 8601, UTC unless it says otherwise; NaN where it is none. */
export function parseDate(text: string): number {
  const match = DATE.exec(text);
  if (!match) return Number.NaN;
  const [, year, month, day, hour = '0', minute = '0', second = '0', fraction = '', zone = 'Z'] = match;
  const time = Date.UTC(+year!, +month! - 1, +day!, +hour, +minute, +second);
  const found = new Date(time);
  if (found.getUTCMonth() !== +month! - 1 || found.getUTCDate() !== +day!) return Number.NaN;
  const [, sign, hours, minutes] = /^([+-])(\d\d):?(\d\d)$/.exec(zone) ?? [];
  const offset = sign ? (sign === '-' ? -1 : 1) * (+hours! * 60 + +minutes!) : 0;
  return time + Math.floor(Number(`0.${fraction || 0}`) * 1000) - offset * 60_000;
}

/** The kind of one value of a file that has types: of JSON, or what a reader of Parquet or Arrow hands out. */
export function kindOfValue(value: unknown): FieldKind | undefined {
  switch (typeof value) {
    case 'number':
      return Number.isNaN(value) ? undefined : Number.isSafeInteger(value) ? 'integer' : 'number';
    case 'bigint':
      return 'integer';
    case 'boolean':
      return 'bool';
    case 'string':
      return Number.isNaN(parseDate(value)) ? 'text' : 'date';
    case 'object':
      if (value === null) return undefined;
      if (value instanceof Date) return 'date';
      return value instanceof Uint8Array ? 'image' : isList(value) ? 'list' : undefined;
    default:
      return undefined;
  }
}

const isList = (value: unknown): value is ArrayLike<number | string> =>
  Array.isArray(value) || (ArrayBuffer.isView(value) && !(value instanceof DataView));

/** Where a value is, for messages: rows count from 1. */
export type Place = { source: string; row: number; field: string };

/** A value that is not what its field holds elsewhere. */
export function otherKind({ source, row, field }: Place, kind: FieldKind, found: unknown): AgdError {
  const text = typeof found === 'string' ? `'${found.slice(0, 60)}'` : shown(found);
  const is = { number: 'numbers', integer: 'numbers', bool: 'true and false', date: 'dates', text: 'text' };
  return new AgdError(
    'bad-data',
    `${source}, row ${row}: column '${field}' holds ${is[kind as keyof typeof is] ?? `values of kind ${kind}`} before, but here ${text}. Correct the value, or leave it empty where it is missing.`,
  );
}

const isRecord = (value: unknown) => typeof value === 'object' && value !== null && !isList(value);

const shown = (value: unknown) => {
  const text = typeof value === 'bigint' ? String(value) : (JSON.stringify(value) ?? typeof value);
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
};

/** The values of a field, of anything that holds one per row. Throws `bad-data`; `first` is the number of the first row. */
export function valuesOf(
  { name, kind, dtype }: Field,
  rows: ArrayLike<unknown>,
  source: string,
  first: number,
): Values {
  const fail = (i: number) => otherKind({ source, row: first + i, field: name }, kind, rows[i]);
  if (kind === 'text' || kind === 'image') {
    const out = new Array<string | Uint8Array | null>(rows.length);
    for (let i = 0; i < rows.length; i++) {
      const value = rows[i];
      if (typeof value === 'string' || value instanceof Uint8Array) out[i] = value;
      else if (value === null || value === undefined) out[i] = null;
      else if (value instanceof Date) out[i] = value.toISOString();
      else if (kind === 'text' && typeof value !== 'object') out[i] = String(value);
      else throw fail(i);
    }
    return out;
  }
  if (kind === 'list')
    return Array.from(rows, (value, i) => {
      if (value === null || value === undefined) return null;
      if (isList(value))
        return Array.from(
          value as ArrayLike<unknown>,
          // Messages of conversations; what takes no objects refuses them itself.
          x => plain(x) ?? (isRecord(x) ? (x as unknown as string) : failed(fail(i))),
        );
      throw fail(i);
    });
  if (rows instanceof Float64Array || rows instanceof Float32Array || rows instanceof Int32Array) return rows;
  if (dtype === 'int64') return exactIntegers(rows, fail);
  const out = new Float64Array(rows.length);
  for (let i = 0; i < rows.length; i++) {
    const value = rows[i];
    if (typeof value === 'number') out[i] = value;
    else if (typeof value === 'bigint') {
      out[i] = Number(value);
      // No double holds it: identifiers of 64 bits are to stay apart.
      if (kind === 'integer' && !Number.isSafeInteger(out[i])) return exactIntegers(rows, fail);
    } else if (typeof value === 'boolean') out[i] = Number(value);
    else if (value === null || value === undefined) out[i] = Number.NaN;
    else if (value instanceof Date) out[i] = value.getTime();
    else {
      const number = typeof value === 'string' ? numberOf(value, kind) : undefined;
      if (number === undefined) throw fail(i);
      out[i] = number;
    }
  }
  return out;
}

/** Throws `bad-data` where a file has another number of values than it says. */
export function checkCount(values: ArrayLike<unknown>, rows: number, source: string, field: string): void {
  if (values.length === rows) return;
  throw new AgdError(
    'bad-data',
    `${source} is damaged: column '${field}' has ${values.length} values in a block of ${rows} rows.`,
  );
}

function failed(error: AgdError): never {
  throw error;
}

const plain = (x: unknown): number | string | undefined =>
  typeof x === 'number' || typeof x === 'string'
    ? x
    : typeof x === 'bigint' || typeof x === 'boolean'
      ? Number(x)
      : x === null
        ? Number.NaN
        : undefined;

function exactIntegers(rows: ArrayLike<unknown>, fail: (i: number) => AgdError): BigInt64Array {
  if (rows instanceof BigInt64Array) return rows;
  const out = new BigInt64Array(rows.length);
  for (let i = 0; i < rows.length; i++) {
    const value = rows[i];
    if (typeof value === 'bigint') out[i] = value;
    else if (typeof value === 'number' && Number.isSafeInteger(value)) out[i] = BigInt(value);
    else throw fail(i);
  }
  return out;
}
