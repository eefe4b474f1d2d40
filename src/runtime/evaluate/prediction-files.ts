/** Predictions as files: CSV and JSON lines, written row by row, and .npz. */
import { extname } from 'node:path';
import { concatBytes, toUtf8 } from '../../graph/bytes.js';
import { AgdError } from '../../graph/errors.js';
import { writeFileAtomic } from '../../graph/files.js';
import { Tensor } from '../../graph/tensor.js';
import { writeNpz } from '../data/npz.js';
import { type Prediction, stringTensor } from './predictions.js';

/** A value of a column of the data, as it is written beside the predictions. */
export type RawValue = string | number | bigint | boolean | null;

/** Rows of columns of the data: those that belong to a batch of predictions. */
export type KeptColumns = {
  names: readonly string[];
  /** The next rows, by column. */
  next(rows: number): Promise<ReadonlyMap<string, readonly RawValue[]>>;
};

/** What is written of a prediction under one name: a value for each row, or an array of this shape. */
type Field = {
  name: string;
  dims: readonly number[];
  /** Names of the elements of a row. */
  labels?: readonly string[];
  value(index: number): RawValue;
  tensor?: Tensor;
};

/** Beyond these a table is not the form for it. */
const MOST_COLUMNS = 2000;
const MOST_PROBABILITIES = 100;

const FORMATS = ['.csv', '.npz', '.jsonl'] as const;
type Format = (typeof FORMATS)[number];

/** Throws `bad-option` where the name does not say in which form to write. */
export function predictionFormat(path: string): Format {
  const format = FORMATS.find(name => name === extname(path).toLowerCase());
  if (format) return format;
  throw new AgdError('bad-option', `${path}: predictions are written as .csv, .npz or .jsonl.`);
}

/**
 * Writes predictions to a .csv, .jsonl or .npz file, whole or not at all. The first two are written while predictions
 * come; .npz arrays are collected in memory. Returns the number of rows. Throws `bad-option`, `io`.
 */
export async function writePredictions(
  path: string,
  predictions: AsyncIterable<Prediction>,
  kept?: KeptColumns,
): Promise<number> {
  const format = predictionFormat(path);
  if (format === '.npz') return writeArrays(path, predictions, kept);
  let rows = 0;
  async function* chunks(): AsyncGenerator<Uint8Array> {
    const write = format === '.csv' ? csvRows : jsonRows;
    for await (const prediction of predictions) {
      const fields = fieldsOf(prediction, kept?.names);
      const raw = kept ? await kept.next(prediction.samples) : new Map<string, readonly RawValue[]>();
      const header = format === '.csv' && rows === 0 ? csvHeader([...raw.keys()], fields) : '';
      yield toUtf8(header + write(prediction.samples, raw, fields));
      rows += prediction.samples;
    }
  }
  await writeFileAtomic(path, chunks());
  return rows;
}

function fieldsOf(prediction: Prediction, taken: readonly string[] = []): Field[] {
  const { outputs, output, task, classes, probabilities, classNames } = prediction;
  const raw = Object.entries(outputs).filter(([name]) => !task || name !== output);
  const fields = [
    ...(task === 'classes' ? classFields(classes!, probabilities!, classNames) : []),
    ...(task === 'labels' ? labelFields(classes!, probabilities!, classNames) : []),
    ...raw.map(([name, tensor]) => fieldOf(name, tensor)),
  ];
  return fields.map(field =>
    taken.includes(field.name) ? { ...field, name: `predicted_${field.name}` } : field,
  );
}

function fieldOf(name: string, tensor: Tensor, labels?: readonly string[]): Field {
  const values = tensor.strings?.map(bytes => new TextDecoder().decode(bytes)) ?? tensor.numbers();
  const isSingle = tensor.dtype === 'float32';
  const value = (i: number) => {
    const x = values[i]!;
    return isSingle && typeof x === 'number' ? shortest(x) : x;
  };
  // One number is no array.
  const dims = tensor.size === tensor.dims[0] ? [] : tensor.dims.slice(1);
  return { name, dims, labels, value, ...(tensor.strings ? {} : { tensor }) };
}

