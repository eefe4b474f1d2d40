/**
 * Parses which columns feed an input, and how: `--columns 'x=age,fare:log1p+standardize,sex:one-hot'`, in a
 * configuration file `columns: { x: ['age', { column: 'fare', transforms: ['log1p', 'standardize'] }] }`.
 */
import * as v from 'valibot';
import { AgdError } from '../../graph/errors.js';
import { unknownName } from '../../ops/core/option-type.js';

/** A column as given by users: name and transforms as one text, or separately. */
export type ColumnText = string | { column: string; transforms?: string | readonly string[] };

/** Columns, by the input that they feed. */
export type ColumnsOption = Readonly<Record<string, readonly ColumnText[] | ColumnText>>;

/** A transform with its arguments by name; if it takes a list of unnamed ones, these are under `''`. */
export type Transform = {
  name: TransformName;
  options: Readonly<Record<string, string>>;
  list: readonly string[];
};

/** Without transforms, those that suit the column's values are used. */
export type ColumnSpec = { column: string; transforms?: Transform[] };

type Signature = {
  /** Names of positional arguments, in order. */
  positional?: readonly string[];
  options?: readonly string[];
  /** Whether further positional arguments form a list. */
  list?: true;
};

/** The arguments of each transform. */
const TRANSFORMS = {
  none: {},
  standardize: {},
  'min-max': {},
  log1p: {},
  subtract: { positional: ['by'] },
  transpose: { list: true },
  argmax: {},
  fill: { positional: ['with', 'indicator'] },
  'one-hot': { options: ['unknown', 'missing', 'max'] },
  id: { options: ['start', 'unknown', 'missing', 'max'] },
  hash: { positional: ['buckets'] },
  date: { list: true },
  class: { list: true, options: ['other'] },
  tokenizer: { positional: ['file'], options: ['length', 'mask', 'types', 'pad'] },
  chat: { positional: ['file'], options: ['pad'] },
  characters: { options: ['length', 'unknown', 'pad'] },
  bytes: { options: ['length', 'pad'] },
  windows: { positional: ['length'], options: ['stride', 'ahead'] },
  documents: { positional: ['length'] },
  'multi-hot': { options: ['max'] },
  list: { positional: ['length'], options: ['unknown', 'pad'] },
  image: {
    options: [
      ...(['size', 'resize', 'fit', 'filter', 'color', 'layout', 'normalize', 'mean', 'std'] as const),
      ...(['mask', 'values', 'outside'] as const),
    ],
  },
} as const satisfies Record<string, Signature>;

export type TransformName = keyof typeof TRANSFORMS;
const TRANSFORM_NAMES = Object.keys(TRANSFORMS) as TransformName[];

/** Parses the texts of `--columns`, each of which gives the columns of one input. Throws `bad-option`. */
export function parseColumns(texts: readonly string[]): Record<string, string[]> {
  const found: Record<string, string[]> = {};
  for (const text of texts) {
    const [input, ...rest] = split(text, '=');
    const columns = split(rest.join('='), ',').map(part => part.trim());
    if (!input?.trim() || !rest.length || columns.some(column => !column))
      throw new AgdError(
        'bad-option',
        `'${text}' is not of the form INPUT=COLUMN,COLUMN:TRANSFORM+TRANSFORM.`,
      );
    const name = unquoted(input.trim());
    found[name] = [...(Object.hasOwn(found, name) ? found[name]! : []), ...columns];
  }
  return found;
}

/** The columns of each input. Throws `bad-option` for invalid transforms or arguments. */
export function readColumns(columns: ColumnsOption): Map<string, ColumnSpec[]> {
  return new Map(
    Object.entries(columns).map(([input, given]) => [
      input,
      (Array.isArray(given) ? (given as readonly ColumnText[]) : [given as ColumnText]).map(readColumn),
    ]),
  );
}

