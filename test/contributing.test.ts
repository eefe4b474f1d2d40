/** What docs/contributing.md shows as the project's code is its code. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';

const read = (file: string) => readFileSync(join(import.meta.dirname, '..', file), 'utf8');
const snippets = [...read('docs/contributing.md').matchAll(/```ts\n\/\/ (\S+)\n(.*?)```/gs)];

it('shows code', () => expect(snippets.length).toBeGreaterThanOrEqual(4));
it.each(snippets.map(([, file, code]) => [file!, code!]))('from %s as it is', (file, code) => {
  expect(read(file)).toContain(code);
});
it('names commands that there are', () => {
  const scripts = JSON.parse(read('package.json')).scripts;
  const named = [...read('docs/contributing.md').matchAll(/npm run ([a-z]+)/g)].map(([, name]) => name!);
  expect(named.filter(name => !scripts[name])).toEqual([]);
});
