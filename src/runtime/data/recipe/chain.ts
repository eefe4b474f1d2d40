/** The transforms of one column while they are being fitted. */
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join, parse } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { AgdError } from '../../../graph/errors.js';
import { showTransform, type Transform } from '../../../passes/recipe/columns.js';
import { DATE_PARTS, type DatePart } from '../../../passes/recipe/names.js';
import type { FinalStep, NumberStep, Otherwise, Step } from '../../../passes/recipe/recipe.js';
import type { Field, Values } from '../source.js';
import { functionOf, runNumbers } from './apply-recipe.js';
import { dimsAfter } from './array-steps.js';
import { dateWidth } from './dates.js';
import { Counts, Extremes, Moments, Sample, sorted } from './statistics.js';
import { padOf } from './tokenizer.js';
import { badValue, eachKey, isNumberKind, listsOf, type Place, textsOf } from './values.js';

/** What a pass over the data looks at, and the steps that follow from it. */
type Look = { see(values: Values, place: Place): void; steps(): Step[]; takes: number };

/** With an infinite number, a column has no mean and no range, and all of its values would become NaN. */
function checkFinite(x: number, row: number, place: Place): void {
  if (Math.abs(x) === Infinity)
    throw badValue(
      place,
      row,
      'the value is infinite, of which no mean or range can be taken; correct it, or leave it empty',
    );
}

/** What a target asks of its label column; see `InputSpec`. */
export type LabelRule = {
  input: string;
  takesClasses: boolean;
  classes?: number;
  ignored?: number;
  /** The label of a place without one. */
  padding?: number;
  isUnit: boolean;
};

type Shared = { tokenizers: Record<string, unknown>; notes: string[] };

/** How often values are missing in a column, and where first. */
type Missing = { count: number; first?: Place & { row: number } };

export class Chain {
  readonly fitted: Step[] = [];
  readonly missing: Missing = { count: 0 };
  #look: Look | undefined;
  #isCounted = false;

  constructor(
    readonly input: string,
    readonly field: Field,
    private readonly open: Transform[],
    private readonly shared: Shared,
    private readonly label?: LabelRule,
  ) {}

  get column(): string {
    return this.field.name;
  }

