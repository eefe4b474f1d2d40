import { expect, test } from 'vitest';
import { numericColumns, renderTable, tableTexts } from '../../../cli/ui/table.js';

test('columns are aligned, numbers to the right, totals under a rule', () => {
  const table = {
    head: ['parameter', 'elements', 'bytes', 'loss'],
    rows: [
      ['fc1.weight', 30720, '123 kB', 0.5],
      ['b', 6, '24 B', 0.125],
    ],
    foot: ['total', 30726, '123 kB'],
  };
  expect(renderTable(table).split('\n')).toEqual([
    'parameter   elements   bytes   loss',
    '──────────  ────────  ──────  ─────',
    'fc1.weight    30,720  123 kB  0.500',
    'b                  6    24 B  0.125',
    '──────────  ────────  ──────  ─────',
    'total         30,726  123 kB',
  ]);
});

test('names that begin with a digit are not numbers', () => {
  expect(numericColumns([['0.weight', '-1.5e-3', '97.1 %', '–', '']])).toEqual([
    false,
    true,
    true,
    true,
    false,
  ]);
});

test('a column with exponents keeps each number as short as it is', () => {
  const { rows } = tableTexts({ head: ['lr'], rows: [[0.01], [1e-4]] });
  expect(rows).toEqual([['0.01'], ['1e-4']]);
});

test('a name cannot steer the terminal', () => {
  expect(renderTable({ head: ['a'], rows: [['\x1b[2Jx']] })).toContain('\ufffd[2Jx');
});

test('a table without rows is its head', () => {
  expect(renderTable({ head: ['a', 'bc'], rows: [] })).toBe('a  bc\n─  ──');
});
