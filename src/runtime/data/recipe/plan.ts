/** Which columns feed which input, with which transforms: as the user says, else where only one thing can be meant. */
import { isFloat } from '../../../graph/dtype.js';
import { AgdError } from '../../../graph/errors.js';
import { showShape } from '../../../graph/ir.js';
import { nearest } from '../../../ops/core/option-type.js';
import { SEGMENTS } from '../../../passes/normalize/add-segments.js';
import {
  type ColumnSpec,
  quotedColumn,
  readColumns,
  showTransform,
  type Transform,
} from '../../../passes/recipe/columns.js';
import type { Windows } from '../../../passes/recipe/recipe.js';
import { isInteger } from '../convert.js';
import type { InputSpec } from '../match.js';
import type { Field, Source } from '../source.js';
import type { Chain, LabelRule } from './chain.js';
import type { RecipeSpec } from './fit-recipe.js';

/** An input of a model; `isTarget` for the one that takes labels. */
export type RecipeInput = InputSpec & { isTarget?: boolean };

export type PlannedColumn = { field: Field; transforms: Transform[] };
/** `length` 0: that of the input, if it has one, else one. `ahead`: how far behind a window's end its target begins. */
export type PlannedWindows = Omit<Windows, 'documents'> & {
  ahead: number;
  documents?: 'tokens' | 'segments';
};
export type PlannedInput = {
  spec: RecipeInput;
  columns: PlannedColumn[];
  windows?: PlannedWindows;
  /** Set for the target. */
  label?: LabelRule;
  /** Whether the user named the columns, and all transforms. */
  isSaid: boolean;
};
export type Plan = { inputs: PlannedInput[]; unused: string[] };

/** Columns of labels by the names that they usually have. */
const LABELS = ['label', 'labels', 'target', 'class', 'y', 'mask'];

const transform = (name: Transform['name'], options: Record<string, string> = {}): Transform => ({
  name,
  options,
  list: [],
});

/** Throws `missing-data` and `bad-option`. */
export function planColumns(source: Source, spec: RecipeSpec, inputs: readonly RecipeInput[]): Plan {
  const fields = new Map(source.fields.map(field => [field.name, field]));
  const said = saidBy(spec, inputs, fields, source);
  const target = inputs.find(input => input.isTarget);
  const label = target && !said.has(target.name) ? labelField(target, spec, inputs, fields) : undefined;
  const planned = new Map<string, PlannedInput>();
  const isOthers = (name: string) => name === target?.name || !inputs.some(input => input.name === name);
  const labels = new Set([
    ...[label?.name, spec.label].filter(name => name !== undefined),
    ...[...said].flatMap(([name, columns]) => (isOthers(name) ? columns.map(c => c.column) : [])),
  ]);
  for (const input of inputs) {
    const rule = input.isTarget ? ruleOf(input) : undefined;
    const own = said.get(input.name);
    if (own) planned.set(input.name, planSaid(input, own, fields, source, labels, rule));
    else if (input.isTarget && label)
      planned.set(
        input.name,
        part(input, [{ field: label, transforms: targetOf(label) }], rule, spec.label !== undefined),
      );
    else {
      const field =
        fields.get(input.name) ?? (input.alias === undefined ? undefined : fields.get(input.alias));
      if (field) planned.set(input.name, part(input, [{ field, transforms: asItIs(field, input) }], rule));
    }
  }
  derive(planned, inputs, source);
  const missing = inputs.filter(input => !planned.has(input.name));
  const used = new Set([...planned.values()].flatMap(p => p.columns.map(c => c.field.name)));
  const rest = [...fields.values()].filter(
    ({ name }) => !used.has(name) && !labels.has(name) && !(target === undefined && isUsualLabel(name, spec)),
  );
  const [only, ...more] = missing;
  if (only && !more.length && !only.isTarget && rest.length) {
    const unclear = rest.find(field => !usual(field, only));
    if (unclear) throw unclearColumn(unclear, only);
    planned.set(
      only.name,
      part(
        only,
        rest.map(field => ({ field, transforms: usual(field, only)! })),
      ),
    );
    rest.length = 0;
  } else if (only) throw noColumn(only, missing, [...fields.values()], source);
  return { inputs: inputs.map(({ name }) => planned.get(name)!), unused: rest.map(({ name }) => name) };
}

