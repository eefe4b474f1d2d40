/** Links between pages lead to files and headings that are there. */
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { expect, it } from 'vitest';
import { pages, ROOT, readmes, withoutCode } from './pages.js';

/** The anchor that a heading gets where Markdown is shown. */
const anchor = (heading: string) =>
  heading
    .replace(/\[([^\]]*)\]\([^)]*\)/g, '$1')
    .replace(/[`*]/g, '')
    .trim()
    .toLowerCase()
    .replace(/[^\p{L}\p{N}\s_-]/gu, '')
    .replaceAll(' ', '-');

function anchors(text: string): Set<string> {
  const found = new Set<string>();
  for (const [, heading] of withoutCode(text).matchAll(/^#+ (.+)$/gm)) {
    const name = anchor(heading!);
    let free = name;
    for (let i = 1; found.has(free); i++) free = `${name}-${i}`;
    found.add(free);
  }
  return found;
}

/** Those of a page that lead nowhere. */
function broken(page: string): string[] {
  const text = readFileSync(page, 'utf8');
  const links = [...withoutCode(text).matchAll(/\]\(<?([^)\s>]+)>?\)/g)].map(([, target]) => target!);
  return links.filter(link => {
    if (/^[a-z]+:/.test(link)) return false;
    const [path, fragment] = link.split('#') as [string, string?];
    const target = path ? join(dirname(page), path) : page;
    if (!existsSync(target)) return true;
    return fragment !== undefined && !anchors(readFileSync(target, 'utf8')).has(fragment);
  });
}

it('finds a link that leads nowhere', () => {
  expect(anchors('## From PyTorch, and `back`\n## A\n## A')).toEqual(
    new Set(['from-pytorch-and-back', 'a', 'a-1']),
  );
});

it.each([...pages(), ...readmes()].map(page => relative(ROOT, page)))(
  '%s has links that lead somewhere',
  page => {
    expect(broken(join(ROOT, page))).toEqual([]);
  },
);

it('every page below docs can be reached from the README', () => {
  const reached = new Set<string>();
  const open = [join(ROOT, 'README.md')];
  for (const page of open) {
    if (reached.has(page)) continue;
    reached.add(page);
    for (const [, target] of readFileSync(page, 'utf8').matchAll(/\]\(([^)\s#]+\.md)(?:#[^)]*)?\)/g))
      if (!/^[a-z]+:/.test(target!)) open.push(join(dirname(page), target!));
  }
  const docs = pages().filter(page => relative(ROOT, page).startsWith('docs'));
  expect(docs.filter(page => !reached.has(page)).map(page => relative(ROOT, page))).toEqual([]);
});

/** What measurements write, which is not kept. */
const WRITTEN = /^bench\/results\//;

/** The files and folders of the repository that a page names as code. */
const namedFiles = (text: string) =>
  [...text.matchAll(/`((?:src|cli|test|bench|compare|examples|docs)\/[\w./-]*)`/g)]
    .map(([, path]) => path!)
    .filter(path => !WRITTEN.test(path));

it('finds the files that a page names', () => {
  expect(namedFiles('`src/a.ts` and `bench/results/b.json`, [c](src/c.ts), `docs/`')).toEqual([
    'src/a.ts',
    'docs/',
  ]);
});

it.each([...pages(), ...readmes()].map(page => relative(ROOT, page)))(
  '%s names files that are there',
  page => {
    const named = namedFiles(readFileSync(join(ROOT, page), 'utf8'));
    expect(named.filter(path => !existsSync(join(ROOT, path)))).toEqual([]);
  },
);
