/** Arrays for a model, made of a block of records as a recipe says. */
import type { DType } from '../../../graph/dtype.js';
import { AgdError } from '../../../graph/errors.js';
import { Tensor } from '../../../graph/tensor.js';
import { flagValue } from '../../../passes/options/text.js';
import {
  type ColumnRecipe,
  type FinalStep,
  type InputRecipe,
  isNumberStep,
  type NumberStep,
  type Recipe,
  type Step,
  type Windows,
} from '../../../passes/recipe/recipe.js';
import { convert, firstMisfit, isInteger } from '../convert.js';
import type { Block, FieldKind, Values } from '../source.js';
import { runArray } from './array-steps.js';
import { type Conversation, encodeConversations } from './chat.js';
import { datePart, writeDate } from './dates.js';
import { layOutDocuments } from './documents.js';
import { murmur3 } from './hash.js';
import { type Encode, makeTokenizer } from './tokenizer.js';
import {
  badValue,
  eachKey,
  hasNumbers,
  listsOf,
  numbersOf,
  type Place,
  positionsOf,
  textsOf,
} from './values.js';

export type ApplyOptions = {
  /** The inputs to make arrays for; all of the recipe if not given. Predictions have no target, and images are read elsewhere. */
  inputs?: readonly string[];
  /** Where the block is from, for messages. */
  source?: string;
  /** The number of the block's first row in the data, from 1. */
  firstRow?: number;
};

/** The columns that a recipe reads, each once, for the inputs given or all. */
export function columnsOf(recipe: Recipe, inputs?: readonly string[]): string[] {
  const used = recipe.inputs.filter(({ input }) => !inputs || inputs.includes(input));
  return [...new Set(used.flatMap(({ columns }) => columns.map(({ column }) => column)))];
}

/** The kinds that a recipe's columns had in training, by which a reader that infers kinds is to read them again. */
export function kindsOf(recipe: Recipe): Map<string, FieldKind> {
  return new Map(recipe.inputs.flatMap(({ columns }) => columns.map(c => [c.column, c.kind] as const)));
}

/** Whether rows of the arrays are windows, of which a block has another number than rows. */
export const hasWindows = ({ inputs }: Recipe) => inputs.some(({ windows }) => windows);

/**
 * The arrays of a block by input name: samples along the first axis, of the shape and type that the recipe has for the
 * input. Throws `missing-data` where a column is not in the block, `bad-data` with row and column for a value that the
 * recipe does not take.
 */
export async function applyRecipe(
  recipe: Recipe,
  block: Block,
  options: ApplyOptions = {},
): Promise<Map<string, Tensor>> {
  const used = recipe.inputs.filter(({ input }) => !options.inputs || options.inputs.includes(input));
  const tokenizers = await tokenizersOf(recipe, used);
  const chats = await chatsOf(used, block, options, tokenizers);
  const arrays = new Map<string, Tensor>();
  const span = Math.max(0, ...used.map(({ windows }) => (windows ? windows.shift + windows.length : 0)));
  checkItems(used, block, options);
  const isPacked = used.some(({ windows }) => windows?.documents?.segments);
  for (const input of used)
    arrays.set(input.input, applyInput(input, block, options, tokenizers, { span, isPacked, chats }));
  return arrays;
}

/** Documents of lists have an item for each token in all columns. */
function checkItems(
  used: readonly InputRecipe[],
  { values }: Block,
  { source = 'the data', firstRow = 1 }: ApplyOptions,
): void {
  const [first, ...others] = new Set(
    used.flatMap(({ windows, columns: [only] }) =>
      windows?.documents && only!.steps.at(-1)!.step === 'list' && values.has(only!.column)
        ? only!.column
        : [],
    ),
  );
  for (const column of others) {
    const place = { source, column, firstRow };
    const expected = listsOf(values.get(first!)!, place);
    for (const [row, { length }] of listsOf(values.get(column)!, place).entries())
      if (length !== expected[row]!.length)
        throw badValue(place, row, `${length} items, but '${first}' has ${expected[row]!.length}`);
  }
}

type Tokenizers = ReadonlyMap<string, Encode>;
const made = new WeakMap<object, Promise<Encode>>();

