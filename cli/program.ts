import type { Argv } from 'yargs';
import parseFlags from 'yargs-parser';
import { AgdError, findLaunch, type Command as Name, OPTIONS, unknownName } from '../src/command/startup.js';
import { readArguments } from './arguments.js';
import { HELP_WIDTH, version } from './cached-help.js';
import { UsageError } from './failure.js';
import { addFlags, type FlagKinds, flagKinds, type Options, type Values } from './flags.js';

/** What the module of a command exports. */
type Command = {
  /** What its argument is; it takes none if not given. */
  model?: string;
  /** What its second argument is, if it takes two. */
  other?: string;
  /** Options beside those of the registry that are for this command, or in their place. */
  options: Options;
  /** Command lines, less the program's name, with what they do. */
  examples: readonly (readonly [command: string, does: string])[];
  handler(args: never): Promise<void>;
};

// Each command's module is loaded when it is called.
const COMMANDS: Record<Name, readonly [describe: string, load: () => Promise<Command>]> = {
  train: ['Train a model, plain or injected, and write it back', () => import('./commands/train.js')],
  evaluate: ['Compute loss and metrics on data', () => import('./commands/evaluate.js')],
  predict: ['Write predictions for data', () => import('./commands/predict.js')],
  inspect: [
    'Show what a model consists of and whether it can be trained',
    () => import('./commands/inspect.js'),
  ],
  inject: ['Write loss, backward pass and optimizer into a model', () => import('./commands/inject.js')],
  export: ['Extract the trained model from an injected one', () => import('./commands/export.js')],
  init: ['Generate a configuration for a model and its data', () => import('./commands/init.js')],
  adapt: ['Give a model a new head or a larger vocabulary', () => import('./commands/adapt.js')],
  diff: ['Show which tensors of two models differ, and by how much', () => import('./commands/diff.js')],
  operators: [
    'List the operators that a reduced build of ONNX Runtime needs',
    () => import('./commands/operators.js'),
  ],
  grad: ['Compute loss and gradients of one batch', () => import('./commands/grad.js')],
  differentiate: [
    'Write a model that computes gradients, Jacobians, Hessians or products with them',
    () => import('./commands/differentiate.js'),
  ],
  compare: ['Train with several optimizers at several learning rates', () => import('./commands/compare.js')],
  landscapes: ['Plot optimizer trajectories on 2-D test functions', () => import('./commands/landscapes.js')],
  demo: ['Train LeNet on handwritten digits, in half a minute', () => import('./commands/demo.js')],
  completion: ['Print a completion script for a shell', () => import('./commands/completion.js')],
};

/** What follows the name of a command that does not take one model. */
const ARGUMENTS: Partial<Record<Name, string>> = {
  landscapes: '',
  demo: '',
  completion: ' [shell]',
  diff: ' <model> <other>',
};

/** They write no file, so that several processes may run the same one. */
const READ_ONLY: ReadonlySet<Name> = new Set<Name>(['inspect', 'evaluate', 'diff', 'completion']);

export const COMMAND_NAMES = Object.keys(COMMANDS) as Name[];

export const describe = (name: Name) => COMMANDS[name][0];

/** Such a file may name the model. */
const hasConfig = (name: Name) => OPTIONS.config.commands.some(command => command === name);

/** The module of a command: its options, examples and handler. */
export const loadCommand = (name: Name): Promise<Command> => COMMANDS[name][1]();

/** Does what the arguments say. Throws `UsageError` where they say nothing that can be done. */
export async function run(args: readonly string[]): Promise<void> {
  let isRead = false;
  try {
    const chosen = await parse(args);
    isRead = true;
    if (!chosen || isRepeated(chosen)) return;
    const { handler } = await loadCommand(chosen.name);
    await handler(chosen.values as never);
  } catch (error) {
    if (!isSaidByFirst(error, isRead, args)) throw error;
    process.exitCode = 1;
  }
}

/** Whether the first rank fails in the same way, as all have the same arguments: one line is enough. Files may differ. */
function isSaidByFirst(error: unknown, isRead: boolean, args: readonly string[]): boolean {
  const isOfArguments =
    error instanceof UsageError || (!isRead && error instanceof AgdError && error.code === 'bad-option');
  const readsFiles = args.some(arg => /^--(config|extend)\b/.test(arg));
  return isOfArguments && !readsFiles && !!findLaunch()?.rank;
}

/**
 * Whether a launcher started this command several times although it does not distribute its work. Rank 0 throws `UsageError`, so
 * that one line is printed: its failure ends all of them.
 */
function isRepeated({ name, values }: { name: Name; values: Values }): boolean {
  const launch = findLaunch();
  if (!launch || launch.size === 1 || values.distributed || READ_ONLY.has(name)) return false;
  if (launch.rank > 0) return true;
  const { launcher, size = 'several' } = launch;
  throw new UsageError(
    name === 'train'
      ? `${launcher} started ${size} processes, each of which would train the same model: add --distributed.`
      : `${launcher} started ${size} processes, each of which would write the same files: run agd-onnx ${name} without ${launcher}; only train is distributed.`,
  );
}

