/** A function's values on a grid of at least 2 by 2 points, row by row. */
export type Grid = { columns: number; rows: number; values: ArrayLike<number> };

/** A point of the plane in units of the grid: [column, row]. */
export type GridPoint = [number, number];

/**
 * The lines along which the values are `level`, by marching squares: between the points of an edge of a cell the values
 * are taken to be linear. A line that closes ends where it began.
 */
export function contours({ columns, rows, values }: Grid, level: number): GridPoint[][] {
  const at = (column: number, row: number) => values[row * columns + column]!;
  // The edge from a point to the right has an even number, the one down an odd number.
  const edge = (column: number, row: number, down: 0 | 1) => 2 * (row * columns + column) + down;
  const neighbours = new Map<number, number[]>();
  const connect = (a: number, b: number) => {
    neighbours.set(a, [...(neighbours.get(a) ?? []), b]);
    neighbours.set(b, [...(neighbours.get(b) ?? []), a]);
  };
  for (let row = 0; row + 1 < rows; row++)
    for (let column = 0; column + 1 < columns; column++) {
      const corners = [
        at(column, row),
        at(column + 1, row),
        at(column + 1, row + 1),
        at(column, row + 1),
      ] as const;
      const above = corners.map(value => value > level);
      const [top, right, bottom, left] = [
        edge(column, row, 0),
        edge(column + 1, row, 1),
        edge(column, row + 1, 0),
        edge(column, row, 1),
      ] as const;
      const crossed = [top, right, bottom, left].filter((_, i) => above[i] !== above[(i + 1) % 4]);
      if (crossed.length === 2) connect(crossed[0]!, crossed[1]!);
      if (crossed.length < 4) continue;
      // At a saddle the mean tells which opposite corners hang together.
      const joined = corners.reduce((sum, value) => sum + value, 0) / 4 > level === above[0];
      connect(top, joined ? right : left);
      connect(bottom, joined ? left : right);
    }
  const point = (id: number): GridPoint => {
    const [down, place] = [id & 1, id >> 1];
    const [column, row] = [place % columns, Math.floor(place / columns)];
    const [from, to] = [at(column, row), down ? at(column, row + 1) : at(column + 1, row)];
    const share = (level - from) / (to - from);
    return down ? [column, row + share] : [column + share, row];
  };
  const lines: GridPoint[][] = [];
  const walk = (start: number) => {
    const line = [point(start)];
    for (let here = start; ; ) {
      const next = neighbours.get(here)!.pop();
      if (next === undefined) break;
      const back = neighbours.get(next)!;
      back.splice(back.indexOf(here), 1);
      line.push(point(next));
      here = next;
    }
    if (line.length > 1) lines.push(line);
  };
  // Lines that end at the border first; what is left is closed.
  for (const [id, list] of neighbours) if (list.length === 1) walk(id);
  for (const id of neighbours.keys()) walk(id);
  return lines;
}