  /** Whether another pass over the data is needed. */
  prepare(): boolean {
    while (this.open.length && !this.#look) {
      const before = this.fitted.at(-1);
      if (before && !this.#takesMore(before, this.open[0]!))
        throw this.#error(`nothing can follow ${before.step}`);
      const step = this.#known(this.open[0]!);
      if (step) {
        this.#add(step);
        this.open.shift();
      } else this.#look = this.#lookFor(this.open[0]!);
    }
    const last = this.fitted.at(-1);
    if (!this.#look && this.#isArray && last && isOpenEnded(last)) this.fitted.push({ step: 'tensor' });
    return this.#look !== undefined;
  }

  /** Steps on arrays are followed by such steps alone. */
  #takesMore(before: Step, { name }: Transform): boolean {
    return isOpenEnded(before) && (!this.#isArray || name === 'subtract' || isArrayStep({ step: name }));
  }

  see(values: Values, place: Place): void {
    if (!this.#isCounted && isNumberKind(this.field.kind))
      eachKey(values, this.field.kind, place, (key, row) => {
        if (key !== null) return;
        this.missing.count++;
        this.missing.first ??= { ...place, row: place.firstRow + row };
      });
    this.#look?.see(values, place);
  }

  /** Whether the pass finds which values there are, not statistics of them. */
  get findsTable(): boolean {
    return TABLES.includes(this.open[0]!.name);
  }

  /** Takes what the pass has shown. */
  finish(): void {
    if (!this.#look) return;
    this.#isCounted = true;
    for (const step of this.#look.steps()) this.#add(step);
    this.open.splice(0, this.#look.takes);
    this.#look = undefined;
  }

  /** The shape of a row of an array after the steps so far. */
  get dims(): readonly number[] | undefined {
    const { kind, dims } = this.field;
    return kind === 'tensor' && dims ? dimsAfter(this.fitted, dims, this.#where) : undefined;
  }

  get width(): number {
    const indicator = this.fitted.some(step => step.step === 'fill' && step.indicator) ? 1 : 0;
    return widthOf(this.fitted.at(-1)!, this.dims) + indicator;
  }

  get #isNumbers(): boolean {
    return isNumberKind(this.field.kind) || this.fitted.length > 0;
  }

  get #isArray(): boolean {
    return this.field.kind === 'tensor';
  }

  get #where(): string {
    return `--columns ${this.input}=${this.column}`;
  }

  #error(what: string): AgdError {
    return new AgdError('bad-option', `${this.#where}: ${what}.`);
  }

  #add(step: Step): void {
    const before = this.fitted.at(-1);
    if (before?.step === 'fill-text' && isNumeric(step))
      throw this.#error(`${step.step} takes numbers, not text`);
    if (isArrayStep(step) && !this.#isArray)
      throw this.#error(`${step.step} takes arrays, but the column has values of kind ${this.field.kind}`);
    if (step.step === 'subtract' && this.#isArray) {
      this.fitted.push(step);
      return;
    }
    if (isNumeric(step) && !['number', 'integer', 'bool', 'date', 'text'].includes(this.field.kind))
      throw this.#error(`${step.step} takes numbers, but the column has values of kind ${this.field.kind}`);
    this.fitted.push(step);
  }

  /** The step that a transform is without looking at the data. */
  #known(transform: Transform): Step | undefined {
    const { name, options, list } = transform;
    const number = (key: string, otherwise?: number) => this.#number(transform, key, otherwise);
    const lengthOf = () => (options.length === undefined ? null : number('length'));
    switch (name) {
      case 'none':
        return this.field.kind === 'tensor' ? { step: 'tensor' } : { step: 'none' };
      case 'log1p':
        return { step: 'log1p' };
      case 'subtract': {
        const { ignored } = this.label ?? {};
        return { step: 'subtract', by: number('by'), ...(ignored === undefined ? {} : { except: ignored }) };
      }
      case 'transpose': {
        const axes = list.map(Number);
        if (!list.length || axes.some((_, axis) => !axes.includes(axis)))
          throw this.#error(
            `${showTransform(transform)}: transpose takes the order of all axes, the samples' first, as in transpose(0,3,1,2)`,
          );
        return { step: 'transpose', axes };
      }
      case 'argmax':
        return { step: 'argmax' };
      case 'fill': {
        const { with: value } = options;
        if (value === undefined) throw this.#error('fill says with what: fill(mean), fill(median), fill(0)');
        if (value === 'mean' || value === 'median' || value === 'most-frequent') return undefined;
        if (!this.#isNumbers) return { step: 'fill-text', with: value };
        return { step: 'fill', with: number('with'), ...this.#indicator(transform) };
      }
      case 'hash':
        return { step: 'hash', buckets: number('buckets') };
      case 'date': {
        const parts = list.filter(part => part !== 'cyclic');
        const wrong = parts.find(part => !(DATE_PARTS as readonly string[]).includes(part));
        if (wrong !== undefined || !parts.length)
          throw this.#error(
            `${showTransform(transform)}: parts of a date are ${DATE_PARTS.join(', ')}, and cyclic for their sine and cosine`,
          );
        return { step: 'date', parts: parts as DatePart[], cyclic: list.includes('cyclic') };
      }
      case 'tokenizer': {
        const { tokenizer, contents } = this.#tokenizer(transform);
        const output = (options.output ?? 'ids') as 'ids';
        return {
          step: 'tokens',
          tokenizer,
          length: lengthOf(),
          pad: output === 'ids' ? number('pad', padOf(contents)) : 0,
          output,
        };
      }
      case 'chat': {
        const { tokenizer, contents } = this.#tokenizer(transform);
        return {
          step: 'chat',
          tokenizer,
          ...chatTemplate(options.file!),
          pad: number('pad', padOf(contents)),
          output: (options.output ?? 'ids') as 'ids',
        };
      }
      case 'bytes':
        return { step: 'bytes', length: lengthOf(), pad: number('pad', 0) };
      case 'image':
        return { step: 'image', options: { ...options } };
      case 'class':
        return list.length || options.other !== undefined ? this.#givenClasses(transform) : undefined;
      case 'windows':
      case 'documents':
        throw this.#error(`${name} are the last transform of a column`);
      default:
        return undefined;
    }
  }

  /** Without a length, all lists have the same. */
  #list(transform: Transform, table: string[] | null, { min, max }: Extremes): FinalStep {
    const { length, pad } = transform.options;
    if (length === undefined && (min !== max || max < 1))
      throw this.#error(
        max < 1
          ? 'all lists are empty'
          : `list needs a length, as the lists have ${min} to ${max} items: list(${max}), or documents(${max}) for tokens that predict the next one`,
      );
    const end = table?.length ?? 0;
    const { takesClasses = false, padding = null } = this.label ?? {};
    const otherwise = takesClasses ? padding : length === undefined ? null : table ? end + 1 : 0;
    return {
      step: 'list',
      table,
      length: length === undefined ? max : this.#number(transform, 'length'),
      unknown: this.#number(transform, 'unknown', end),
      pad: pad === undefined ? otherwise : this.#number(transform, 'pad'),
    };
  }