/** The command with its values; undefined where the arguments ask for help or the version, which is printed. */
export async function parse(args: readonly string[]): Promise<{ name: Name; values: Values } | undefined> {
  await extend(args);
  // What is no flag of a command is enough to find it, and its flags decide what else is one.
  const [name] = read(args)._;
  const command = isCommand(name) ? await loadCommand(name) : undefined;
  const parsed = read(args, command && flagKinds(name as Name, command.options));
  if (asksForHelp(read(args)) || asksForHelp(parsed)) {
    const all = args.includes('--help-all');
    await (await program(all)).parseAsync(all ? [...args.filter(a => a !== '--help-all'), '--help'] : args);
    return undefined;
  }
  if (name === undefined) throw new UsageError('Name a command.');
  if (!command || !isCommand(name)) throw new UsageError(unknownName('command', name, COMMAND_NAMES).message);
  const {
    _: [, ...given],
    ...flags
  } = parsed;
  const [least, most] = countOf(name);
  const unnamed = () => new UsageError('Name a model file.');
  if (given.length < least) throw unnamed();
  if (given.length > most) throw new UsageError(`Unexpected argument '${given[most]}'.`);
  const [model = flags.model, other] = given;
  const needsModel = command.model && ARGUMENTS[name] === undefined;
  if (needsModel && model === undefined && flags.config === undefined) throw unnamed();
  const values = await readArguments({ ...flags, model, other }, name, command.options);
  if (needsModel && values.model === undefined) throw unnamed();
  return { name, values };
}

/** How the parser reads, here and for help. */
const READING = {
  'duplicate-arguments-array': true,
  'greedy-arrays': false,
  'camel-case-expansion': false,
  'parse-numbers': false,
};

/** The arguments with these flags, as yargs reads them: its parser takes a tenth of the time to load. Throws `UsageError`. */
function read(args: readonly string[], flags: Partial<FlagKinds> = {}) {
  const { argv, error } = parseFlags.detailed([...args], {
    ...flags,
    boolean: [...(flags.boolean ?? []), 'color', 'help', 'version', 'help-all'],
    string: [...(flags.string ?? []), 'model', 'other'],
    alias: { ...flags.alias, help: ['h'], version: ['v'] },
    configuration: { ...READING, 'parse-positional-numbers': false },
  });
  if (error) throw new UsageError(error.message);
  return { ...argv, _: argv._.map(String) } as Record<string, unknown> & { _: string[] };
}

const asksForHelp = ({ help, version, 'help-all': all, _: given }: ReturnType<typeof read>) =>
  help || version || all || given.at(-1) === 'help';

const isCommand = (name: string | undefined): name is Name =>
  name !== undefined && Object.hasOwn(COMMANDS, name);

/** How many arguments follow the name of a command, at least and at most. */
function countOf(name: Name): [least: number, most: number] {
  const names = argumentsOf(name);
  return [names.split('<').length - 1, names.split(' ').length - 1];
}

/** Loads the extensions that the arguments name, first: they decide which flags there are, and what these may be. */
async function extend(args: readonly string[]): Promise<void> {
  const valuesOf = (flag: string) =>
    args.flatMap((arg, i) =>
      arg === flag ? (args[i + 1] ?? []) : arg.startsWith(`${flag}=`) ? arg.slice(flag.length + 1) : [],
    );
  const paths = valuesOf('--extend');
  const [config] = valuesOf('--config');
  if (config !== undefined) paths.unshift(...(await (await import('./config.js')).extensionsOf(config)));
  if (!paths.length) return;
  const { loadExtensions } = await import('../src/internal.js');
  await loadExtensions(paths);
}

/** What follows the name of a command. */
const argumentsOf = (name: Name) => ARGUMENTS[name] ?? (hasConfig(name) ? ' [model]' : ' <model>');

/** The command line as yargs lays out its help, for a terminal of so many columns. */
async function program(all: boolean, columns = process.stdout.columns ?? HELP_WIDTH): Promise<Argv> {
  const { default: yargs } = await import('yargs');
  const cli = yargs()
    .scriptName('agd-onnx')
    .usage('$0 <command>\n\nMakes any ONNX model trainable in stock ONNX Runtime.')
    .version(version())
    .locale('en')
    .help()
    .alias({ h: 'help', v: 'version' })
    .option('color', {
      type: 'boolean',
      describe: 'Colored output [by NO_COLOR and the terminal]',
      global: true,
    })
    .option('help-all', { type: 'boolean', describe: 'Show expert options too', global: true })
    .parserConfiguration(READING)
    .wrap(Math.min(HELP_WIDTH, columns));
  // Its types do not have it yet.
  (cli as unknown as { usageConfiguration(how: object): void }).usageConfiguration({ 'hide-types': true });
  for (const name of COMMAND_NAMES) {
    const [describe, load] = COMMANDS[name];
    cli.command({
      command: `${name}${argumentsOf(name)}`,
      describe,
      builder: async (args: Argv) => {
        const { model, other, options, examples } = await load();
        if (name === 'completion') args.positional('shell', { type: 'string', describe: model });
        else if (model) args.positional('model', { type: 'string', describe: model });
        if (other) args.positional('other', { type: 'string', demandOption: true, describe: other });
        addFlags(args, name, options, all);
        for (const [command, does] of examples) args.example(`$0 ${command}`, does);
        return args;
      },
      handler: () => {},
    });
  }
  return cli;
}

/** The help of a command, or of the program where it is ''. */
export async function helpOf(command: string, all = false): Promise<string> {
  let text = '';
  const args = command ? [command, '--help'] : ['--help'];
  await (await program(all, HELP_WIDTH)).parseAsync(args, {}, (_error, _args, output) => {
    text = `${output}\n`;
  });
  return text;
}
