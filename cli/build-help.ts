/** Writes the help texts that `cached-help.ts` reads: the last step of the build. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { helpFile } from './cached-help.js';
import { COMMAND_NAMES, helpOf } from './program.js';

mkdirSync(new URL('.', helpFile('')), { recursive: true });
for (const command of ['', ...COMMAND_NAMES])
  for (const all of [false, true]) writeFileSync(helpFile(command, all), await helpOf(command, all));