async function tokenizersOf({ tokenizers = {} }: Recipe, used: readonly InputRecipe[]): Promise<Tokenizers> {
  const found = new Map<string, Encode>();
  for (const { columns } of used)
    for (const { steps } of columns)
      for (const step of steps) {
        if ((step.step !== 'tokens' && step.step !== 'chat') || found.has(step.tokenizer)) continue;
        const contents = tokenizers[step.tokenizer] as object;
        if (!made.has(contents)) made.set(contents, makeTokenizer(contents, step.tokenizer));
        found.set(step.tokenizer, await made.get(contents)!);
      }
  return found;
}

/** Tokens and labels are of the same conversations, by column. */
type Chats = ReadonlyMap<string, readonly Conversation[]>;

async function chatsOf(
  used: readonly InputRecipe[],
  { values }: Block,
  { source = 'the data', firstRow = 1 }: ApplyOptions,
  tokenizers: Tokenizers,
): Promise<Chats> {
  const found = new Map<string, Conversation[]>();
  for (const { column, steps } of used.flatMap(({ columns }) => columns)) {
    const step = steps.at(-1)!;
    const rows = values.get(column);
    if (step.step !== 'chat' || !rows || found.has(column)) continue;
    const encode = tokenizers.get(step.tokenizer)!;
    const place = { source, column, firstRow };
    found.set(column, await encodeConversations(step, encode, rows as readonly unknown[], place));
  }
  return found;
}

type Out = Float64Array | Float32Array;

/** `span`: how many places the windows of a sample take together; `isPacked`: whether a row has several documents. */
function applyInput(
  input: InputRecipe,
  block: Block,
  options: ApplyOptions,
  tokenizers: Tokenizers,
  { span, isPacked, chats }: { span: number; isPacked: boolean; chats: Chats },
): Tensor {
  const { dtype, dims, columns, windows } = input;
  const { source = 'the data', firstRow = 1 } = options;
  const isTokens = ['tokens', 'characters', 'bytes'].includes(columns[0]!.steps.at(-1)!.step);
  const width = windows ? columns.reduce((n, c) => n + c.width, 0) : dims.reduce((n, d) => n * d, 1);
  const read = (column: string) => {
    const values = block.values.get(column);
    if (values) return values;
    throw new AgdError(
      'missing-data',
      `${source} has no column '${column}', which feeds input '${input.input}'.`,
    );
  };
  const placeOf = (column: string): Place => ({ source, column, firstRow });
  const [only] = columns;
  const last = only!.steps.at(-1)!;
  if (windows?.documents && last.step === 'list') {
    const place = placeOf(only!.column);
    const numberOf = itemsOf(last, place);
    const documents = listsOf(read(only!.column), place).map((list, row) => list.map(x => numberOf(x, row)));
    return typed(layOutDocuments(documents, windows, isPacked), dtype, dims, place);
  }
  if (windows?.documents && last.step === 'chat') {
    read(only!.column);
    const { fill } = windows.documents;
    const documents = chats
      .get(only!.column)!
      .map(({ ids, isLearned }) =>
        last.output === 'ids' ? ids : ids.map((id, i) => (isLearned[i] ? id : fill)),
      );
    return typed(layOutDocuments(documents, windows, isPacked), dtype, dims, placeOf(only!.column));
  }
  if (windows && isTokens) {
    const texts = textsOf(read(only!.column)).map(text => text ?? '');
    if (windows.documents) {
      const documents = texts.map(text => idsOf(text, last, tokenizers));
      return typed(layOutDocuments(documents, windows, isPacked), dtype, dims, placeOf(only!.column));
    }
    const ids = idsOf(texts.join('\n'), last, tokenizers);
    return typed(cut(ids, windows, span), dtype, dims, placeOf(only!.column));
  }
  if (last.step === 'tensor' && columns.length === 1) {
    const values = read(only!.column);
    if (values instanceof Tensor) {
      const array = runArray(values, only!.steps);
      if (array.size !== block.rows * width)
        throw new AgdError(
          'bad-shape',
          `${source}, array '${only!.column}' has [${values.dims.slice(1)}] per row, but the recipe makes [${dims}] of it for input '${input.input}'.`,
        );
      return asType(
        new Tensor(array.dtype, [block.rows, ...dims], array.bytes),
        dtype,
        placeOf(only!.column),
      );
    }
  }
  const out =
    dtype === 'float32' ? new Float32Array(block.rows * width) : new Float64Array(block.rows * width);
  let at = 0;
  for (const column of columns) {
    const encode = encoderOf(column, tokenizers);
    encode(read(column.column), block.rows, out, width, at, placeOf(column.column));
    at += column.width;
  }
  return typed(windows ? cut(out, windows, span, width) : out, dtype, dims, placeOf(only!.column));
}

