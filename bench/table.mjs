/**
 * `node bench/table.mjs RESULT.json [PAGE.md]`: puts the tables of a run between the markers of a page,
 * docs/explain/performance.md where none is named; a marker is `<!-- bench: TITLE -->`, and `<!-- end -->` closes it.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { describe, tableData } from './tables.mjs';

const [source, page = 'docs/explain/performance.md'] = process.argv.slice(2);
if (!source) {
  console.error('node bench/table.mjs RESULT.json [PAGE.md]');
  process.exit(1);
}
const result = JSON.parse(readFileSync(source, 'utf8'));
const texts = new Map([['Machine', `${describe(result)}.`]]);
for (const { title, head, rows } of tableData(result)) texts.set(title, markdown(head, rows));
const unused = new Set(texts.keys());
const filled = readFileSync(page, 'utf8').replace(
  /(<!-- bench: (.*?) -->\n).*?(<!-- end -->)/gs,
  (all, open, title, close) => {
    unused.delete(title);
    return texts.has(title) ? `${open}\n${texts.get(title)}\n\n${close}` : all;
  },
);
writeFileSync(page, filled);
if (unused.size) console.log(`${page} has no place for: ${[...unused].join('; ')}`);

function markdown(head, rows) {
  if (rows.length === 0) return 'None.';
  const all = [head, ...rows].map(row => row.map(cell => String(cell).replaceAll('|', '\\|')));
  const widths = head.map((_, i) => Math.max(3, ...all.map(row => row[i].length)));
  const line = cells => `| ${cells.map((cell, i) => cell.padEnd(widths[i])).join(' | ')} |`;
  return [line(all[0]), line(widths.map(w => '-'.repeat(w))), ...all.slice(1).map(line)].join('\n');
}