  #indicator({ options }: Transform): { indicator?: true } {
    return options.indicator === undefined ? {} : { indicator: true };
  }

  #number(transform: Transform, key: string, otherwise?: number): number {
    const text = transform.options[key];
    if (text === undefined) {
      if (otherwise !== undefined) return otherwise;
      throw this.#error(`${transform.name} needs ${key}, as in ${transform.name}(${key}=64)`);
    }
    const value = Number(text);
    const isCount = ['length', 'buckets', 'max', 'stride'].includes(key);
    const isWhole = isCount || ['start', 'unknown', 'missing'].includes(key);
    if (!Number.isFinite(value) || (isWhole && !Number.isSafeInteger(value)) || (isCount && value < 1))
      throw this.#error(
        `${showTransform(transform)}: ${key} must be ${isCount ? 'a whole number of at least 1' : isWhole ? 'a whole number' : 'a number'}, not '${text}'`,
      );
    return value;
  }

  #tokenizer(transform: Transform): { tokenizer: string; contents: unknown } {
    const { file } = transform.options;
    if (file === undefined)
      throw this.#error(
        transform.name === 'chat'
          ? 'chat needs the file of the tokenizer, as in chat(tokenizer.json)+documents(512)'
          : 'tokenizer needs its file, as in tokenizer(tokenizer.json,length=128)',
      );
    const { tokenizers } = this.shared;
    let contents: unknown;
    try {
      contents = JSON.parse(readFileSync(file, 'utf8'));
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code ? 'io' : 'bad-data';
      throw new AgdError(code, `Cannot read the tokenizer ${file}: ${(error as Error).message}.`);
    }
    // Files in different folders can have the same name.
    const { name: stem, ext } = parse(file);
    let name = `${stem}${ext}`;
    for (let i = 2; Object.hasOwn(tokenizers, name); i++) {
      if (isDeepStrictEqual(tokenizers[name], contents)) break;
      name = `${stem}-${i}${ext}`;
    }
    tokenizers[name] = contents;
    return { tokenizer: name, contents };
  }

  #lookFor(transform: Transform): Look {
    switch (transform.name) {
      case 'fill':
        return this.#isNumbers && !this.#isText ? this.#fill(transform) : this.#fillText();
      case 'standardize':
      case 'min-max':
        return this.#scale(transform);
      case 'one-hot':
      case 'id':
        return this.#categories(transform);
      case 'class':
        return this.#label();
      case 'characters': {
        const seen = new Counts(this.column);
        seen.add('\n');
        return {
          see: values => {
            for (const text of textsOf(values)) for (const c of text ?? '') seen.add(c);
          },
          steps: () => {
            const table = seen.table();
            const end = table.length;
            return [
              {
                step: 'characters',
                table,
                length: transform.options.length === undefined ? null : this.#number(transform, 'length'),
                unknown: this.#number(transform, 'unknown', end),
                pad: this.#number(transform, 'pad', end),
              },
            ];
          },
          takes: 1,
        };
      }
      default: {
        const seen = new Counts(this.column);
        const isCategory = transform.name === 'multi-hot';
        let isNumbers = !isCategory;
        const lengths = new Extremes();
        return {
          see: (values, place) => {
            for (const [row, list] of listsOf(values, place).entries()) {
              lengths.add(list.length);
              for (const item of list) {
                if (isCategory && typeof item === 'number' && !Number.isInteger(item))
                  throw badValue(
                    place,
                    row,
                    `${item} is no category; list(${list.length}) takes the numbers as they are`,
                  );
                isNumbers &&= typeof item === 'number';
                if (!isNumbers) seen.add(String(item));
              }
            }
          },
          steps: () => {
            const most = this.#most(transform);
            if (transform.name === 'list')
              return [this.#list(transform, isNumbers ? null : seen.table(most), lengths)];
            return [{ step: 'multi-hot', table: seen.table(most) }];
          },
          takes: 1,
        };
      }
    }
  }

  get #isText(): boolean {
    return this.field.kind === 'text' && !this.fitted.some(isNumeric);
  }

  #most(transform: Transform): number {
    return transform.options.max === undefined ? Number.POSITIVE_INFINITY : this.#number(transform, 'max');
  }

  /** The values after the steps so far, NaN where missing. */
  #numbers(values: Values, place: Place) {
    return runNumbers(values, this.field.kind, this.fitted, place).numbers;
  }

  /** Fill, with what follows it as long as it needs no pass of its own. */
  #fill(transform: Transform): Look {
    const how = transform.options.with!;
    const isLog = this.open[1]?.name === 'log1p';
    const next = this.open[isLog ? 2 : 1];
    const scaler = next?.name === 'standardize' || next?.name === 'min-max' ? next.name : undefined;
    const change = isLog ? functionOf({ step: 'log1p' }) : (x: number) => x;
    const moments = new Moments();
    const sample = new Sample();
    const counts = new Counts(this.column);
    const scale = { 'min-max': new Extremes(), standardize: new Moments() };
    let missing = 0;
    return {
      see: (values, place) => {
        for (const [i, x] of this.#numbers(values, place).entries()) {
          if (how === 'mean' || scaler) checkFinite(x, i, place);
          if (Number.isNaN(x)) {
            missing++;
            continue;
          }
          if (how === 'mean') moments.add(x);
          else if (how === 'median') sample.add(x);
          else counts.add(x);
          if (scaler) scale[scaler].add(change(x));
        }
      },
      steps: () => {
        const value = how === 'mean' ? moments.mean : how === 'median' ? sample.median : Number(counts.mode);
        const steps: NumberStep[] = [{ step: 'fill', with: value || 0, ...this.#indicator(transform) }];
        if (isLog) steps.push({ step: 'log1p' });
        const filled = change(value || 0);
        if (scaler === 'standardize') scale.standardize.addMany(filled, missing);
        if (scaler === 'min-max' && missing) scale['min-max'].add(filled);
        if (scaler) steps.push(scaleStep(scaler, scale));
        return steps;
      },
      takes: 1 + (isLog ? 1 : 0) + (scaler ? 1 : 0),
    };
  }

  #fillText(): Look {
    const counts = new Counts(this.column);
    return {
      see: (values, place) => eachKey(values, this.field.kind, place, key => counts.add(key)),
      steps: () => [{ step: 'fill-text', with: String(counts.mode ?? '') }],
      takes: 1,
    };
  }

  #scale({ name }: Transform): Look {
    const scale = { 'min-max': new Extremes(), standardize: new Moments() };
    const used = scale[name as 'standardize'];
    return {
      see: (values, place) => {
        for (const [i, x] of this.#numbers(values, place).entries()) {
          checkFinite(x, i, place);
          if (!Number.isNaN(x)) used.add(x);
        }
      },
      steps: () => [scaleStep(name as 'standardize', scale)],
      takes: 1,
    };
  }

  #categories(transform: Transform): Look {
    const counts = new Counts(this.column);
    const fill = this.fitted.find(step => step.step === 'fill-text');
    const isRaw = !this.fitted.length;
    return {
      see: (values, place) => {
        if (fill) for (const text of textsOf(values)) counts.add(text || fill.with);
        else if (isRaw) eachKey(values, this.field.kind, place, key => counts.add(key));
        else for (const x of this.#numbers(values, place)) counts.add(Number.isNaN(x) ? null : x);
      },
      steps: () => {
        const table = counts.table(this.#most(transform));
        if (transform.name === 'one-hot') {
          const otherwise = (key: string, value: Otherwise) => this.#otherwise(transform, key, value);
          const missing = otherwise('missing', counts.missing ? 'column' : 'zeros');
          return [{ step: 'one-hot', table, unknown: otherwise('unknown', 'zeros'), missing }];
        }
        const start = this.#number(transform, 'start', 0);
        const id = (key: string, value: number) =>
          transform.options[key] === 'error' ? null : this.#number(transform, key, value);
        const unknown = id('unknown', start + table.length);
        return [{ step: 'id', table, start, unknown, missing: id('missing', start + table.length + 1) }];
      },
      takes: 1,
    };
  }

  #otherwise(transform: Transform, key: string, value: Otherwise): Otherwise {
    const text = transform.options[key] ?? value;
    if (text === 'zeros' || text === 'column' || text === 'error') return text;
    throw this.#error(`${showTransform(transform)}: ${key} must be zeros, column or error, not '${text}'`);
  }

  /** Labels by the target's rule: classes by their numbers or a table, or values. */
  #label(): Look {
    const counts = new Counts(this.column);
    const { kind } = this.field;
    const rule = this.label;
    if (kind === 'list')
      return this.#lookFor({ name: rule?.takesClasses ? 'list' : 'multi-hot', options: {}, list: [] });
    let isFull = false;
    const extremes = new Extremes();
    let isWhole = true;
    return {
      see: (values, place) =>
        eachKey(values, kind, place, key => {
          if (typeof key === 'number') {
            if (key !== rule?.ignored) extremes.add(key);
            isWhole &&= Number.isInteger(key);
            // Of numbers as they are nobody asks for a table.
            isFull ||= counts.counts.size > FEW_CLASSES;
            if (isFull) return;
          }
          if (key !== rule?.ignored) counts.add(key);
        }),
      steps: () => [this.#labelStep([...counts.counts.keys()], extremes, isWhole, isFull)],
      takes: 1,
    };
  }

  /** Classes that the user names, in this order; `other` is that of all other values, the last one. */
  #givenClasses(transform: Transform): Step {
    const { other } = transform.options;
    const names = [...transform.list, ...(other === undefined ? [] : [other])];
    const twice = names.find((name, i) => names.indexOf(name) < i);
    const { classes = Infinity, takesClasses = true } = this.label ?? {};
    if (twice !== undefined) throw this.#error(`${showTransform(transform)} names '${twice}' twice`);
    if (names.length < 2 || names.length > (takesClasses ? classes : 2))
      throw this.#error(
        `${showTransform(transform)} gives ${names.length} class${names.length > 1 ? 'es' : ''}, but ${takesClasses ? (classes < 2 ? 'the output has fewer' : `the output has ${classes}`) : 'the loss takes two'}; other=NAME is the class of all other values`,
      );
    return { step: 'class', names, ...(other === undefined ? {} : { other: names.length - 1 }) };
  }

  #labelStep(keys: (string | number)[], { min, max }: Extremes, isWhole: boolean, isFull: boolean): Step {
    const table = sorted(keys).map(String);
    const { kind } = this.field;
    const rule = this.label ?? { input: this.input, takesClasses: true, isUnit: false };
    const { classes } = rule;
    const where = `Column '${this.column}'`;
    const shown = `${table.slice(0, 8).join(', ')}${table.length > 8 ? ` and ${table.length - 8} more` : ''}`;
    const isArray = this.#isArray && this.field.dtype !== 'string';
    const isNumber = isNumberKind(kind) || isArray;
    // What does not suit is told when the array is bound.
    if (isArray && this.field.dims?.length) return { step: 'tensor' };
    if (!rule.takesClasses) {
      const isBinary = table.length === 2 && !isFull;
      if (!isNumber && !isBinary)
        throw new AgdError(
          'bad-data',
          `${where} has ${table.length} classes (${shown}), but the loss takes numbers as targets; --loss cross-entropy learns classes.`,
        );
      const outside = isNumber && (min < 0 || max > 1);
      if (isBinary && (!isNumber || kind === 'bool' || (rule.isUnit && outside))) {
        if (kind !== 'bool')
          this.shared.notes.push(`Label '${this.column}': ${table[0]} is 0, ${table[1]} is 1.`);
        return { step: 'class', names: table };
      }
      return { step: 'none' };
    }
    if (isNumber && !isWhole)
      throw new AgdError(
        'bad-data',
        `${where} holds numbers such as ${keys.find(x => !Number.isInteger(x))}, but the loss takes classes; --loss mse learns numbers.`,
      );
    // Numbers that are classes already stay as they are, also where some class has no sample.
    if (isNumber && kind !== 'bool' && min >= 0 && max < (classes ?? Infinity)) return { step: 'none' };
    if (isFull || (classes !== undefined && table.length > classes))
      throw new AgdError(
        'bad-data',
        `${where} has ${isFull ? `more than ${FEW_CLASSES}` : table.length} classes (${shown}), but the output has ${classes ?? 'fewer'}: choose another --label, or give the model as many outputs: agd-onnx adapt MODEL --classes ${isFull ? 'N' : table.length}.`,
      );
    if (isNumber && kind !== 'bool')
      this.shared.notes.push(
        `Label '${this.column}': the values ${shown} are the classes from 0 on, in this order.`,
      );
    return { step: 'class', names: table };
  }
}

