/** The values of a column, in the forms that steps take. */
import { AgdError } from '../../../graph/errors.js';
import { Tensor } from '../../../graph/tensor.js';
import type { ColumnKind } from '../../../passes/recipe/names.js';
import type { Values } from '../source.js';
import { parseDate } from '../sources/kinds.js';

/** Where values are from, for messages: the file, the column, and the number of the first row, from 1. */
export type Place = { source: string; column: string; firstRow: number };

export function badValue({ source, column, firstRow }: Place, row: number, what: string): AgdError {
  return new AgdError('bad-data', `${source}, column '${column}', row ${firstRow + row}: ${what}.`);
}

/** Whether the column's values are numbers, so that its categories are compared as numbers. */
export const isNumberKind = (kind: ColumnKind) =>
  kind === 'number' || kind === 'integer' || kind === 'bool' || kind === 'date';

/** The same, of arrays too. */
export const hasNumbers = (kind: ColumnKind) => isNumberKind(kind) || kind === 'tensor';

type Numbers = Float64Array | Float32Array | Int32Array;

/** Numbers, NaN where missing. Throws `bad-data` for text that is not a number (or, of dates, not a date). */
export function numbersOf(values: Values, kind: ColumnKind, place: Place): Numbers {
  if (values instanceof Tensor) return Float64Array.from(values.numbers());
  if (values instanceof BigInt64Array) return Float64Array.from(values, Number);
  if (!Array.isArray(values)) return values as Numbers;
  return Float64Array.from(values as readonly unknown[], (value, row) => {
    if (value === null || value === '') return Number.NaN;
    if (Array.isArray(value))
      throw badValue(place, row, `a list is not a number; list(${value.length}) takes the numbers in it`);
    const text = typeof value === 'object' ? textOf(value as Uint8Array) : String(value);
    const number = kind === 'date' ? parseDate(text) : kind === 'bool' ? readBool(text) : Number(text);
    if (Number.isNaN(number))
      throw badValue(place, row, `'${text}' is not a ${kind === 'date' ? 'date' : 'number'}`);
    return number;
  });
}

const BOOLS: Readonly<Record<string, number>> = { true: 1, false: 0, yes: 1, no: 0 };

const readBool = (text: string) => BOOLS[text.toLowerCase()] ?? Number(text);

const decoder = new TextDecoder();

export const textOf = (value: string | Uint8Array) =>
  typeof value === 'string' ? value : decoder.decode(value);

/** Texts, null where missing. */
export function textsOf(values: Values): (string | null)[] {
  if (values instanceof Tensor) return values.numbers().map(String);
  if (values instanceof BigInt64Array) return Array.from(values, String);
  if (!Array.isArray(values)) return Array.from(values as Numbers, x => (Number.isNaN(x) ? null : String(x)));
  return (values as readonly (string | Uint8Array | null)[]).map(x => (x === null ? null : textOf(x)));
}

/** Calls back for each row with the value as a table has it, null where it is missing: numbers in their shortest form. */
export function eachKey(
  values: Values,
  kind: ColumnKind,
  place: Place,
  visit: (key: string | number | null, row: number) => void,
): void {
  const isArray = values instanceof Tensor && !values.strings;
  if ((isNumberKind(kind) || isArray) && !(values instanceof BigInt64Array)) {
    const numbers = numbersOf(values, kind, place);
    for (let i = 0; i < numbers.length; i++) visit(Number.isNaN(numbers[i]!) ? null : numbers[i]!, i);
    return;
  }
  textsOf(values).forEach((text, i) => {
    visit(text === '' ? null : text, i);
  });
}

/** Lists of values, empty where missing. */
export function listsOf(values: Values, place: Place): readonly (readonly (string | number)[])[] {
  if (!Array.isArray(values)) throw badValue(place, 0, 'a list is needed');
  return (values as readonly unknown[]).map((value, row) => {
    if (value === null) return [];
    if (!Array.isArray(value)) throw badValue(place, row, 'a list is needed');
    // Otherwise they would become NaN, or texts without their contents.
    if (value.some(item => typeof item === 'object' && item !== null))
      throw badValue(
        place,
        row,
        'it holds a list of objects; chat(tokenizer.json)+documents(512) takes the messages of a conversation',
      );
    return value as (string | number)[];
  });
}

/** Position by value, of numbers where the column has numbers. */
export function positionsOf(table: readonly string[], isNumber: boolean): Map<string | number, number> {
  const positions = new Map<string | number, number>();
  table.forEach((key, i) => {
    positions.set(key, i);
    // Integers beyond 2^53 stay text.
    if (isNumber) positions.set(Number(key), i);
  });
  return positions;
}