function typed(out: Out, dtype: DType, dims: readonly number[], place: Place): Tensor {
  const width = dims.reduce((n, d) => n * d, 1);
  const rows = width ? out.length / width : 0;
  const from = out instanceof Float32Array ? 'float32' : 'float64';
  return asType(Tensor.from(from, [rows, ...dims], out), dtype, place);
}

function asType(array: Tensor, dtype: DType, place: Place): Tensor {
  if (array.dtype === dtype) return array;
  if (isInteger(dtype)) {
    const misfit = firstMisfit(array, dtype);
    if (misfit !== undefined)
      throw new AgdError(
        'bad-data',
        `${place.source}, column '${place.column}' gives ${misfit}, which ${dtype} cannot hold.`,
      );
  }
  return convert(array, dtype);
}

/** Windows over places of `width` numbers, one after the other. */
function cut(
  places: ArrayLike<number>,
  { length, stride, shift, channelsFirst }: Windows,
  span: number,
  width = 1,
): Float64Array {
  const count = Math.max(0, Math.floor((places.length / width - span) / stride) + 1);
  const out = new Float64Array(count * length * width);
  const [perPlace, perNumber] = channelsFirst ? [1, length] : [width, 1];
  for (let i = 0; i < count; i++)
    for (let j = 0; j < length; j++)
      for (let k = 0; k < width; k++)
        out[i * length * width + j * perPlace + k * perNumber] =
          places[(i * stride + shift + j) * width + k]!;
  return out;
}

function idsOf(text: string, step: Step, tokenizers: Tokenizers): number[] {
  switch (step.step) {
    case 'tokens': {
      const ids = tokenizers.get(step.tokenizer)!(text, null);
      return step.output === 'ids' ? ids : ids.map(() => (step.output === 'mask' ? 1 : 0));
    }
    case 'characters': {
      const positions = positionsOf(step.table, false);
      return Array.from(text, c => positions.get(c) ?? step.unknown);
    }
    default:
      return Array.from(new TextEncoder().encode(text));
  }
}

/** Writes a column's numbers of each row to `out`, `stride` apart, from `at` on. */
type Encoder = (values: Values, rows: number, out: Out, stride: number, at: number, place: Place) => void;

const encoders = new WeakMap<ColumnRecipe, Encoder>();

/** Tables are made once for a recipe, not for each block. */
function encoderOf(column: ColumnRecipe, tokenizers: Tokenizers): Encoder {
  let encoder = encoders.get(column);
  if (!encoder) {
    encoder = makeEncoder(column, tokenizers);
    encoders.set(column, encoder);
  }
  return encoder;
}

function makeEncoder({ kind, width, steps }: ColumnRecipe, tokenizers: Tokenizers): Encoder {
  const last = steps.at(-1)!;
  const isNumber = isNumberStep(last) || (last.step === 'date' && width === 1 && !last.cyclic);
  const before = steps.slice(0, isNumber ? undefined : -1);
  if (isNumber)
    return (values, rows, out, stride, at, place) => {
      const { numbers, missing } = runNumbers(values, kind, before, place);
      for (let i = 0; i < rows; i++) {
        const x = numbers[i]!;
        if (Number.isNaN(x))
          throw badValue(
            place,
            i,
            `the value is missing; fill says what to put in its place, as fill(median), and --skip-missing ${flagValue(place.column)} leaves such rows out`,
          );
        out[i * stride + at] = x;
      }
      if (missing) for (let i = 0; i < rows; i++) out[i * stride + at + 1] = missing[i]!;
    };
  const fill = before.find(step => step.step === 'fill-text');
  if (last.step === 'tensor')
    return (values, rows, out, stride, at, place) => {
      const isArray = values instanceof Tensor;
      const numbers = isArray ? runArray(values, before).numbers() : numbersOf(values, kind, place);
      for (let i = 0; i < rows; i++)
        for (let j = 0; j < width; j++) out[i * stride + at + j] = numbers[i * width + j]!;
    };
  const write = writerOf(last as Parameters<typeof writerOf>[0], kind, width, tokenizers);
  if (!before.length) return write;
  return (values, rows, out, stride, at, place) => {
    if (fill)
      return write(
        textsOf(values).map(text => text || fill.with),
        rows,
        out,
        stride,
        at,
        place,
      );
    const { numbers, missing } = runNumbers(values, kind, before, place);
    write(numbers, rows, out, stride, at, place);
    if (missing) for (let i = 0; i < rows; i++) out[i * stride + at + width - 1] = missing[i]!;
  };
}