const part = (
  spec: RecipeInput,
  columns: PlannedColumn[],
  label?: LabelRule,
  isSaid = false,
): PlannedInput => ({
  spec,
  columns,
  isSaid,
  ...(label ? { label } : {}),
});

function saidBy(
  { columns = {}, label }: RecipeSpec,
  inputs: readonly RecipeInput[],
  fields: ReadonlyMap<string, Field>,
  source: Source,
): Map<string, ColumnSpec[]> {
  const said = readColumns(columns);
  const target = inputs.find(input => input.isTarget);
  // While the step is not there yet, its target is not among the inputs.
  if (target) {
    for (const name of said.keys())
      if (!inputs.some(input => input.name === name))
        throw new AgdError(
          'bad-option',
          `--columns ${name}=…: no input '${name}'; the data feeds ${inputs.map(i => `'${i.name}'`).join(', ')}.`,
        );
    const own = said.get(target.name);
    if (label !== undefined && own?.some(({ column }) => column !== label))
      throw new AgdError(
        'bad-option',
        `--label cannot be combined with --columns ${target.name}=…, which names other columns.`,
      );
  }
  if (label !== undefined && !fields.has(label)) throw noSuchColumn('--label', label, fields, source);
  return said;
}

function planSaid(
  input: RecipeInput,
  said: readonly ColumnSpec[],
  fields: ReadonlyMap<string, Field>,
  source: Source,
  labels: ReadonlySet<string>,
  label?: LabelRule,
): PlannedInput {
  const windows = new Map<string, PlannedWindows>();
  const isLeftOut = ({ column }: ColumnSpec) => column.startsWith('!') && !fields.has(column);
  const named = said.filter(one => !isLeftOut(one));
  const leftOut = said.filter(isLeftOut).flatMap(({ column }) => {
    const found = matching(column.slice(1), fields);
    if (!found[0]) throw noSuchColumn(`--columns ${input.name}=!`, column.slice(1), fields, source);
    return found.map(field => field!.name);
  });
  // A pattern matches what is not named by itself, left out, or the label.
  const taken = new Set([...leftOut, ...named.map(({ column }) => column), ...(label ? [] : labels)]);
  const columns = (named.length ? named : [{ column: '*', transforms: undefined }]).flatMap(
    ({ column, transforms }) =>
      matching(column, fields, taken).map(field => {
        if (!field) throw noSuchColumn(`--columns ${input.name}=`, column, fields, source);
        const given = transforms && [...transforms];
        const cut = given?.at(-1)?.name;
        if (cut === 'windows' || cut === 'documents')
          windows.set(field.name, windowsOf(given!.pop()!, input, field));
        // Before windows, what is usual need not be said.
        const own = windows.get(field.name);
        if (given?.some(t => t.name === 'chat') && (!own?.documents || given.length > 1))
          throw new AgdError(
            'bad-option',
            `--columns ${input.name}=…: chat is followed by documents alone, as in ${quotedColumn(field.name)}:chat(tokenizer.json)+documents(512).`,
          );
        const chosen =
          own?.documents && field.kind === 'list'
            ? [listOf(own, given?.at(-1))]
            : given?.length
              ? given
              : usual(field, input);
        if (!chosen) throw unclearColumn(field, input);
        return { field, transforms: chosen };
      }),
  );
  const [first] = windows.values();
  if (first) checkWindows(input, columns, windows);
  return {
    ...part(
      input,
      columns,
      label,
      said.every(c => c.transforms),
    ),
    ...(first ? { windows: first } : {}),
  };
}

