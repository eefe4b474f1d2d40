import { readFileSync } from 'node:fs';
import yargs, { type Argv } from 'yargs';
import { UsageError } from './failure.js';
import { HELP_WIDTH } from './kept-help.js';

/** Read rather than imported: the file's place differs between sources and build. */
function version(): string {
  for (const path of ['../package.json', '../../package.json']) {
    try {
      return JSON.parse(readFileSync(new URL(path, import.meta.url), 'utf8')).version;
    } catch {}
  }
  return 'unknown';
}

type Command = { builder(args: Argv): Argv<unknown>; handler(args: never): Promise<void> };

// Each command's module is loaded when it is called.
const COMMANDS: readonly [string, string, () => Promise<Command>][] = [
  [
    'inspect <model>',
    'Show what a model is made of and whether it can be trained',
    () => import('./commands/inspect.js'),
  ],
  [
    'inject <model>',
    'Write loss, backward pass and optimizer into a model',
    () => import('./commands/inject.js'),
  ],
  [
    'train <model>',
    'Train a model, plain or injected, and write it back',
    () => import('./commands/train.js'),
  ],
  [
    'compare <model>',
    'Train by several optimizers at several learning rates',
    () => import('./commands/compare.js'),
  ],
  ['export <model>', 'Take the trained model out of an injected one', () => import('./commands/export.js')],
  ['grad <model>', 'Loss and gradients of one batch', () => import('./commands/grad.js')],
  [
    'landscapes',
    'Draw the ways of optimizers over functions of two numbers',
    () => import('./commands/landscapes.js'),
  ],
  ['demo', 'Train LeNet on handwritten digits, in half a minute', () => import('./commands/demo.js')],
];

/** The options that may be given several times. */
const REPEATABLE = [
  '_',
  'train',
  'freeze',
  'grad',
  'group',
  'wrt',
  'map',
  'scale',
  'whole',
  'lazyRows',
  'lazy-rows',
];

function eachOnceWithItsValue(args: Record<string, unknown>): true {
  for (const [name, value] of Object.entries(args)) {
    const flag = `${name.length > 1 ? '--' : '-'}${name}`;
    if (Array.isArray(value) && !REPEATABLE.includes(name))
      throw new UsageError(`${flag} is given more than once.`);
    if (value === undefined || value === '') throw new UsageError(`${flag} needs a value.`);
    if (Number.isNaN(value)) throw new UsageError(`${flag} takes a number.`);
  }
  return true;
}

export const COMMAND_NAMES = COMMANDS.map(([command]) => command.split(' ')[0]!);

/** The command that was asked for. Thrown, as yargs lays out the help text when a handler has been called. */
class Chosen {
  constructor(readonly run: () => Promise<void>) {}
}

/** Does what the arguments say. Throws `UsageError` where they say nothing that can be done. */
export async function run(args: readonly string[]): Promise<void> {
  try {
    await program().parseAsync(args);
  } catch (thrown) {
    if (!(thrown instanceof Chosen)) throw thrown;
    await thrown.run();
  }
}

/** The command line as yargs takes it, for a terminal of so many columns. */
function program(columns = process.stdout.columns ?? HELP_WIDTH): Argv {
  const cli = yargs()
    .scriptName('agd-onnx')
    .usage('$0 <command>\n\nMakes any ONNX model trainable in stock ONNX Runtime.')
    .version(version())
    .locale('en')
    .help()
    .alias({ h: 'help', v: 'version' })
    .option('color', {
      type: 'boolean',
      describe: 'Colours, as NO_COLOR and the terminal say if not given',
      global: true,
    })
    .parserConfiguration({ 'duplicate-arguments-array': true, 'greedy-arrays': false })
    .wrap(Math.min(HELP_WIDTH, columns))
    .strict()
    .check(eachOnceWithItsValue, true)
    .demandCommand(1, 'Name a command.')
    .fail((message, error) => {
      throw error ?? new UsageError(message);
    });
  for (const [command, describe, load] of COMMANDS)
    cli.command({
      command,
      describe,
      builder: async (args: Argv) => (await load()).builder(args as Argv) as Argv,
      handler: args => {
        throw new Chosen(async () => (await load()).handler(args as never));
      },
    });
  return cli;
}

/** The help of a command, or of the program where it is ''. */
export async function helpOf(command: string): Promise<string> {
  let text = '';
  const args = command ? [command, '--help'] : ['--help'];
  await program(HELP_WIDTH).parseAsync(args, {}, (_error, _args, output) => {
    text = `${output}\n`;
  });
  return text;
}
