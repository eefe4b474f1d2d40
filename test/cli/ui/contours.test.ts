import { describe, expect, test } from 'vitest';
import { contours, type Grid } from '../../../cli/ui/contours.js';

const grid = (columns: number, rows: number, f: (column: number, row: number) => number): Grid => ({
  columns,
  rows,
  values: Array.from({ length: columns * rows }, (_, k) => f(k % columns, Math.floor(k / columns))),
});

describe('contours', () => {
  test('of a hill is one closed line where the value is', () => {
    const hill = grid(21, 31, (x, y) => (x - 10) ** 2 + (y - 15) ** 2);
    const lines = contours(hill, 49);
    expect(lines).toHaveLength(1);
    const [line] = lines;
    expect(line!.at(-1)).toEqual(line![0]);
    expect(line!.length).toBeGreaterThan(40);
    for (const [x, y] of line!) expect(Math.hypot(x - 10, y - 15)).toBeCloseTo(7, 1);
  });
  test('of a slope is one line from border to border', () => {
    const lines = contours(
      grid(5, 4, (x, y) => x + 2 * y),
      3.5,
    );
    expect(lines).toHaveLength(1);
    for (const [x, y] of lines[0]!) expect(x + 2 * y).toBeCloseTo(3.5);
    const ends = [lines[0]![0]!, lines[0]!.at(-1)!].sort((a, b) => a[0] - b[0]);
    expect(ends[0]).toEqual([0, 1.75]);
    expect(ends[1]).toEqual([3.5, 0]);
  });
  test('of a saddle hang together as the mean says', () => {
    // Above are two opposite corners of a single cell.
    const cut = (middle: number) => contours({ columns: 2, rows: 2, values: [middle, 0, 0, middle] }, 1);
    const sides = (lines: ReturnType<typeof cut>) =>
      lines.map(line =>
        line
          .map(([x, y]) => (y === 0 ? 'top' : y === 1 ? 'bottom' : x === 0 ? 'left' : 'right'))
          .sort()
          .join(),
      );
    expect(sides(cut(1.5)).sort()).toEqual(['bottom,right', 'left,top']);
    expect(sides(cut(4)).sort()).toEqual(['bottom,left', 'right,top']);
  });
  test('are none where the level is not', () => {
    expect(
      contours(
        grid(4, 4, (x, y) => x * y),
        9,
      ),
    ).toEqual([]);
    expect(
      contours(
        grid(4, 4, (x, y) => x * y),
        -1,
      ),
    ).toEqual([]);
  });
});