/** Windows of tokens are of one column; of numbers, all columns of an input have the same. */
function checkWindows(
  { name }: RecipeInput,
  columns: readonly PlannedColumn[],
  windows: ReadonlyMap<string, PlannedWindows>,
): void {
  const other = columns.find(
    ({ field }) => JSON.stringify(windows.get(field.name)) !== JSON.stringify([...windows.values()][0]),
  );
  if (columns.length > 1 && (columns.some(hasTokens) || [...windows.values()].some(w => w.documents)))
    throw new AgdError('bad-option', `--columns ${name}=…: windows of text are made of one column alone.`);
  if (other)
    throw new AgdError(
      'bad-option',
      `--columns ${name}=…: all columns of an input have the same windows, and those of '${other.field.name}' differ.`,
    );
}

const hasTokens = ({ transforms }: PlannedColumn) =>
  transforms.some(
    ({ name }) => name === 'tokenizer' || name === 'chat' || name === 'characters' || name === 'bytes',
  );

/** Whether samples are windows of rows, not of tokens. */
export const hasRowWindows = ({ inputs }: Plan) =>
  inputs.some(({ windows, columns }) => windows && !windows.documents && !columns.some(hasTokens));

/** The field of this name, or those that a pattern with * matches, less those that are taken. */
function matching(
  column: string,
  fields: ReadonlyMap<string, Field>,
  taken: ReadonlySet<string> = new Set(),
): (Field | undefined)[] {
  if (fields.has(column) || !column.includes('*')) return [fields.get(column)];
  const pattern = new RegExp(`^${column.split('*').map(escaped).join('.*')}$`, 's');
  const found = [...fields.values()].filter(({ name }) => pattern.test(name) && !taken.has(name));
  return found.length ? found : [undefined];
}

const escaped = (text: string) => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');

function windowsOf({ name, options }: Transform, input: RecipeInput, field: Field): PlannedWindows {
  const isRows = field.kind !== 'text';
  const [length, stride, ahead] = [
    options.length,
    options.stride ?? (isRows ? 1 : options.length),
    options.ahead ?? 1,
  ].map(Number);
  const isCount = (n: number | undefined, least = 1) => Number.isSafeInteger(n) && n! >= least;
  if (name === 'documents') {
    if (!isCount(length))
      throw new AgdError(
        'bad-option',
        `--columns ${input.name}=…: documents needs a length, as in documents(512).`,
      );
    if (isRows && field.kind !== 'list')
      throw new AgdError(
        'bad-option',
        `--columns ${input.name}=…: documents are text or lists of token ids, and column '${field.name}' has values of kind ${field.kind}.`,
      );
    return { length: length!, stride: length!, shift: input.isTarget ? 1 : 0, ahead: 1, documents: 'tokens' };
  }
  if (!isCount(length) || !isCount(stride) || !isCount(ahead, 0))
    throw new AgdError(
      'bad-option',
      `--columns ${input.name}=…: windows needs a length, and stride and ahead if they are others, as in windows(64,stride=32).`,
    );
  return { length: length!, stride: stride!, shift: 0, ahead: ahead! };
}