function classFields(classes: Tensor, probabilities: Tensor, names?: readonly string[]): Field[] {
  const number = fieldOf('class', classes);
  const nameOf = (i: number) => {
    const c = number.value(i) as number;
    return c < 0 ? null : (names?.[c] ?? c);
  };
  const all = fieldOf('probabilities', probabilities, names);
  if (number.dims.length) return [{ ...number, value: nameOf }, all];
  const width = probabilities.size / classes.size;
  const values = Tensor.from(
    'float32',
    classes.dims,
    Float32Array.from(classes.numbers(), (c, i) => (c < 0 ? NaN : (all.value(i * width + c) as number))),
  );
  return [{ ...number, value: nameOf }, fieldOf('probability', values), all];
}

function labelFields(classes: Tensor, probabilities: Tensor, names?: readonly string[]): Field[] {
  const number = fieldOf('class', classes, names);
  // Of a single label its two values may have names, of several each has one.
  const value = (i: number) => {
    const c = number.value(i) as number;
    return c < 0 ? null : number.dims.length ? c : (names?.[c] ?? c);
  };
  return [{ ...number, value }, fieldOf('probability', probabilities, names)];
}

const sizeOf = ({ dims }: Field) => dims.reduce((n, d) => n * d, 1);

/** The names of a field's columns: its own, or one for each element of a row. */
function columnNames({ name, dims, labels }: Field): string[] {
  if (!dims.length) return [name];
  const stem = name === 'probabilities' ? 'probability' : name;
  const size = dims.reduce((n, d) => n * d, 1);
  const place = (i: number) => {
    const at: number[] = [];
    for (let rest = i, axis = dims.length - 1; axis >= 0; axis--) {
      at.unshift(rest % dims[axis]!);
      rest = Math.floor(rest / dims[axis]!);
    }
    return at.join('_');
  };
  return Array.from(
    { length: size },
    (_, i) => `${stem}_${dims.length === 1 ? (labels?.[i] ?? i) : place(i)}`,
  );
}

/** Of so many classes that nobody reads each one's, the probability of the predicted class is enough for a table. */
const isTabular = (field: Field) => field.name !== 'probabilities' || sizeOf(field) <= MOST_PROBABILITIES;

function csvHeader(raw: readonly string[], fields: readonly Field[]): string {
  const names = [...raw, ...fields.filter(isTabular).flatMap(columnNames)];
  if (names.length > MOST_COLUMNS)
    throw new AgdError(
      'bad-option',
      `The predictions have ${names.length} numbers for each sample, too many for a table: write .npz or .jsonl.`,
    );
  return `${names.map(csvText).join(',')}\n`;
}

function csvRows(
  rows: number,
  raw: ReadonlyMap<string, readonly RawValue[]>,
  fields: readonly Field[],
): string {
  const tabular = fields.filter(isTabular).map(field => [field, sizeOf(field)] as const);
  let text = '';
  for (let row = 0; row < rows; row++) {
    const cells = [...raw.values()].map(values => csvCell(values[row]!));
    for (const [{ value }, size] of tabular)
      for (let i = row * size; i < (row + 1) * size; i++) cells.push(csvCell(value(i)));
    text += `${cells.join(',')}\n`;
  }
  return text;
}

/** RFC 4180; a missing value, and NaN, is an empty cell. */
const csvCell = (value: RawValue) =>
  value === null || Number.isNaN(value) ? '' : typeof value === 'string' ? csvText(value) : String(value);

