/** The flags of a command, made from the registry of options and the command's own table, and what they say. */
import type { Argv } from 'yargs';
import {
  AgdError,
  type Command,
  checkOption,
  GROUPS,
  OPTIONS,
  type Option,
  optimizerFlags,
  parseNumbers,
  types,
  unknownName,
} from '../src/command/startup.js';
import { UsageError } from './failure.js';

export type Options = Readonly<Record<string, Option>>;

/** Options as the library nests them: `loss`, `optimizer` and `bind` are objects. */
export type Values = Record<string, unknown>;

export const kebab = (name: string) => name.replace(/[A-Z]/g, c => `-${c.toLowerCase()}`);

export const flagOf = (name: string, { flag }: Option) => flag ?? kebab(name);

/** All options that a command has a flag for, in the order in which help shows them; `own` are its own. */
export function optionsOf(command: Command, own: Options): [name: string, option: Option][] {
  const shared: [string, Option][] = Object.entries<Option>(OPTIONS);
  const all = [...shared.filter(([name]) => !Object.hasOwn(own, name)), ...optimizerOptions()]
    .filter(([, { commands }]) => commands.includes(command))
    .concat(Object.entries(own));
  const flags = all.map(([name, option]) => flagOf(name, option));
  const twice = flags.find((flag, i) => flags.indexOf(flag) !== i);
  if (twice !== undefined)
    throw new AgdError(
      'bad-option',
      `An optimizer of an extension has the option --${twice}, which ${command} has too.`,
    );
  return GROUPS.flatMap(group => all.filter(([, option]) => option.group === group));
}

/** Those of all optimizers; only the learning rate may be given to a run, too. */
function optimizerOptions(): [name: string, option: Option][] {
  const flags = optimizerFlags();
  const optimizers = new Set(flags.flatMap(({ owners }) => owners.map(o => o.optimizer))).size;
  return flags.map(({ name, type, help, owners }) => [
    name,
    {
      type,
      help,
      shown: shownDefaults(owners, optimizers),
      group: 'Optimizer',
      path: `optimizer.${name}`,
      commands: ['inject', 'train'],
      stage: name === 'lr' ? 'both' : 'inject',
      ...(name === 'lr' || name === 'weightDecay' ? {} : { expert: true }),
      ...(kindOf(type) === 'list' ? { parse: parseNumbers } : {}),
    },
  ]);
}

/** Which optimizers have it, by its default; that of most stands without names where all `optimizers` have it. */
function shownDefaults(owners: readonly { optimizer: string; value: unknown }[], optimizers: number): string {
  const byDefault = new Map<string, string[]>();
  for (const { optimizer, value } of owners) {
    const shown = value === true ? 'on' : value === false || value === undefined ? 'off' : String(value);
    byDefault.set(shown, [...(byDefault.get(shown) ?? []), optimizer]);
  }
  const groups = [...byDefault].sort(([, a], [, b]) => b.length - a.length);
  return groups
    .map(([value, names], i) =>
      owners.length === optimizers && i === 0 ? value : `${names.join(', ')}: ${value}`,
    )
    .join('; ');
}

/** The data of commands that run a model as it is. */
export const dataToRead = (what: string) =>
  ({
    ...{ group: 'Data', commands: [], stage: 'run', required: true },
    ...{ type: types.paths, parseAll: types.parsePaths },
    help: `Data ${what}, in any form that train reads; several, or a glob, are read one after the other`,
  }) satisfies Option;

type Kind = 'number' | 'boolean' | 'string' | 'list' | 'other';

/** What the text of a flag of this type is. */
function kindOf(type: types.OptionType): Kind {
  switch (type.type) {
    case 'number':
    case 'boolean':
    case 'string':
      return type.type;
    case 'array':
    case 'tuple':
      return 'list';
    case 'picklist':
      return 'string';
    default:
      return 'other';
  }
}

const isRepeatable = ({ type, parse, parseAll }: Option) =>
  parseAll !== undefined || (parse === undefined && kindOf(type) === 'list');

export const isSwitch = ({ type, parse, parseAll }: Option) => !parse && !parseAll && isTruthValue(type);

/** Whether it may be true or false, as one of its forms. */
function isTruthValue(type: types.OptionType): boolean {
  const { options } = type as unknown as { options?: readonly types.OptionType[] };
  return kindOf(type) === 'boolean' || (type.type === 'union' && !!options?.some(isTruthValue));
}

/** What the parser needs to know of the flags of a command. */
export type FlagKinds = {
  boolean: string[];
  string: string[];
  array: string[];
  alias: Record<string, string>;
};