/** Inputs that follow from others: masks of a tokenizer, and the next tokens of windows. */
function derive(planned: Map<string, PlannedInput>, inputs: readonly RecipeInput[], source: Source): void {
  for (const { spec, columns, windows } of [...planned.values()]) {
    for (const column of columns)
      for (const [i, { name, options, list }] of column.transforms.entries()) {
        if (name !== 'tokenizer') continue;
        const isAlone = columns.length === 1 && !windows;
        const masked = isAlone && options.mask === undefined ? maskOf(spec, planned, inputs) : undefined;
        // Also shown among the options that say what was decided.
        if (masked) column.transforms[i] = { name, options: { ...options, mask: masked }, list };
        for (const output of ['mask', 'types'] as const) {
          const to = column.transforms[i]!.options[output];
          if (to === undefined) continue;
          const input = inputNamed(to, inputs, `tokenizer(${output}=${to})`);
          const { mask, types, ...rest } = options;
          const own: Transform = { name, options: { ...rest, output }, list: [] };
          planned.set(to, {
            ...part(input, [{ field: column.field, transforms: [own] }], undefined, to !== masked),
            ...(windows ? { windows } : {}),
          });
        }
      }
    if (!windows || spec.isTarget) continue;
    const segments = windows.documents && inputs.find(({ name }) => name === SEGMENTS);
    if (segments)
      planned.set(SEGMENTS, {
        ...part(segments, columns, undefined, true),
        windows: { ...windows, documents: 'segments' },
      });
    if (windows.documents)
      for (const [name, other] of planned)
        if (!other.windows && isListAlone(other))
          planned.set(name, {
            ...other,
            columns: other.columns.map(({ field }) => ({ field, transforms: [listOf(windows)] })),
            windows: { ...windows, shift: other.spec.isTarget ? 1 : 0 },
          });
    const target = inputs.find(input => input.isTarget);
    if (!target) continue;
    const isTokens = windows.documents !== undefined || columns.some(hasTokens);
    const own = planned.get(target.name) ?? part(target, labelsOf(columns), ruleOf(target), true);
    if (own.windows) continue;
    if (!isTokens) {
      const shift = windows.length - 1 + windows.ahead;
      planned.set(target.name, { ...own, windows: { ...windows, length: 0, shift } });
    } else if (!planned.has(target.name))
      planned.set(target.name, { ...own, windows: { ...windows, shift: windows.ahead } });
  }
  const list = [...planned.values()];
  const plain = list.find(p => !p.windows);
  const cut = list.find(p => p.windows);
  if (plain && cut)
    throw new AgdError(
      'bad-option',
      `Input '${cut.spec.name}' takes windows of ${source.name}, but '${plain.spec.name}' takes column '${plain.columns[0]!.field.name}' row by row: give windows to both.`,
    );
}

/** Of conversations, only what the assistant says is learned. */
const labelsOf = (columns: PlannedColumn[]): PlannedColumn[] =>
  columns.map(({ field, transforms }) => ({
    field,
    transforms: transforms.map(t =>
      t.name === 'chat' ? { ...t, options: { ...t.options, output: 'labels' } } : t,
    ),
  }));

/** The mask of an input of tokens, by the names that exporters give, if nothing else feeds it. */
function maskOf(
  { name }: RecipeInput,
  planned: ReadonlyMap<string, PlannedInput>,
  inputs: readonly RecipeInput[],
): string | undefined {
  const mask = name.replace(/input_ids$/, 'attention_mask');
  return mask !== name && !planned.has(mask) && inputs.some(i => i.name === mask) ? mask : undefined;
}

/** Ids as lists have them, in documents of this length. */
const listOf = ({ length }: PlannedWindows, given?: Transform): Transform =>
  given && given.name !== 'list' ? given : transform('list', { ...given?.options, length: String(length) });

/** A column of lists whose length nobody said: its items belong to the tokens of documents. */
function isListAlone({ columns: [first, ...others], spec }: PlannedInput): boolean {
  const [last] = first!.transforms;
  const isOpen = last?.name === 'list' && last.options.length === undefined;
  return (
    !others.length &&
    first!.field.kind === 'list' &&
    (isOpen || (spec.isTarget === true && last?.name === 'class'))
  );
}

function inputNamed(name: string, inputs: readonly RecipeInput[], where: string): RecipeInput {
  const found = inputs.find(input => input.name === name);
  if (found) return found;
  throw new AgdError(
    'bad-option',
    `${where}: no input '${name}'; the data feeds ${inputs.map(i => `'${i.name}'`).join(', ')}.`,
  );
}

function labelField(
  target: RecipeInput,
  { label }: RecipeSpec,
  inputs: readonly RecipeInput[],
  fields: ReadonlyMap<string, Field>,
): Field | undefined {
  if (label !== undefined) return fields.get(label);
  const own = fields.get(target.name) ?? (target.alias === undefined ? undefined : fields.get(target.alias));
  if (own) return own;
  const isInput = (name: string) => inputs.some(input => input.name === name);
  const usualNames = [...fields.values()].filter(
    f => LABELS.includes(f.name.toLowerCase()) && !isInput(f.name),
  );
  return usualNames.length === 1 ? usualNames[0] : undefined;
}

