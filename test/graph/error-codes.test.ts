import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { ERROR_CODES } from '../../src/graph/errors.js';
import { table } from '../docs/pages.js';

const ROOT = join(import.meta.dirname, '../..');

function errorsPage(): string {
  const rows = Object.entries(ERROR_CODES).map(([code, said]) => [`\`${code}\``, ...said]);
  return `# Errors

What a user can mend is an \`AgdError\`. The command line prints it as one line, \`agd-onnx: MESSAGE [CODE]\`, and exits
with status 1; a program finds the code in \`error.code\`. Codes are stable, messages are not. A command line that cannot
be understood has no code. Any other exception is a bug: it is printed with its stack, and the exit status is 70.

${table(['code', 'meaning', 'what to do'], rows)}
`;
}

it('docs/reference/errors.md is up to date', async () => {
  await expect(errorsPage()).toMatchFileSnapshot('../../docs/reference/errors.md');
});

it('every code is used', () => {
  const texts = ['src', 'cli']
    .flatMap(folder =>
      readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' }).map(f => join(folder, f)),
    )
    .filter(file => file.endsWith('.ts') && !file.endsWith('errors.ts'))
    .map(file => readFileSync(join(ROOT, file), 'utf8'))
    .join('');
  expect(Object.keys(ERROR_CODES).filter(code => !texts.includes(`'${code}'`))).toEqual([]);
});