export function flagKinds(command: Command, own: Options): FlagKinds {
  const kinds: FlagKinds = { boolean: [], string: [], array: [], alias: {} };
  for (const [name, option] of optionsOf(command, own)) {
    const flag = flagOf(name, option);
    kinds[isSwitch(option) ? 'boolean' : 'string'].push(flag);
    if (isRepeatable(option)) kinds.array.push(flag);
    if (option.alias !== undefined) kinds.alias[flag] = option.alias;
  }
  return kinds;
}

/** Adds the flags to the help of a command, expert ones hidden unless `all`. */
export function addFlags(args: Argv, command: Command, own: Options, all: boolean): Argv {
  for (const [name, option] of optionsOf(command, own)) {
    const { group, alias, expert } = option;
    args.option(flagOf(name, option), {
      ...(isSwitch(option) ? { type: 'boolean' } : {}),
      describe: describe(option),
      group: `${group}:`,
      ...(alias === undefined ? {} : { alias }),
      hidden: expert && !all,
    });
  }
  return args;
}

/** Its help, what it may be where that is a choice, and its default. */
function describe(option: Option): string {
  const { type, help, shown, required } = option;
  const names = types.namesOf(type);
  const choices = names ? `: ${names.join(', ')}` : '';
  return `${help}${choices}${shown || required ? ` [${shown ?? 'required'}]` : ''}`;
}

/** What the command line says, nested as the library has it. Throws `UsageError` and `bad-option`. */
export function readFlags(args: Readonly<Record<string, unknown>>, command: Command, own: Options): Values {
  const options = optionsOf(command, own);
  const known = new Map(options.map(([name, option]) => [flagOf(name, option), { name, option }]));
  const aliases = new Set(options.flatMap(([, { alias }]) => alias ?? []));
  const values: Values = {};
  for (const [name, given] of Object.entries(args)) {
    // yargs reads --no-prox as --prox that is off, though the option itself is called so.
    const isNegated = given === false && !known.has(name) && known.has(`no-${name}`);
    const [flag, value] = isNegated ? [`no-${name}`, true] : [name, given];
    if (RESERVED.has(flag) || aliases.has(flag) || value === undefined) continue;
    const found = known.get(flag);
    if (!found)
      throw new UsageError(
        unknownName(
          'option',
          // The parser takes off a `no-` that may have been meant.
          given === false ? `--no-${name}` : `--${flag}`,
          [...known.keys()].map(f => `--${f}`),
        ).message,
      );
    const read = readFlag(`--${flag}`, value, found.option);
    checkOption(`--${flag}`, found.option.type, read);
    place(values, found.option.path ?? found.name, read);
  }
  return values;
}

/** Throws `UsageError` for options that are required and missing, or that cannot be combined, wherever they were given. */
export function checkTogether(values: Values, options: readonly [name: string, option: Option][]): void {
  const named = new Map(options);
  const isGiven = (name: string, { path = name }: Option) => {
    const [first, second] = path.split('.') as [string, string?];
    const value = values[first];
    return (second === undefined ? value : (value as Values | undefined)?.[second]) !== undefined;
  };
  for (const [name, option] of options) {
    const flag = flagOf(name, option);
    if (!isGiven(name, option)) {
      if (option.required) throw new UsageError(`--${flag} is missing.`);
      continue;
    }
    const rival = option.conflicts?.find(other => named.has(other) && isGiven(other, named.get(other)!));
    if (rival)
      throw new UsageError(`--${flag} cannot be combined with --${flagOf(rival, named.get(rival)!)}.`);
  }
}

/** What yargs adds, and the program's own. */
const RESERVED = new Set(['_', '$0', 'model', 'other', 'help', 'h', 'help-all', 'version', 'v', 'color']);

function readFlag(flag: string, value: unknown, option: Option): unknown {
  const { parse, parseAll, type } = option;
  const repeatable = isRepeatable(option);
  if (Array.isArray(value) && !repeatable) throw new UsageError(`${flag} is given more than once.`);
  const texts = [value].flat();
  if (texts.some(text => text === '')) throw new UsageError(`${flag} needs a value.`);
  if (isSwitch(option)) return value;
  if (value === false) throw new UsageError(`${flag} has no --no- form.`);
  if (parseAll) return named(flag, () => parseAll(texts.map(String)));
  if (parse) return named(flag, () => parse(String(value)));
  if (repeatable) return texts.map(String);
  if (kindOf(type) !== 'number') return value;
  const number = Number(value);
  return Number.isNaN(number) ? value : number;
}

/** What `parse` returns; a `bad-option` that it throws says where the text is from. */
export function named<T>(place: string, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    if ((error as { code?: string }).code !== 'bad-option') throw error;
    throw new AgdError('bad-option', `${place}: ${(error as Error).message}`);
  }
}

/** Sets a value at `name` or `object.name`. */
function place(values: Values, path: string, value: unknown): void {
  const [first, second] = path.split('.') as [string, string?];
  if (second === undefined) values[first] = value;
  else values[first] = { ...(values[first] as object | undefined), [second]: value };
}