/** The numbers after these steps, NaN where missing, and where they were missing, if a step asks for it. */
export function runNumbers(
  values: Values,
  kind: FieldKind,
  steps: readonly Step[],
  place: Place,
): { numbers: Float64Array | Float32Array | Int32Array; missing?: Uint8Array } {
  let numbers = numbersOf(values, kind, place);
  let missing: Uint8Array | undefined;
  for (const step of steps) {
    if (step.step === 'none') continue;
    if (step.step === 'fill' && step.indicator)
      missing = Uint8Array.from(numbers, x => (Number.isNaN(x) ? 1 : 0));
    const change = functionOf(step);
    const next = new Float64Array(numbers.length);
    for (let i = 0; i < next.length; i++) next[i] = change(numbers[i]!);
    if (step.step === 'log1p') checkLogarithm(next, numbers, place);
    numbers = next;
  }
  return missing ? { numbers, missing } : { numbers };
}

function checkLogarithm(logs: Float64Array, numbers: ArrayLike<number>, place: Place): void {
  const row = logs.findIndex((x, i) => !Number.isFinite(x) && !Number.isNaN(numbers[i]!));
  if (row >= 0) throw badValue(place, row, `log1p takes numbers above -1, not ${numbers[row]}`);
}

/** What a step makes of a number; missing ones stay NaN, but where they are filled. */
export function functionOf(step: Step): (x: number) => number {
  switch (step.step) {
    case 'log1p':
      return x => (x > -1 ? Math.log1p(x) : Number.NaN);
    case 'standardize':
      return x => (x - step.mean) / step.std;
    case 'min-max': {
      const range = step.max - step.min || 1;
      return x => (x - step.min) / range;
    }
    case 'subtract':
      return x => (x === step.except ? x : x - step.by);
    case 'fill':
      return x => (Number.isNaN(x) ? step.with : x);
    case 'date':
      return x => (Number.isNaN(x) ? x : datePart(x, step.parts[0]!));
    default:
      return x => x;
  }
}

