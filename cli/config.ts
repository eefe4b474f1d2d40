/** Configuration files: the options of a command under the library's names, in JSON, YAML, TypeScript or JavaScript. */
import { readFile } from 'node:fs/promises';
import { extname, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import {
  AgdError,
  type Command,
  checkOption,
  type Option,
  optimizerNamed,
  types,
  unknownName,
} from '../src/command/startup.js';
import { flagOf, named, type Options, optionsOf, type Values } from './flags.js';

/** Objects that the library nests options in; text in their place is what they begin with. */
const NESTED: ReadonlyMap<string, string | undefined> = new Map([
  ['loss', 'kind'],
  ['optimizer', 'name'],
  ['bind', undefined],
]);

/** Throws `io` where the file cannot be read, `bad-option` for what it must not say. */
export async function readConfig(path: string, command: Command, own: Options): Promise<Values> {
  const config = await load(path);
  if (!isObject(config)) throw new AgdError('bad-option', `${path} must hold an object of options.`);
  const options = optionsOf(command, own);
  const known: Known = {
    options: new Map(options.map(([name, option]) => [option.path ?? name, option])),
    paths: new Map(
      options.flatMap(([name, option]) =>
        option.path ? [name, flagOf(name, option)].map(flag => [flag, option.path!] as const) : [],
      ),
    ),
  };
  const values: Values = {};
  for (const [name, given] of Object.entries(config)) {
    // For editors.
    if (name === '$schema') continue;
    // No flag, but the argument of the command.
    if (name === 'model') {
      checkOption(`${path}: model`, types.text, given);
      values.model = given;
      continue;
    }
    const first = NESTED.get(name);
    const value = typeof given === 'string' && first ? { [first]: given } : given;
    if (name === 'optimizer' && isObject(value)) checkOptimizer(path, value);
    const parts = NESTED.has(name) && isObject(value) ? Object.entries(value) : undefined;
    if (parts)
      values[name] = Object.fromEntries(
        parts.map(([part, v]) => [part, read(path, `${name}.${part}`, v, known)]),
      );
    else values[name] = read(path, name, value, known);
  }
  return values;
}

/** Options by their place in a file, and the places of those that a flag names otherwise. */
type Known = {
  options: ReadonlyMap<string, Option>;
  paths: ReadonlyMap<string, string>;
};

/** One value, which may be written as the flag has it. */
function read(path: string, name: string, value: unknown, known: Known): unknown {
  if (name === 'loss.kind' && value === 'output') return value;
  const option = known.options.get(name);
  if (!option || name === 'config') {
    const place = known.paths.get(name);
    const why = place
      ? `Option '${name}' is '${place}' in a file.`
      : unknownName('option', name, [...known.options.keys()]).message;
    throw new AgdError('bad-option', `${path}: ${why}`);
  }
  const place = `${path}: ${name}`;
  const parsed = named(place, () => parsedText(value, option));
  checkOption(place, option.type, parsed);
  return parsed;
}

/** The value of texts that are written as the flag has them; one text is a list of one, as a flag that is given once. */
function parsedText(value: unknown, { parse, parseAll, type }: Option): unknown {
  const texts = typeof value === 'string' ? [value] : value;
  if (type === types.texts) return texts;
  if (typeof value === 'string' && parse) return parse(value);
  const isText = Array.isArray(texts) && texts.length > 0 && texts.every(text => typeof text === 'string');
  return isText && parseAll ? parseAll(texts) : value;
}

function checkOptimizer(path: string, { name = 'agd' }: Values): void {
  named(path, () => optimizerNamed(String(name)));
}

/** The extensions that a configuration file names, which decide what else it may say. */
export async function extensionsOf(path: string): Promise<readonly string[]> {
  const config = await load(path);
  const extend = isObject(config) ? config.extend : undefined;
  return Array.isArray(extend) ? extend.filter(file => typeof file === 'string') : [];
}

async function load(path: string): Promise<unknown> {
  const ending = extname(path).toLowerCase();
  try {
    if (/^\.[cm]?[jt]s$/.test(ending)) {
      const { createJiti } = await import('jiti');
      return await createJiti(import.meta.url).import(pathToFileURL(resolve(path)).href, { default: true });
    }
    const text = await readFile(path, 'utf8');
    if (ending === '.yaml' || ending === '.yml')
      return (await import('yaml')).parse(text, { logLevel: 'error' });
    return JSON.parse(text);
  } catch (error) {
    const { syscall, message } = error as NodeJS.ErrnoException;
    if (syscall) throw (await import('../src/internal.js')).ioError(`Cannot read '${path}'`, error);
    const [line] = message.split('\n');
    throw new AgdError('bad-option', `${path} cannot be parsed: ${line}.`, { cause: error });
  }
}

/** What the flags say goes before the file; groups of the file come first, so that later ones count. */
export function merge(file: Values, flags: Values): Values {
  const merged: Values = { ...file, ...flags };
  for (const name of NESTED.keys())
    if (file[name] && flags[name]) merged[name] = { ...(file[name] as Values), ...(flags[name] as Values) };
  for (const name of ['groups', 'extend'])
    if (file[name] && flags[name]) merged[name] = [...(file[name] as []), ...(flags[name] as [])];
  return merged;
}

function isObject(value: unknown): value is Values {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