/** Before the step is there, the label is left out of what feeds the inputs. */
const isUsualLabel = (name: string, { label }: RecipeSpec) =>
  label === undefined ? LABELS.includes(name.toLowerCase()) : name === label;

function ruleOf({ name, dtype, range }: RecipeInput): LabelRule {
  const takesClasses = isInteger(dtype);
  const padding = range?.ignored ?? (range && range.least < 0 ? -1 : undefined);
  return {
    input: name,
    takesClasses,
    isUnit: range?.most === 1 && !takesClasses,
    ...(takesClasses && range && Number.isFinite(range.most) ? { classes: range.most + 1 } : {}),
    ...(range?.ignored === undefined ? {} : { ignored: range.ignored }),
    ...(padding === undefined ? {} : { padding }),
  };
}

/** What a column named as its input is: numbers stay as they are. */
function asItIs(field: Field, input: RecipeInput): Transform[] {
  if (input.isTarget) return targetOf(field);
  const isNumber = ['number', 'integer', 'bool', 'tensor'].includes(field.kind);
  const otherwise = transform(field.kind === 'list' ? 'list' : 'none');
  return isNumber ? [otherwise] : (usual(field, input) ?? [otherwise]);
}

/** What a target is made of: classes, or the pixels of masks. */
const targetOf = ({ kind }: Field): Transform[] =>
  kind === 'image' ? [transform('image', { mask: 'true' })] : [transform('class')];

/** What is usually made of a column for an input of this type, if there is such a thing. */
export function usual(field: Field, { dtype, isTarget }: RecipeInput): Transform[] | undefined {
  if (isTarget) return targetOf(field);
  const toFloat = isFloat(dtype);
  switch (field.kind) {
    case 'number':
      return toFloat ? [transform('fill', { with: 'mean' }), transform('standardize')] : undefined;
    case 'integer':
      return toFloat ? [transform('fill', { with: 'mean' }), transform('standardize')] : [transform('none')];
    case 'bool':
      return [transform('fill', { with: 'most-frequent' })];
    case 'text':
      return toFloat ? [transform('one-hot')] : [transform('id')];
    case 'list':
      return toFloat ? [transform('multi-hot')] : undefined;
    case 'image':
      return [transform('image')];
    case 'tensor':
      return [transform('none')];
    default:
      return undefined;
  }
}

/** `where` is the option that names the column. */
export function noSuchColumn(
  where: string,
  column: string,
  fields: ReadonlyMap<string, Field>,
  source: Source,
): AgdError {
  const names = [...fields.keys()];
  const lower = column.toLowerCase();
  const near = names.find(name => name.toLowerCase() === lower) ?? nearest(column, names);
  const hint = near === undefined ? `it has ${listed(names)}` : `did you mean '${near}'?`;
  return new AgdError(
    'missing-data',
    `${where}${/[=!]$/.test(where) ? '' : ' '}${column}: ${source.name} has no such column; ${hint}${hint.endsWith('?') ? '' : '.'}`,
  );
}

function unclearColumn({ name, kind }: Field, { name: input, dtype }: RecipeInput): AgdError {
  const advice =
    kind === 'date'
      ? `say which parts of it, as ${quotedColumn(name)}:date(month,weekday)`
      : kind === 'number'
        ? `${dtype} holds whole numbers`
        : `say how, as ${quotedColumn(name)}:list(16)`;
  return new AgdError(
    'bad-option',
    `Column '${name}' has values of kind ${kind}, and input '${input}' takes ${dtype}: ${advice}, or leave the column out: --columns '${input}=!${quotedColumn(name)}'.`,
  );
}