const csvText = (text: string) => (/[",\r\n]|^\s|\s$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

function jsonRows(
  rows: number,
  raw: ReadonlyMap<string, readonly RawValue[]>,
  fields: readonly Field[],
): string {
  let text = '';
  for (let row = 0; row < rows; row++) {
    const kept = [...raw].map(([name, values]) => [name, values[row]]);
    const predicted = fields.map(field => [field.name, jsonValue(field, row)]);
    const plain = (_: string, x: unknown) => (typeof x === 'bigint' ? exactJson(x) : x);
    text += `${JSON.stringify(Object.fromEntries([...kept, ...predicted]), plain)}\n`;
  }
  return text;
}

/** JSON's readers take numbers as float64: text where one cannot hold the integer. */
const exactJson = (x: bigint) => (Number.isSafeInteger(Number(x)) ? Number(x) : String(x));

/** A value; of named elements an object, else nested arrays. */
function jsonValue(field: Field, row: number): unknown {
  const { dims, labels, value } = field;
  const size = sizeOf(field);
  if (!dims.length) return value(row);
  const values = Array.from({ length: size }, (_, i) => value(row * size + i));
  if (dims.length === 1 && labels) return Object.fromEntries(values.map((x, i) => [labels[i] ?? i, x]));
  return dims
    .slice(1)
    .reduceRight<unknown[]>(
      (flat, length) =>
        Array.from({ length: flat.length / length }, (_, i) => flat.slice(i * length, (i + 1) * length)),
      values,
    );
}

async function writeArrays(
  path: string,
  predictions: AsyncIterable<Prediction>,
  kept?: KeptColumns,
): Promise<number> {
  const parts = new Map<string, Tensor[]>();
  const raw = new Map<string, RawValue[]>();
  let rows = 0;
  for await (const prediction of predictions) {
    for (const { name, tensor } of fieldsOf(prediction, kept?.names)) {
      if (!tensor)
        throw new AgdError('unsupported-type', `Output '${name}' holds texts: write .csv or .jsonl instead.`);
      appendTo(parts, name, [tensor]);
    }
    for (const [name, values] of (await kept?.next(prediction.samples)) ?? []) appendTo(raw, name, values);
    rows += prediction.samples;
  }
  const arrays = new Map([...parts].map(([name, tensors]) => [name, joinRows(name, tensors)]));
  for (const [name, values] of raw) arrays.set(name, numbersOf(name, values));
  await writeNpz(path, arrays);
  return rows;
}

function appendTo<T>(lists: Map<string, T[]>, name: string, more: readonly T[]): void {
  const list = lists.get(name) ?? [];
  lists.set(name, list);
  for (const one of more) list.push(one);
}

function numbersOf(name: string, values: readonly RawValue[]): Tensor {
  if (values.some(value => typeof value === 'string'))
    throw new AgdError('unsupported-type', `Column '${name}' holds texts: write .csv or .jsonl instead.`);
  // As float64, ids of 64 bits would be rounded.
  const isLarge = (x: RawValue) => typeof x === 'bigint' && !Number.isSafeInteger(Number(x));
  if (values.some(isLarge)) {
    if (values.includes(null))
      throw new AgdError(
        'unsupported-type',
        `Column '${name}' has missing values beside integers beyond 2^53, which no array holds: write .csv or .jsonl instead.`,
      );
    return Tensor.from(
      'int64',
      [values.length],
      BigInt64Array.from(values, x => BigInt(x!)),
    );
  }
  const numbers = Float64Array.from(values, value => (value === null ? NaN : Number(value)));
  return Tensor.from('float64', [values.length], numbers);
}

/** Rows of several tensors, one after the other. Throws `bad-shape` where they are not of one shape. */
export function joinRows(name: string, parts: readonly Tensor[]): Tensor {
  const [{ dtype, dims }] = parts as [Tensor];
  const other = parts.find(part => `${part.dims.slice(1)}` !== `${dims.slice(1)}`);
  if (other)
    throw new AgdError(
      'bad-shape',
      `'${name}' has shapes [${dims}] and [${other.dims}], which no array holds together: take the predictions batch by batch, or write .jsonl.`,
    );
  const rows = parts.reduce((n, part) => n + part.dims[0]!, 0);
  const shape = [rows, ...dims.slice(1)];
  if (dtype === 'string')
    return stringTensor(
      shape,
      parts.flatMap(part => part.strings!),
    );
  return new Tensor(dtype, shape, concatBytes(parts.map(({ bytes }) => bytes)));
}

/** The number of fewest digits that is this float32. */
function shortest(x: number): number {
  for (const digits of [6, 7, 8]) {
    const short = Number(x.toPrecision(digits));
    if (Math.fround(short) === x) return short;
  }
  return Number(x.toPrecision(9));
}
