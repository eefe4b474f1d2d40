/** The project's pages, and what is in them. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';

export const ROOT = join(import.meta.dirname, '../..');

const FOLDERS = ['docs', 'models', 'examples'];

/** Every Markdown file that people read. */
export function pages(): string[] {
  const own = readdirSync(ROOT).filter(name => name.endsWith('.md'));
  const below = FOLDERS.flatMap(folder =>
    readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' })
      .filter(path => path.endsWith('.md') && !path.includes('node_modules'))
      .map(path => join(folder, path)),
  );
  return [...own, ...below].map(path => join(ROOT, path));
}

/** The pages of the folders of `src`, which say what belongs in each. */
export const readmes = (): string[] =>
  readdirSync(join(ROOT, 'src'), { recursive: true, encoding: 'utf8' })
    .filter(path => path.endsWith('.md'))
    .map(path => join(ROOT, 'src', path));

/** The text less its blocks of code, in which brackets are no links. */
export const withoutCode = (text: string) =>
  text.replace(/^```.*?^```$/gms, '').replace(/`[^`\n]*`/g, code => code.replace(/[[\](){}]/g, ''));

/** A table as the formatter would write it. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = head.map((_, i) => Math.max(...[head, ...rows].map(cells => cells[i]!.length)));
  const line = (cells: readonly string[], fill = ' ') =>
    `| ${cells.map((cell, i) => cell.padEnd(widths[i]!, fill)).join(' | ')} |`;
  return [
    line(head),
    line(
      head.map(() => ''),
      '-',
    ),
    ...rows.map(cells => line(cells)),
  ].join('\n');
}
