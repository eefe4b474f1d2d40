/**
 * The version, and the help texts as files, which the build makes: to load yargs and to have it lay out the options takes
 * longer than everything else that help needs.
 */
import { readFileSync } from 'node:fs';
import { PACKAGE } from './package-folder.js';

/** Columns of a help text; a narrower terminal gets one that is laid out for it. */
export const HELP_WIDTH = 100;

/** Where the help of a command is cached; that of the program itself, where it is ''. */
export const helpFile = (command: string, all = false) =>
  new URL(`dist/node/help/${command || 'agd-onnx'}${all ? '.all' : ''}.txt`, PACKAGE);

export const version = (): string =>
  JSON.parse(readFileSync(new URL('package.json', PACKAGE), 'utf8')).version;

/** The help or version that these arguments ask for; undefined where it is not cached, or they ask for something else. */
export function cachedHelp(args: readonly string[], columns = HELP_WIDTH): string | undefined {
  const flag = args.at(-1) ?? '';
  if (args.length === 1 && ['--version', '-v'].includes(flag)) return `${version()}\n`;
  const [command = ''] = args.slice(0, -1);
  const asks = ['--help', '-h', '--help-all'].includes(flag) && args.length <= 2 && /^[a-z]*$/.test(command);
  if (!asks || columns < HELP_WIDTH) return undefined;
  try {
    return readFileSync(helpFile(command, flag === '--help-all'), 'utf8');
  } catch {
    return undefined;
  }
}
