/** Charts as SVG documents: they stand alone in a file, and inline in a page. */
import { drawFrame, type Frame, type LegendEntry, type PlotArea, plotArea, round } from './chart-frame.js';
import { formatNumber } from './format.js';
import { h, type Markup } from './markup.js';
import { extent, type Interval, linearScale, logScale, type Scale } from './scale.js';
import { bucketMeans, keepExtremes, trend } from './series.js';
import { SERIES_COLORS, sequentialColor } from './theme.js';

export type Axis = {
  label: string;
  /** `linear` where not said. A logarithmic axis leaves out what is not positive. */
  scale?: 'linear' | 'log';
  /** The domain's ends; the data's where not given. */
  min?: number;
  max?: number;
  /** How a tick reads. */
  format?: (value: number) => string;
};

export type Series = {
  name: string;
  /** 1, 2, 3 ... where not given; else increasing, as long as `y`. */
  x?: ArrayLike<number>;
  /** Values that are not finite leave a gap. */
  y: ArrayLike<number>;
  /** The band's edges, as long as `y` (`spread` makes all three of several runs). */
  low?: ArrayLike<number>;
  high?: ArrayLike<number>;
  /** Draws the trend, in the terms of the axis, with the values themselves faint behind it. */
  smooth?: boolean;
};

export type Chart = {
  title: string;
  /** For who cannot see it; made of the series' names and last values where not given. */
  description?: string;
  x: Axis;
  y: Axis;
  series: readonly Series[];
  /** Places on the x axis to point out, by a line with a label. */
  marks?: readonly { x: number; label: string }[];
  /** In pixels, 500 by 310 where not given. A legend's rows beyond the first add to the height. */
  width?: number;
  height?: number;
};

/** A chart for wide and for narrow screens; texts have the same size in both. */
export type BothSizes = { wide: string; narrow: string };

export const bothSizes = (chart: Chart): BothSizes => ({
  wide: lineChart(chart),
  narrow: lineChart({ ...chart, width: NARROW.width, height: NARROW.height }),
});

const NARROW = { width: 316, height: 270 };

/** Fewer points than this get a dot each, with its values as a tooltip. */
const DOTS = 33;

const AREA_POINTS = 200;
const PIXELS_PER_TICK = { x: 80, y: 36 };

/** A line for each series, with bands and trends where they ask for them. */
export function lineChart(chart: Chart): string {
  const { series } = chart;
  const yDomain = domain(
    chart.y,
    series.flatMap(s => [s.y, s.low ?? [], s.high ?? []]),
  );
  const keys = series.map((s, i): LegendEntry => ({ name: s.name, swatch: 'line', attributes: style(i) }));
  return draw(chart, keys, yDomain, (x, y, area) =>
    series.map((s, i) => h('g', style(i), drawSeries(s, chart, x, y, area))),
  );
}

/**
 * The series stacked on each other, the first at the bottom; all have the `x` and the length of the first.
 * Long ones are drawn as the means of neighbouring points: a stack has no spikes that matter, only noise.
 */
export function areaChart(chart: Chart): string {
  const series = chart.series.map(s => ({ ...s, y: bucketMeans(s.y, AREA_POINTS) }));
  const x = bucketMeans(chart.series[0] ? xOf(chart.series[0]) : [], AREA_POINTS);
  const y = { min: 0, ...chart.y };
  const edges = [x.map(() => 0)];
  for (const s of series) edges.push(edges.at(-1)!.map((below, i) => below + finite(s.y[i])));
  const colors = series.map((_, i) => areaStyle(i, series.length));
  const keys = series.map((s, i): LegendEntry => ({ name: s.name, swatch: 'area', attributes: colors[i]! }));
  return draw({ ...chart, y }, keys, domain(y, edges), (xs, ys) =>
    series.map((s, i) => {
      const d = bandPath([...x.keys()], j => xs.at(x[j]!), edgeAt(edges[i]!, ys), edgeAt(edges[i + 1]!, ys));
      return h('g', colors[i], h('path', { class: 'fill', d }, h('title', {}, s.name)));
    }),
  );
}

/** Says so where equal distances are equal ratios. */
const axisLabel = ({ label, scale }: Axis) => (scale === 'log' ? `${label} (log scale)` : label);

type Marks = (x: Scale, y: Scale, area: PlotArea) => Markup[];

function draw(chart: Chart, keys: LegendEntry[], yDomain: Interval, marks: Marks): string {
  const frame: Frame = {
    title: chart.title,
    description: chart.description ?? describe(chart),
    size: { width: chart.width ?? 500, height: chart.height ?? 310 },
    xLabel: axisLabel(chart.x),
    yLabel: axisLabel(chart.y),
    legend: keys.length > 1 ? keys : [],
  };
  const { top, bottom } = plotArea(frame, []);
  const y = makeScale(chart.y, yDomain, [bottom, top], {
    count: (bottom - top) / PIXELS_PER_TICK.y,
    nice: chart.y.max === undefined,
  });
  const area = plotArea(frame, y.ticks.map(y.format));
  const x = makeScale(chart.x, xDomain(chart), [area.left, area.right], {
    count: (area.right - area.left) / PIXELS_PER_TICK.x,
    integer: chart.series.every(s => Array.from(xOf(s)).every(Number.isInteger)),
  });
  return drawFrame(frame, area, x, y, marks(x, y, area), drawMarks(chart, x, area));
}

