/** Checks of a recipe read from a file, so that code that applies it cannot fail on malformed data. */
import * as v from 'valibot';
import { dtypeCode } from '../../graph/dtype.js';
import { COLUMN_KINDS, DATE_PARTS } from './names.js';

const text = v.string();
const finite = v.pipe(v.number(), v.finite());
const whole = v.pipe(v.number(), v.safeInteger());
/** Limit on extents and widths: no model takes more numbers per row. */
const extent = v.pipe(whole, v.minValue(0), v.maxValue(2 ** 31));
const count = v.pipe(extent, v.minValue(1));
const table = v.array(text);
const otherwise = v.picklist(['zeros', 'column', 'error']);
const maybe = v.nullable(whole);
const length = v.nullable(count);

const step = v.variant('step', [
  v.strictObject({ step: v.literal('none') }),
  v.strictObject({ step: v.literal('log1p') }),
  v.strictObject({
    step: v.literal('standardize'),
    mean: finite,
    std: v.pipe(finite, v.gtValue(0)),
  }),
  v.strictObject({ step: v.literal('min-max'), min: finite, max: finite }),
  v.strictObject({ step: v.literal('subtract'), by: finite, except: v.optional(finite) }),
  v.pipe(
    v.strictObject({ step: v.literal('transpose'), axes: v.pipe(v.array(whole), v.minLength(1)) }),
    v.check(
      ({ axes }) => axes.every((_, axis) => axes.includes(axis)),
      'the axes are not an order of all axes',
    ),
  ),
  v.strictObject({ step: v.literal('argmax') }),
  v.strictObject({ step: v.literal('fill'), with: finite, indicator: v.optional(v.boolean()) }),
  v.strictObject({ step: v.literal('fill-text'), with: text }),
  v.strictObject({ step: v.literal('one-hot'), table, unknown: otherwise, missing: otherwise }),
  v.strictObject({ step: v.literal('id'), table, start: whole, unknown: maybe, missing: maybe }),
  v.strictObject({ step: v.literal('hash'), buckets: count }),
  v.strictObject({
    step: v.literal('date'),
    parts: v.pipe(v.array(v.picklist(DATE_PARTS)), v.minLength(1)),
    cyclic: v.boolean(),
  }),
  v.pipe(
    v.strictObject({
      step: v.literal('class'),
      names: v.pipe(table, v.minLength(1)),
      other: v.optional(v.pipe(whole, v.minValue(0))),
    }),
    v.check(({ names, other = 0 }) => other < names.length, 'other is not one of the classes'),
  ),
  v.strictObject({
    step: v.literal('tokens'),
    tokenizer: text,
    length,
    pad: whole,
    output: v.picklist(['ids', 'mask', 'types']),
  }),
  v.strictObject({
    step: v.literal('chat'),
    tokenizer: text,
    template: text,
    special: v.record(text, text),
    pad: whole,
    output: v.picklist(['ids', 'labels']),
  }),
  v.strictObject({ step: v.literal('characters'), table, length, unknown: whole, pad: whole }),
  v.strictObject({ step: v.literal('bytes'), length, pad: whole }),
  v.strictObject({ step: v.literal('multi-hot'), table }),
  v.strictObject({
    step: v.literal('list'),
    table: v.nullable(table),
    length: count,
    unknown: whole,
    pad: v.nullable(finite),
  }),
  v.strictObject({
    step: v.literal('image'),
    options: v.record(text, v.union([text, finite, v.boolean()])),
  }),
  v.strictObject({ step: v.literal('tensor') }),
]);

const NUMBER_STEPS = new Set(['none', 'log1p', 'standardize', 'min-max', 'subtract', 'fill']);
const ARRAY_STEPS = new Set(['transpose', 'argmax']);

const NOT_LAST = new Set(['fill-text', ...ARRAY_STEPS]);

const column = v.strictObject({
  column: text,
  kind: v.picklist(COLUMN_KINDS),
  width: extent,
  steps: v.pipe(
    v.array(step),
    v.minLength(1),
    v.check(
      steps => steps.slice(0, -1).every(s => isBeforeLast(s)) && !NOT_LAST.has(steps.at(-1)!.step),
      'a step that ends a column is not its last',
    ),
  ),
});
type Column = v.InferOutput<typeof column>;

