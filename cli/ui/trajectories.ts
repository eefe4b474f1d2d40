/** Paths of optimizers over a function of two numbers, as an SVG document. */
import { drawFrame, type Frame, plotArea, round } from './chart-frame.js';
import { contours, type Grid } from './contours.js';
import { formatNumber } from './format.js';
import { h } from './markup.js';
import { type Interval, linearScale } from './scale.js';
import { style } from './svg.js';
import { sequentialColor } from './theme.js';

export type Trajectories = {
  title: string;
  description: string;
  x: Interval;
  y: Interval;
  /** Values, none negative; the first row is at the lower end of `y`. */
  grid: Grid;
  minimum: readonly [number, number];
  /** From the first point to the last. */
  paths: readonly { name: string; points: readonly (readonly number[])[] }[];
};

/** In pixels. */
export const CHART = { width: 500, height: 500 };
const LEVELS = 12;
/** Below this share of the highest value there are no contours. */
const FLAT = 1e-4;

/** Contours at levels of equal ratio, a line for each path with a dot where it ends, a ring at the minimum. */
export function trajectoryChart({ title, description, x, y, grid, minimum, paths }: Trajectories): string {
  const legend = paths.map((p, i) => ({ name: p.name, swatch: 'line' as const, attributes: style(i) }));
  const frame: Frame = { title, description, size: CHART, xLabel: 'x', yLabel: 'y', legend };
  const { top, bottom } = plotArea(frame, []);
  const ys = linearScale(y, [bottom, top]);
  const area = plotArea(frame, ys.ticks.map(ys.format));
  const xs = linearScale(x, [area.left, area.right]);
  const place = ([a, b]: readonly number[]) => [round(xs.at(a!)), round(ys.at(b!))] as const;
  const line = (points: readonly (readonly number[])[]) => {
    const places = points.map(p => place(p).join());
    return `M${places.filter((p, i) => i === 0 || p !== places[i - 1]).join('L')}`;
  };
  const along = ([from, to]: Interval, share: number) => from + share * (to - from);
  // Logarithms bend less between the points of the grid.
  const highest = Math.max(...Array.from(grid.values));
  const lowest = highest * FLAT;
  const logs = { ...grid, values: Array.from(grid.values, v => Math.log(Math.max(v, lowest))) };
  const ends: Interval = [Math.log(lowest), Math.log(highest)];
  const levels = Array.from({ length: LEVELS }, (_, k) => along(ends, (k + 1) / (LEVELS + 1)));
  const hills = levels.map((level, k) => {
    const d = contours(logs, level).map(points =>
      line(points.map(([i, j]) => [along(x, i / (grid.columns - 1)), along(y, j / (grid.rows - 1))])),
    );
    const color = `color:${sequentialColor(k / (LEVELS - 1))}`;
    return h(
      'path',
      { class: 'contour', style: color, d: d.join('') },
      h('title', {}, formatNumber(Math.exp(level))),
    );
  });
  const trajectories = paths.map(({ name, points }, i) => {
    const [cx, cy] = place(points.at(-1)!);
    return h(
      'g',
      style(i),
      h('path', { class: 'line trajectory', d: line(points) }),
      h('circle', { cx, cy, r: 4 }, h('title', {}, name)),
    );
  });
  const [cx, cy] = place(minimum);
  const goal = h('circle', { class: 'goal', cx, cy, r: 7 }, h('title', {}, 'minimum'));
  return drawFrame(frame, area, xs, ys, [hills, trajectories.toReversed(), goal]);
}
