/** Types of options with their ranges. Errors, help texts and the JSON schema use the descriptions of these ranges. */
import { closestMatch } from 'leven';
import * as v from 'valibot';
import { AgdError } from '../../graph/errors.js';

export type OptionType<T = unknown> = v.GenericSchema<T>;

type NumberCheck = v.PipeItem<number, number, v.BaseIssue<number>>;

const number = (what: string, ...checks: ((what: string) => NumberCheck)[]) => {
  const [first = v.finite, second = v.finite, third = v.finite] = checks;
  return v.pipe(v.number(what), first(what), second(what), third(what), v.description(what));
};

const from = (least: number) => (what: string) => v.minValue<number, number, string>(least, what);
const above = (bound: number) => (what: string) => v.gtValue<number, number, string>(bound, what);
const below = (bound: number) => (what: string) => v.ltValue<number, number, string>(bound, what);

export const finite = number('a number');
export const positive = number('a number above 0', above(0));
export const nonNegative = number('a number of at least 0', from(0));
export const fraction = number('a number from 0 to 1', from(0), what => v.maxValue(1, what));
/** The range of decay rates. */
export const belowOne = number('a number in [0, 1)', from(0), below(1));
export const betweenZeroAndOne = number('a number between 0 and 1, exclusive', above(0), below(1));
export const integer = number('a whole number', v.safeInteger);
export const count = number('a whole number of at least 1', v.safeInteger, from(1));
export const countFromTwo = number('a whole number of at least 2', v.safeInteger, from(2));
export const countFromZero = number('a whole number of at least 0', v.safeInteger, from(0));

export const flag = v.pipe(v.boolean('true or false'), v.description('true or false'));
export const text = v.pipe(v.string('a text'), v.minLength(1, 'a text'), v.description('a text'));
export const texts = v.pipe(v.array(text, 'a list of texts'), v.readonly(), v.description('a list of texts'));
/** One or several, as a flag that may be repeated gives them. */
export const paths = v.union([text, texts], 'a path or a list of paths');
export const parsePaths = (list: readonly string[]) => (list.length === 1 ? list[0] : list);
export const numbers = v.pipe(
  v.array(finite, 'a list of numbers'),
  v.minLength(1, 'a list of numbers'),
  v.readonly(),
  v.description('a list of numbers'),
);
/** Decay rates of two moving averages. */
export const betas = v.pipe(
  v.tuple([belowOne, belowOne], 'two numbers in [0, 1)'),
  v.readonly(),
  v.description('two numbers in [0, 1)'),
);

/** `names` may grow, as extensions add theirs. */
export function choice<const T extends readonly string[]>(names: T) {
  const what = () => `one of ${names.join(', ')}`;
  return v.pipe(v.picklist(names, what), v.description(what()));
}

/** The names of a choice, or of one among other forms. */
export function namesOf(type: OptionType): readonly string[] | undefined {
  const { options } = type as unknown as { options?: readonly unknown[] };
  if (type.type === 'picklist') return options as readonly string[];
  if (type.type !== 'union') return undefined;
  return (options as readonly OptionType[]).map(namesOf).find(names => names !== undefined);
}

/** A value that only a program can pass: it has no flag and no place in a configuration file. */
export const given = <T>(what: string, ok: (value: unknown) => boolean) =>
  v.pipe(v.custom<T>(ok, what), v.description(what));

/** Throws `bad-option` with the name of the option as the user gave it. */
export function checkOption(name: string, type: OptionType, value: unknown): void {
  const { success, issues } = v.safeParse(type, value, { abortEarly: true });
  if (success) return;
  const [{ message, path, input, expected }] = issues;
  const keys = path?.map(({ key }) => key as string | number) ?? [];
  const placeOf = (some: typeof keys) =>
    some.map(key => (typeof key === 'number' ? `[${key}]` : `.${key}`)).join('');
  // Of an object with a name that it does not have, the type tells the name.
  if (expected === 'never' && keys.length) {
    const owner = keys.slice(0, -1);
    const { message: unknown } = unknownName('key', String(keys.at(-1)), entriesAt(type, owner));
    throw new AgdError('bad-option', `${name}${placeOf(owner)}: ${unknown}`);
  }
  const place = placeOf(keys);
  throw new AgdError(
    'bad-option',
    `${name}${place} must be ${message}, not ${shown(input)}.${hint(type, input)}`,
  );
}

/** The names that the object at a place in values of this type can have. */
function entriesAt(type: OptionType, place: readonly (string | number)[]): string[] {
  let types = formsOf(type);
  for (const key of place)
    types = types.flatMap(({ item, value, entries }) => {
      const inner = item ?? value ?? entries?.[key];
      return inner ? formsOf(inner) : [];
    });
  return types.flatMap(({ entries }) => Object.keys(entries ?? {}));
}

type Form = {
  wrapped?: OptionType;
  options?: readonly unknown[];
  type: string;
  item?: OptionType;
  value?: OptionType;
  entries?: Record<string, OptionType>;
};

function formsOf(type: OptionType): Form[] {
  const form = type as unknown as Form;
  if (form.wrapped) return formsOf(form.wrapped);
  return form.type === 'union' ? (form.options as OptionType[]).flatMap(formsOf) : [form];
}

function hint(type: OptionType, input: unknown): string {
  const names = namesOf(type);
  if (!names || typeof input !== 'string') return '';
  const near = nearest(input, names);
  return near === undefined ? '' : ` Did you mean '${near}'?`;
}

/** The known name that is close to a mistyped one, or that begins with its words. */
export const nearest = (name: string, known: readonly string[]) =>
  known.find(other => other.startsWith(`${name}-`)) ??
  closestMatch(name, known, { maxDistance: 1 + Math.floor(name.length / 3) });

/** Text of a number, including those that JSON cannot represent. */
const shown = (value: unknown) => (typeof value === 'number' ? String(value) : JSON.stringify(value));

/** The error for an unknown name, with the closest known one if there is one. */
export function unknownName(what: string, name: string, known: readonly string[]): AgdError {
  const near = nearest(name, known);
  const unknown = `Unknown ${what} '${name}'`;
  if (near !== undefined) return new AgdError('bad-option', `${unknown}; did you mean '${near}'?`);
  // A longer list would not be read.
  const hint = known.length > 48 ? '' : `; expected one of ${known.join(', ')}`;
  return new AgdError('bad-option', `${unknown}${hint}.`);
}

/** Throws `bad-option` if an extension uses a name that is taken or that cannot be a flag. */
export function checkNewName(what: string, name: string, taken: readonly string[]): void {
  if (!/^[a-z][a-z0-9]*([-_][a-z0-9]+)*$/.test(name))
    throw new AgdError(
      'bad-option',
      `${what} '${name}': a name consists of lower-case letters, digits and single hyphens.`,
    );
  if (taken.includes(name))
    throw new AgdError('bad-option', `${what} '${name}' exists already: choose another name.`);
}
