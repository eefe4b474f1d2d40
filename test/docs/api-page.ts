/** docs/reference/api.md: what each door of the library exports, with the first sentence that its source says of it. */
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { ROOT, table } from './pages.js';

const manifest = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'));

type Export = { name: string; kind: string; says: string };

/** The modules that the package exports, but for those without promises: [import, source]. */
function doors(): [string, string][] {
  return Object.entries<{ types?: string } | string>(manifest.exports).flatMap(([name, entry]) => {
    const file = typeof entry === 'string' ? undefined : entry.types;
    if (!file || name === './internal') return [];
    const source = file.replace('./dist/', '').replace(/\.d\.ts$/, '.ts');
    return [[name.replace(/^\./, 'agd-onnx'), source] as [string, string]];
  });
}

const KINDS = 'async function|function|abstract class|class|const|type|interface';

/** What a module exports, by name; re-exports are followed to where they are declared. */
function exportsOf(source: string): Map<string, Export> {
  const text = readFileSync(join(ROOT, source), 'utf8');
  const found = new Map<string, Export>();
  for (const [, , kind, name] of text.matchAll(new RegExp(`^export (declare )?(${KINDS})\\*? (\\w+)`, 'gm')))
    found.set(name!, { name: name!, kind: kindOf(kind!), says: firstSentence(docOf(text, name!)) });
  const imported = new Map<string, string>();
  for (const [, list, from] of text.matchAll(/^import (?:type )?\{([^}]*)\} from '([^']+)';/gms))
    for (const { name, as } of namesIn(list!)) imported.set(as, `${from} ${name}`);
  for (const [, list, from] of text.matchAll(/^export (?:type )?\{([^}]*)\}(?: from '([^']+)')?;/gms))
    for (const { name, as } of namesIn(list!)) {
      const [module, original] = from ? [from, name] : (imported.get(name)?.split(' ') ?? []);
      if (!module?.startsWith('.')) continue;
      const path = join(dirname(source), module).replaceAll('\\', '/').replace(/\.js$/, '.ts');
      const origin = existsSync(join(ROOT, path)) ? exportsOf(path).get(original!) : undefined;
      found.set(as, { name: as, kind: origin?.kind ?? 'type', says: origin?.says ?? '' });
    }
  return found;
}

const kindOf = (kind: string) => kind.replace(/^(async|abstract) /, '').replace('interface', 'type');

function namesIn(list: string): { name: string; as: string }[] {
  return list
    .split(',')
    .map(item => item.trim().replace(/^type /, ''))
    .filter(Boolean)
    .map(item => {
      const [name, as = name] = item.split(' as ');
      return { name: name!, as: as! };
    });
}

/** The comment right before a declaration. */
function docOf(text: string, name: string): string {
  const at = text.search(new RegExp(`^export (declare )?(${KINDS})\\*? ${name}\\b`, 'm'));
  const before = text.slice(0, at);
  const comment = /\/\*\*((?:(?!\*\/).)*)\*\/\n(?:\/\/[^\n]*\n)*$/s.exec(before)?.[1] ?? '';
  return comment
    .replace(/^\s*\* ?/gm, ' ')
    .replace(/\s+/g, ' ')
    .trim();
}

const firstSentence = (text: string) =>
  /^.*?[.;:](?= [A-Z`]|$)/.exec(text)?.[0].replace(/[;:]$/, '.') ?? text;

/** Angles and bars are read by Markdown. */
const cell = (text: string) => text.replaceAll('|', '\\|').replaceAll('<', '&lt;');

export function apiPage(): string {
  const sections = doors().map(([door, source]) => {
    const all = [...exportsOf(source).values()].sort((a, b) => (a.name < b.name ? -1 : 1));
    const whole = readFileSync(join(ROOT, source), 'utf8').includes("export * from '../index.js'");
    const part = (title: string, entries: Export[]) =>
      entries.length
        ? `### ${title}\n\n${table(
            ['name', 'what it is'],
            entries.map(e => [`\`${e.name}\``, cell(e.says)]),
          )}`
        : '';
    return [
      `## ${door}`,
      whole ? 'All that `agd-onnx` exports, and:' : '',
      part(
        'Functions, classes and constants',
        all.filter(e => e.kind !== 'type'),
      ),
      part(
        'Types',
        all.filter(e => e.kind === 'type'),
      ),
    ]
      .filter(Boolean)
      .join('\n\n');
  });
  return `# API

What the package exports. Made by \`npm run docs\`; a test fails where it is out of date. Types and full descriptions come
with the package and show in an editor; what is promised of them is in [stability](../explain/stability.md).

${sections.join('\n\n')}
`;
}