/** Whether the width is that of the steps, if these determine one. */
function hasWidth({ width, steps }: Column): boolean {
  const last = steps.at(-1)!;
  const indicator = steps.some(s => s.step === 'fill' && s.indicator) ? 1 : 0;
  const own = widthOf(last);
  return own === undefined ? width <= LONGEST : width === own + indicator;
}

/** Steps whose windows consist of tokens. */
const isText = (name: string) => ['tokens', 'characters', 'bytes'].includes(name);

/** The maximum number of values from a text, an image or an array. */
const LONGEST = 2 ** 28;

function widthOf(s: v.InferOutput<typeof step>): number | undefined {
  switch (s.step) {
    case 'one-hot':
      return s.table.length + Number(s.unknown === 'column') + Number(s.missing === 'column');
    case 'multi-hot':
      return s.table.length;
    case 'date': {
      const isTwice = (part: string) => s.cyclic && !/year|epoch/.test(part);
      return s.parts.reduce((n, part) => n + (isTwice(part) ? 2 : 1), 0);
    }
    case 'list':
      return s.length;
    case 'tokens':
    case 'characters':
    case 'bytes':
      return s.length ?? undefined;
    case 'chat':
    case 'image':
    case 'tensor':
      return undefined;
    default:
      return 1;
  }
}

/** A single part of a date is a number, to which further steps apply. */
function isBeforeLast(s: v.InferOutput<typeof step>): boolean {
  if (s.step === 'date') return s.parts.length === 1 && (!s.cyclic || /year|epoch/.test(s.parts[0]!));
  return NUMBER_STEPS.has(s.step) || ARRAY_STEPS.has(s.step) || s.step === 'fill-text';
}

const isDType = (name: string) => {
  try {
    return dtypeCode(name as 'float32') > 0;
  } catch {
    return false;
  }
};

const input = v.pipe(
  v.strictObject({
    input: text,
    dtype: v.pipe(text, v.check(isDType, 'an unknown element type')),
    dims: v.array(extent),
    columns: v.pipe(
      v.array(v.pipe(column, v.check(hasWidth, 'the width is not that of the steps'))),
      v.minLength(1),
    ),
    windows: v.optional(
      v.strictObject({
        length: count,
        stride: count,
        shift: extent,
        channelsFirst: v.optional(v.boolean()),
        documents: v.optional(v.strictObject({ fill: whole, segments: v.optional(v.literal(true)) })),
      }),
    ),
  }),
  v.check(({ dims, columns, windows }) => {
    const width = columns.reduce((n, column) => n + column.width, 0);
    const places =
      windows && !windows.documents && !isText(columns[0]!.steps.at(-1)!.step) ? windows.length : 1;
    return dims.reduce((n, d) => n * d, 1) === width * places;
  }, 'the widths of the columns do not add up to the dims'),
);

const RECIPE = v.pipe(
  v.strictObject({
    version: v.literal(1),
    inputs: v.pipe(v.array(input), v.minLength(1)),
    target: v.optional(text),
    scores: v.optional(
      v.strictObject({
        output: text,
        loss: v.optional(text),
        classAxis: v.optional(whole),
        threshold: v.optional(finite),
      }),
    ),
    tokenizers: v.optional(v.record(text, v.unknown())),
  }),
  v.check(
    ({ target, inputs }) => target === undefined || inputs.some(i => i.input === target),
    'its target is not among the inputs',
  ),
  v.check(
    ({ inputs }) => new Set(inputs.map(i => i.input)).size === inputs.length,
    'an input is there twice',
  ),
  v.check(
    ({ inputs, tokenizers = {} }) =>
      inputs.every(i =>
        i.columns.every(c =>
          c.steps.every(
            s => (s.step !== 'tokens' && s.step !== 'chat') || Object.hasOwn(tokenizers, s.tokenizer),
          ),
        ),
      ),
    'it does not hold a tokenizer that it names',
  ),
);

/** The first problem and its path; undefined if there is none. */
export function checkRecipe(recipe: unknown): string | undefined {
  const { success, issues } = v.safeParse(RECIPE, recipe, { abortEarly: true });
  if (success) return undefined;
  const [{ message, path }] = issues;
  const place = path?.map(({ key }) => (typeof key === 'number' ? `[${key}]` : `.${key}`)).join('') ?? '';
  return place ? `at '${place.slice(1)}': ${message}` : message;
}
