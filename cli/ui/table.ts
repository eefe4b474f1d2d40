import { printable } from '../../src/command/startup.js';
import { formatFixed, formatNumber } from './format.js';
import type { Paint } from './terminal.js';

export type Cell = string | number;

export type Table = {
  head: readonly string[];
  rows: readonly (readonly Cell[])[];
  /** A last row under a rule: totals. */
  foot?: readonly Cell[];
};

/** A number with at most a unit after a space (`1.2 MB`, `97.1 %`), or a dash for none. */
const NUMERIC = /^([-+]?[\d.,]+(e[-+]?\d+)?( [\p{L}%/]+)?|NaN|-?Infinity|[-–]?)$/u;

/** The table's cells as text, all columns of `head` filled; numbers of a column have the same decimals. */
export function tableTexts({ head, rows, foot }: Table): { rows: string[][]; foot: string[] | undefined } {
  const all = foot ? [...rows, foot] : rows;
  const columns = head.map((_, column) => columnTexts(all.map(row => row[column] ?? '')));
  const texts = all.map((_, row) => columns.map(column => column[row]!));
  return { rows: texts.slice(0, rows.length), foot: texts[rows.length] };
}

/** For each column of `rows`, whether it holds numbers only and is therefore aligned right. */
export function numericColumns(rows: readonly (readonly string[])[]): boolean[] {
  return (rows[0] ?? []).map((_, column) => {
    const texts = rows.map(row => row[column]!);
    return texts.some(text => text !== '') && texts.every(text => NUMERIC.test(text));
  });
}

/** The table as aligned lines, two spaces between columns, numbers to the right; no line break at the end. */
export function renderTable(table: Table, paint: Paint = (_, text) => text): string {
  const { rows, foot } = tableTexts(table);
  const right = numericColumns(rows);
  const lines = [[...table.head], ...rows, ...(foot ? [foot] : [])].map(line => line.map(printable));
  const widths = table.head.map((_, column) => Math.max(...lines.map(line => width(line[column]!))));
  const [head, ...body] = lines.map(line =>
    line
      .map((text, column) => align(text, widths[column]!, right[column] ?? false))
      .join('  ')
      .trimEnd(),
  );
  const rule = paint('dim', widths.map(w => '─'.repeat(w)).join('  '));
  const last = foot ? [rule, paint('bold', body.pop()!)] : [];
  return [paint('bold', head!), rule, ...body, ...last].join('\n');
}

/** Four significant digits for the smallest number, and as many decimals for the others. */
function columnTexts(cells: readonly Cell[]): string[] {
  const texts = cells.map(cell => (typeof cell === 'number' ? formatNumber(cell) : cell));
  const numbers = texts.filter((text, i) => typeof cells[i] === 'number' && /\d/.test(text));
  const decimals = Math.max(0, ...numbers.map(text => text.split('.')[1]?.length ?? 0));
  if (decimals === 0 || numbers.some(text => text.includes('e'))) return texts;
  return texts.map((text, i) => (numbers.includes(text) ? formatFixed(Number(cells[i]), decimals) : text));
}

function align(text: string, columns: number, right: boolean): string {
  const space = ' '.repeat(columns - width(text));
  return right ? space + text : text + space;
}

function width(text: string): number {
  return [...text].length;
}