function noColumn(
  input: RecipeInput,
  missing: readonly RecipeInput[],
  fields: readonly Field[],
  source: Source,
): AgdError {
  if (missing.some(i => i.name === SEGMENTS))
    throw new AgdError(
      'bad-option',
      `--pack packs documents, which are rows of a column of text: --columns '${missing.find(i => !i.isTarget && i.name !== SEGMENTS)?.name ?? 'input_ids'}=COLUMN:tokenizer(FILE)+documents(512)', in place of windows.`,
    );
  const columns = listed(fields.map(({ name, kind }) => `${name} (${kind})`));
  if (input.isTarget || missing.some(i => i.isTarget))
    return new AgdError(
      'missing-data',
      `${source.name} has no column '${(missing.find(i => i.isTarget) ?? input).name}' for the target; name the one with the labels: --label COLUMN. It has ${columns}.`,
    );
  const what = missing
    .map(({ name, dtype, shape }) => `'${name}' (${dtype} ${showShape(shape)})`)
    .join(' and ');
  const example = missing.map(({ name }) => `--columns '${name}=COLUMN,…'`).join(' ');
  return new AgdError(
    'missing-data',
    `No column of ${source.name} is named as ${missing.length > 1 ? 'the inputs' : 'input'} ${what}; say which feed ${missing.length > 1 ? 'each' : 'it'}: ${example}. It has ${columns}.`,
  );
}

/** Names, of many only the first. */
const listed = (names: readonly string[]) =>
  names.slice(0, 12).join(', ') + (names.length > 12 ? ` and ${names.length - 12} more` : '');

/** More columns than this are not told one by one. */
const FEW = 12;

/** One note on what was decided, with the options that say it; none where all was said, or fed as it is. */
export function showPlan(
  { inputs, unused }: Plan,
  chains: ReadonlyMap<PlannedInput, readonly Chain[]>,
): string[] {
  const decided = inputs.filter(p => !p.isSaid && chains.has(p) && !isPlain(p));
  if (!decided.length) return [];
  const options = inputs
    .filter(p => !isPlain(p) && !isMadeOfOthers(p))
    .map(p => {
      const { spec, columns, label, windows } = p;
      const [only] = columns;
      const [first] = only!.transforms;
      const isPlainLabel = first?.name === 'class' && !first.list.length && first.options.other === undefined;
      if (label && columns.length === 1 && isPlainLabel) return `--label ${quotedColumn(only!.field.name)}`;
      const cut = !windows
        ? []
        : windows.documents
          ? [`documents(${windows.length})`]
          : [`windows(${windows.length},stride=${windows.stride})`];
      const parts = columns.slice(0, FEW).map(({ field, transforms }) => {
        const shown = windows?.documents && field.kind === 'list' ? [] : transforms.map(showTransform);
        return `${quotedColumn(field.name)}:${[...shown, ...cut].join('+')}`;
      });
      const rest = columns.length > FEW ? ',…' : '';
      return `--columns '${spec.name}=${parts.join(',')}${rest}'`;
    });
  const told = decided.map(p => {
    const names = listed(p.columns.map(c => c.field.name));
    return `${p.label ? 'target' : `input '${p.spec.name}'`} from ${p.columns.length > 1 ? `${p.columns.length} columns` : 'column'} ${names}`;
  });
  const left = unused.length ? `; not used: ${listed(unused)}` : '';
  return [`Columns: ${told.join('; ')}${left}. Explicitly: ${options.join(' ')}`];
}

/** What the tokenizer of another input gives too. */
const isMadeOfOthers = ({ columns: [first] }: PlannedInput) =>
  first!.transforms.some(({ options }) => options.output !== undefined);

/** A column of the input's own name, as it is. */
function isPlain({ spec, columns, label }: PlannedInput): boolean {
  const [only, ...more] = columns;
  if (more.length || !only) return false;
  const isNamed = only.field.name === spec.name || only.field.name === spec.alias;
  return isNamed && (label !== undefined || only.transforms.every(t => t.name === 'none'));
}
