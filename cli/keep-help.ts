/** Writes the help texts that `kept-help.ts` reads: the last step of the build. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { helpFile } from './kept-help.js';
import { COMMAND_NAMES, helpOf } from './program.js';

mkdirSync(new URL('.', helpFile('')), { recursive: true });
for (const command of ['', ...COMMAND_NAMES]) writeFileSync(helpFile(command), await helpOf(command));