function writerOf(
  step: Exclude<FinalStep, { step: 'tensor' }>,
  kind: FieldKind,
  width: number,
  tokenizers: Tokenizers,
): Encoder {
  switch (step.step) {
    case 'one-hot': {
      const positions = positionsOf(step.table, hasNumbers(kind));
      const unknown = step.table.length;
      const missing = unknown + (step.unknown === 'column' ? 1 : 0);
      return (values, _rows, out, stride, at, place) =>
        eachKey(values, kind, place, (key, row) => {
          const position = key === null ? undefined : positions.get(key);
          if (position !== undefined) out[row * stride + at + position] = 1;
          else if (key === null ? step.missing === 'error' : step.unknown === 'error')
            throw badValue(place, row, strange(key));
          else if ((key === null ? step.missing : step.unknown) === 'column')
            out[row * stride + at + (key === null ? missing : unknown)] = 1;
        });
    }
    case 'id':
    case 'class': {
      const isId = step.step === 'id';
      const positions = positionsOf(isId ? step.table : step.names, hasNumbers(kind));
      const { start, unknown, missing } = isId
        ? step
        : { start: 0, unknown: step.other ?? null, missing: null };
      return (values, _rows, out, stride, at, place) =>
        eachKey(values, kind, place, (key, row) => {
          const position = key === null ? undefined : positions.get(key);
          const id = position === undefined ? (key === null ? missing : unknown) : start + position;
          if (id === null)
            throw badValue(place, row, isId ? strange(key) : strangeClass(key, step, place.column));
          out[row * stride + at] = id;
        });
    }
    case 'hash':
      return (values, _rows, out, stride, at) =>
        textsOf(values).forEach((text, row) => {
          out[row * stride + at] = murmur3(text ?? '') % step.buckets;
        });
    case 'date':
      return (values, rows, out, stride, at, place) => {
        const numbers = numbersOf(values, 'date', place);
        for (let i = 0; i < rows; i++) {
          if (Number.isNaN(numbers[i]!)) throw badValue(place, i, 'the date is missing');
          writeDate(numbers[i]!, step.parts, step.cyclic, out, i * stride + at);
        }
      };
    case 'tokens':
      return (values, _rows, out, stride, at) =>
        textsOf(values).forEach((text, row) => {
          const encode = tokenizers.get(step.tokenizer)!;
          const ids = encode(text ?? '', width);
          const before = encode.padsLeft ? width - ids.length : 0;
          for (let i = 0; i < width; i++) {
            const id = ids[i - before];
            out[row * stride + at + i] =
              step.output === 'ids' ? (id ?? step.pad) : step.output === 'mask' && id !== undefined ? 1 : 0;
          }
        });
    case 'characters':
    case 'bytes': {
      const { pad } = step;
      return (values, _rows, out, stride, at) =>
        textsOf(values).forEach((text, row) => {
          const ids = idsOf(text ?? '', step, tokenizers);
          for (let i = 0; i < width; i++) out[row * stride + at + i] = ids[i] ?? pad;
        });
    }
    case 'multi-hot': {
      const positions = positionsOf(step.table, false);
      return (values, _rows, out, stride, at, place) =>
        listsOf(values, place).forEach((list, row) => {
          for (const item of list) {
            const position = positions.get(String(item));
            if (position !== undefined) out[row * stride + at + position] = 1;
          }
        });
    }
    case 'list':
      return (values, _rows, out, stride, at, place) => {
        const numberOf = itemsOf(step, place);
        const { pad } = step;
        listsOf(values, place).forEach((list, row) => {
          if (pad === null && list.length !== width)
            throw badValue(
              place,
              row,
              `${list.length} items instead of ${width}; list(${width},pad=N) truncates and pads`,
            );
          for (let i = 0; i < width; i++) {
            const item = list[i];
            out[row * stride + at + i] = item === undefined ? pad! : numberOf(item, row);
          }
        });
      };
    case 'chat':
      throw new AgdError('bad-option', 'Conversations feed an input as documents.');
    case 'image':
      throw new AgdError('bad-option', 'An image feeds an input alone, without other columns.');
  }
}

/** The number of an item of a list: itself, or its position in the table. */
function itemsOf(step: Extract<FinalStep, { step: 'list' }>, place: Place) {
  const positions = step.table && positionsOf(step.table, false);
  return (item: string | number, row: number): number => {
    const x = positions ? (positions.get(String(item)) ?? step.unknown) : Number(item);
    if (Number.isNaN(x)) throw badValue(place, row, `'${item}' is not a number`);
    return x;
  };
}

const strange = (key: string | number | null) =>
  key === null ? 'the value is missing' : `'${key}' is not among the values of the training data`;

function strangeClass(key: string | number | null, step: FinalStep, column: string): string {
  if (key === null) return `the label is missing; --skip-missing ${flagValue(column)} leaves such rows out`;
  const names = step.step === 'class' ? step.names : [];
  const shown = names.slice(0, 8).join(', ') + (names.length > 8 ? ` and ${names.length - 8} more` : '');
  return `'${key}' is not a class of the training data, which are ${shown}`;
}

/**
 * The numbers of a target as the data has them: what standardize, min-max and log1p did is undone. Undefined where they
 * are classes, whose names `classNames` has.
 */
export function targetNumbers(target: ColumnRecipe | undefined): ((x: number) => number) | undefined {
  if (!target?.steps.every(isNumberStep)) return undefined;
  const inverses = (target.steps as NumberStep[]).toReversed().map(inverseOf);
  return x => inverses.reduce((y, inverse) => inverse(y), x);
}

function inverseOf(step: NumberStep): (x: number) => number {
  switch (step.step) {
    case 'log1p':
      return Math.expm1;
    case 'standardize':
      return x => x * step.std + step.mean;
    case 'min-max':
      return x => x * (step.max - step.min || 1) + step.min;
    case 'subtract':
      return x => x + step.by;
    default:
      return x => x;
  }
}