/** Under the curves, with labels above the plot, on the side that has more room. */
function drawMarks({ marks = [] }: Chart, x: Scale, { left, right, top, bottom }: PlotArea): Markup[] {
  return marks.map(({ x: place, label }) => {
    const at = round(x.at(place));
    const isLeft = at > (left + right) / 2;
    const text = {
      class: 'key',
      x: at + (isLeft ? 4 : -4),
      y: top - 5,
      'text-anchor': isLeft ? 'end' : 'start',
    };
    return h('g', { class: 'mark' }, h('path', { d: `M${at},${top}V${bottom}` }), h('text', text, label));
  });
}

function xDomain({ x, series }: Chart): Interval {
  return domain(x, series.map(xOf));
}

type ScaleOptions = { count: number; nice?: boolean; integer?: boolean };

function makeScale(axis: Axis, domain: Interval, range: Interval, options: ScaleOptions): Scale {
  const scale = (axis.scale === 'log' ? logScale : linearScale)(domain, range, options);
  return axis.format ? { ...scale, format: axis.format } : scale;
}

function domain(axis: Axis, values: ArrayLike<number>[]): Interval {
  const all = function* () {
    for (const list of values)
      for (let i = 0; i < list.length; i++) if (axis.scale !== 'log' || list[i]! > 0) yield list[i]!;
  };
  const [low, high] = extent(all());
  const from = axis.scale === 'log' && low <= 0 ? high / 10 : low;
  return [axis.min ?? from, axis.max ?? high];
}

function drawSeries(series: Series, chart: Chart, x: Scale, y: Scale, area: PlotArea): Markup[] {
  const xs = xOf(series);
  const limit = pointLimit(area);
  const px = (i: number) => x.at(xs[i]!);
  const marks: Markup[] = [];
  if (series.low && series.high) {
    const kept = union(keepExtremes(series.low, limit), keepExtremes(series.high, limit));
    const d = bandPath(kept, px, edgeAt(series.low, y), edgeAt(series.high, y));
    marks.push(h('path', { class: 'band', d }));
  }
  const line = (values: ArrayLike<number>, name: string) =>
    h('path', { class: name, d: linePath(keepExtremes(values, limit), px, edgeAt(values, y)) });
  if (!series.smooth) marks.push(line(series.y, 'line'));
  else marks.push(line(series.y, 'raw'), line(trend(series.y, { log: chart.y.scale === 'log' }), 'line'));
  if (series.y.length < DOTS && !series.smooth) marks.push(...dots(series, chart, px, edgeAt(series.y, y)));
  return marks;
}

type Pixel = (index: number) => number;

function edgeAt(values: ArrayLike<number>, y: Scale): Pixel {
  return i => y.at(values[i]!);
}

/** A line through the points of these indices, with a gap at those that have no place. */
function linePath(kept: number[], x: Pixel, y: Pixel): string {
  let pen = 'M';
  let d = '';
  for (const i of kept) {
    const at = y(i);
    if (Number.isFinite(at)) d += `${pen}${round(x(i))},${round(at)}`;
    pen = Number.isFinite(at) ? 'L' : 'M';
  }
  return d;
}

function bandPath(kept: number[], x: Pixel, low: Pixel, high: Pixel): string {
  const points = kept.filter(i => Number.isFinite(low(i)) && Number.isFinite(high(i)));
  if (points.length === 0) return '';
  const back = points.toReversed().map(i => `L${round(x(i))},${round(low(i))}`);
  return `${linePath(points, x, high)}${back.join('')}Z`;
}

function dots(series: Series, chart: Chart, x: Pixel, y: Pixel): Markup[] {
  const xs = xOf(series);
  const format = chart.y.format ?? formatNumber;
  return Array.from(series.y, (value, i) => ({ value, i }))
    .filter(({ i }) => Number.isFinite(y(i)))
    .map(({ value, i }) => {
      const title = `${series.name}, ${chart.x.label} ${formatNumber(xs[i]!)}: ${format(value)}`;
      return h('circle', { cx: round(x(i)), cy: round(y(i)), r: 3.5 }, h('title', {}, title));
    });
}

function describe({ series, x, y }: Chart): string {
  const format = y.format ?? formatNumber;
  const ends = series.map(s => `${s.name}${s.y.length ? ` (last ${format(s.y[s.y.length - 1]!)})` : ''}`);
  return `${y.label} over ${x.label}: ${ends.join(', ')}.`;
}

/** The colour of the series at a place; dashed where those before it have had all colours. */
export function style(index: number): LegendEntry['attributes'] {
  return { class: `s${index % SERIES_COLORS}${index >= SERIES_COLORS ? ' dashed' : ''}` };
}

/** Areas cannot be dashed: where there are more than colours, they are steps of one sequence. */
function areaStyle(index: number, count: number): LegendEntry['attributes'] {
  return count <= SERIES_COLORS ? style(index) : { style: `color:${sequentialColor(index / (count - 1))}` };
}

/** Two points for each pixel column show all that can be seen. */
function pointLimit(area: PlotArea): number {
  return Math.round(2 * (area.right - area.left));
}

function xOf(series: Series): ArrayLike<number> {
  return series.x ?? Array.from(series.y, (_, i) => i + 1);
}

function union(a: number[], b: number[]): number[] {
  return [...new Set([...a, ...b])].sort((i, j) => i - j);
}

function finite(value: number | undefined): number {
  return value !== undefined && Number.isFinite(value) ? value : 0;
}