/** The chat template beside a tokenizer, and the special tokens that it reads, as transformers finds them. */
function chatTemplate(file: string): { template: string; special: Record<string, string> } {
  const read = (name: string) => {
    const path = join(dirname(file), name);
    try {
      return existsSync(path) ? readFileSync(path, 'utf8') : undefined;
    } catch (error) {
      throw new AgdError('io', `Cannot read ${path}: ${(error as Error).message}.`);
    }
  };
  const name = 'tokenizer_config.json';
  let config: Record<string, unknown>;
  try {
    config = JSON.parse(read(name) ?? '{}') ?? {};
  } catch (error) {
    if (error instanceof AgdError) throw error;
    throw new AgdError('bad-data', `${join(dirname(file), name)} is not JSON: ${(error as Error).message}.`);
  }
  const given = config.chat_template;
  const named = Array.isArray(given) ? given.find(one => one?.name === 'default')?.template : given;
  const template = read('chat_template.jinja') ?? named;
  if (typeof template !== 'string')
    throw new AgdError(
      'bad-data',
      `There is no chat template beside ${file}: neither chat_template.jinja nor chat_template in tokenizer_config.json.`,
    );
  const special: Record<string, string> = {};
  for (const [key, value] of Object.entries(config)) {
    const text = (value as { content?: unknown } | null)?.content ?? value;
    if (key.endsWith('_token') && typeof text === 'string') special[key] = text;
  }
  return { template, special };
}