function readColumn(given: ColumnText): ColumnSpec {
  if (typeof given === 'string') {
    const [column, ...rest] = split(given, ':');
    const name = unquoted(column!.trim());
    return rest.length ? { column: name, transforms: readTransforms(rest.join(':')) } : { column: name };
  }
  const { column, transforms } = given;
  if (transforms === undefined) return { column };
  return { column, transforms: [transforms].flat().flatMap(readTransforms) };
}

function readTransforms(text: string): Transform[] {
  return split(text, '+').map(part => readTransform(part.trim()));
}

function readTransform(text: string): Transform {
  const [, name = '', inner] = /^([^()]*?)\s*(?:\((.*)\))?$/s.exec(text) ?? [];
  if (!Object.hasOwn(TRANSFORMS, name)) throw unknownName('transform', name || text, TRANSFORM_NAMES);
  const {
    positional = [],
    options: named = [],
    list: takesList,
  }: Signature = TRANSFORMS[name as TransformName];
  const options: Record<string, string> = {};
  const list: string[] = [];
  const args = inner?.trim() ? split(inner, ',').map(arg => arg.trim()) : [];
  let at = 0;
  for (const arg of args) {
    const [key, ...rest] = split(arg, '=');
    if (rest.length) {
      const known = [...positional, ...named];
      if (!known.includes(key!.trim())) throw unknownName(`option of ${name}`, key!.trim(), known);
      options[key!.trim()] = unquoted(rest.join('=').trim());
    } else if (takesList) list.push(arg);
    else if (at < positional.length) options[positional[at++]!] = unquoted(arg);
    else throw new AgdError('bad-option', `${text}: ${name} does not take '${arg}'.`);
  }
  return { name: name as TransformName, options, list };
}

/** Splits at separators that are neither in double quotes nor in parentheses. */
function split(text: string, separator: string): string[] {
  const parts: string[] = [];
  let part = '';
  let depth = 0;
  let isQuoted = false;
  for (const c of text) {
    if (c === '"') isQuoted = !isQuoted;
    else if (!isQuoted && c === '(') depth++;
    else if (!isQuoted && c === ')') depth--;
    if (c === separator && !isQuoted && depth === 0) {
      parts.push(part);
      part = '';
    } else part += c;
  }
  if (isQuoted || depth !== 0)
    throw new AgdError(
      'bad-option',
      `'${text}' has ${isQuoted ? 'a quote' : 'a parenthesis'} without its pair.`,
    );
  return [...parts, part];
}

/** What is in quotes; after `!`, too. */
const unquoted = (text: string) => text.replace(/^(!?)"(.*)"$/s, '$1$2');

/** A name, quoted so that it parses to the same name. */
export const quotedColumn = (name: string) => (/^[^\s"=,:+()*]+$/.test(name) ? name : `"${name}"`);

/** The text that parses to this transform. */
export function showTransform({ name, options, list }: Transform): string {
  const args = [...list, ...Object.entries(options).map(pair => pair.join('='))];
  return args.length ? `${name}(${args.join(',')})` : name;
}

/** The type of the option `columns`, which `readColumns` parses. */
export const columnsType = v.pipe(
  v.custom<ColumnsOption>(
    value => isColumns(value),
    'lists of columns by input, each a text such as fare:log1p+standardize',
  ),
  v.description('lists of columns by input'),
);

function isColumns(value: unknown): boolean {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return false;
  const isText = (x: unknown) => typeof x === 'string' && x !== '';
  const isColumn = (x: unknown) =>
    isText(x) ||
    (typeof x === 'object' &&
      x !== null &&
      isText((x as { column?: unknown }).column) &&
      Object.keys(x).every(key => key === 'column' || key === 'transforms') &&
      [(x as { transforms?: unknown }).transforms ?? []].flat().every(isText));
  if (!Object.values(value).every(columns => [columns].flat().length > 0 && [columns].flat().every(isColumn)))
    return false;
  readColumns(value as ColumnsOption);
  return true;
}
