/** Parses the text of flags that are more than a number or a word. */
import * as v from 'valibot';
import { AgdError } from '../../graph/errors.js';
import { type OptionType, unknownName } from '../../ops/core/option-type.js';
import type { AnyOptions } from '../../ops/optimizers/index.js';

/** Options of the parameters whose name matches one of the globs; other options are unchanged. */
export type ParameterGroup<O> = { match: string | readonly string[]; options: Partial<O> };

/** `GLOB,GLOB: name=value, name=value`, with PyTorch's or this project's names of the options. */
export function parseGroup(text: string): ParameterGroup<AnyOptions> {
  const [, globs, list] = /^(.*?):\s*(\w[\w-]*\s*=.*)$/s.exec(text) ?? [];
  if (!globs?.trim() || list === undefined)
    throw new AgdError('bad-option', `expected GLOBS: name=value, ..., not '${text}'.`);
  // Commas in {a,b} belong to a glob, those in betas=0.9,0.99 to a value.
  const match = globs.split(/,(?![^{]*\})/).map(glob => glob.trim());
  return { match, options: parseAssignments(list) };
}

/** `name=value, name=value`, in which commas may belong to a value. Throws `bad-option`. */
export function parseAssignments(list: string): AnyOptions {
  const items = list.split(/,(?=\s*[a-z][\w-]*\s*=)/i).map(item => {
    const at = item.indexOf('=');
    if (at < 0) throw new AgdError('bad-option', `expected name=value, ..., not '${list}'.`);
    return [camel(item.slice(0, at).trim()), parseValue(item.slice(at + 1).trim())];
  });
  return Object.fromEntries(items);
}

/**
 * `name=value,name=value` as an object with these entries. `missing` says what is required, if anything is. Throws `bad-option`.
 */
export function parseSettings<T>(text: string, type: OptionType<T> & { entries: object }, missing = ''): T {
  const given = parseAssignments(text);
  const result = v.safeParse(type, given, { abortEarly: true });
  if (result.success) return result.output;
  const known = Object.keys(type.entries);
  const unknown = Object.keys(given).find(name => !known.includes(name));
  if (unknown !== undefined) throw unknownName('setting', unknown, known);
  const [{ path, message }] = result.issues;
  const name = String(path?.[0]?.key);
  if (!(name in given)) throw new AgdError('bad-option', `${missing}, not '${text}'.`);
  throw new AgdError('bad-option', `${name} must be ${message}, in '${text}'.`);
}

const camel = (name: string) => name.replace(/[-_](.)/g, (_, letter: string) => letter.toUpperCase());

function parseValue(text: string): number | number[] | boolean | string {
  if (text === 'true' || text === 'false') return text === 'true';
  const values = text.split(',').map(Number);
  if (text === '' || !values.every(Number.isFinite)) return text;
  return values.length === 1 ? values[0]! : values;
}

/** The interval at which another layer starts to train. */
export type Unfreezing = { updates: number; epochs?: undefined } | { epochs: number; updates?: undefined };

/** `500` or `500updates`, `1epoch` or `2epochs`. Throws `bad-option`. */
export function parseUnfreezing(text: string): Unfreezing {
  const [, digits, unit] = /^\s*(\d+)\s*(updates?|epochs?)?\s*$/.exec(text) ?? [];
  const number = Number(digits);
  if (!digits || !Number.isSafeInteger(number) || number < 1)
    throw new AgdError(
      'bad-option',
      `expected a number of updates or epochs, as 500 or 1epoch, not '${text}'.`,
    );
  return unit?.startsWith('epoch') ? { epochs: number } : { updates: number };
}

/** Throws `bad-option` if the text is not a list of numbers. */
export function parseNumbers(text: string, flag = ''): number[] {
  const values = text.split(',').map(Number);
  if (text.trim() === '' || !values.every(Number.isFinite))
    throw new AgdError(
      'bad-option',
      `${flag && `${flag}: `}expected comma-separated numbers, not '${text}'.`,
    );
  return values;
}

export function parsePair(text: string): [string, string] {
  const at = text.indexOf('=');
  if (at < 1 || at === text.length - 1)
    throw new AgdError('bad-option', `expected INPUT=VALUE, not '${text}'.`);
  return [text.slice(0, at), text.slice(at + 1)];
}

export function parseScales(list: readonly string[]): number | Record<string, number> {
  if (list.length === 1 && !list[0]!.includes('=')) return parseScale(list[0]!);
  return Object.fromEntries(list.map(parsePair).map(([input, factor]) => [input, parseScale(factor)]));
}

/** A factor as users write it: a number or a quotient of two, `0.5` or `1/255`. Throws `bad-option`. */
export function parseScale(text: string): number {
  const [numerator, denominator = '1', ...rest] = text.split('/');
  const scale = Number(numerator) / Number(denominator);
  if (rest.length > 0 || !Number.isFinite(scale) || scale === 0)
    throw new AgdError(
      'bad-option',
      `expected a number other than 0 or a quotient such as 1/255, not '${text}'.`,
    );
  return scale;
}

/** `8GB`, `1.5GB`, `500MB` in multiples of 1000, as sizes are printed; `8GiB` in those of 1024. Throws `bad-option`. */
export function parseBytes(text: string): number {
  const [, number, unit, binary] = /^\s*(\d+(?:\.\d+)?)\s*(k|m|g|t)(i?)b?\s*$/i.exec(text) ?? [];
  const bytes = Number(number) * (binary ? 1024 : 1000) ** ' kmgt'.indexOf(unit?.toLowerCase() ?? '');
  if (!unit || !(bytes > 0))
    throw new AgdError('bad-option', `expected an amount of memory, as 8GB or 500MB, not '${text}'.`);
  return Math.round(bytes);
}

/** A name as a shell takes it. */
export const flagValue = (name: string) => (/^[\w./:-]+$/.test(name) ? name : `'${name}'`);