/** Transforms whose width, or number of ids, is that of a table. */
const TABLES: readonly string[] = ['one-hot', 'id', 'class', 'characters', 'multi-hot', 'list'];

/** More different numbers than this are not classes. */
const FEW_CLASSES = 100_000;

const isNumeric = (step: Step) => ['log1p', 'standardize', 'min-max', 'subtract'].includes(step.step);

const isArrayStep = ({ step }: { step: string }) => step === 'transpose' || step === 'argmax';

const isOpenEnded = (step: Step) =>
  isNumeric(step) ||
  isArrayStep(step) ||
  ['none', 'fill', 'fill-text'].includes(step.step) ||
  (step.step === 'date' && dateWidth(step.parts, step.cyclic) === 1);

function scaleStep(
  name: 'standardize' | 'min-max',
  scale: { standardize: Moments; 'min-max': Extremes },
): NumberStep {
  const { min, max } = scale['min-max'];
  if (name === 'min-max') return { step: name, ...(min <= max ? { min, max } : { min: 0, max: 1 }) };
  return { step: name, mean: scale.standardize.mean, std: scale.standardize.std };
}

/** How many numbers a column gives that ends with this step; windows and texts without a length say it themselves. */
function widthOf(step: Step, dims: readonly number[] = []): number {
  switch (step.step) {
    case 'one-hot':
      return step.table.length + (step.unknown === 'column' ? 1 : 0) + (step.missing === 'column' ? 1 : 0);
    case 'date':
      return dateWidth(step.parts, step.cyclic);
    case 'tokens':
    case 'characters':
    case 'bytes':
    case 'list':
      return step.length ?? 0;
    case 'multi-hot':
      return step.table.length;
    case 'image':
      return 0;
    case 'tensor':
      return dims.reduce((n, d) => n * d, 1);
    default:
      return 1;
  }
}
