/** What surrounds the marks of a chart: title, legend, grid, axes. */
import { type Child, h, type Markup } from './markup.js';
import type { Scale } from './scale.js';
import { SERIES_COLORS, themeCss } from './theme.js';

export type Size = { width: number; height: number };

/** Pixels between which the marks are drawn; `top` is the smaller one. */
export type PlotArea = { left: number; right: number; top: number; bottom: number };

export type LegendEntry = {
  name: string;
  swatch: 'line' | 'area';
  attributes: Record<string, string | undefined>;
};

export type Frame = {
  title: string;
  description: string;
  size: Size;
  xLabel: string;
  yLabel: string;
  legend: readonly LegendEntry[];
};

const MARGIN = { right: 20, bottom: 44 };
const LEGEND_ROW = 20;

/** The plot's edges, given the texts of the y axis' ticks, which are to the left of it. */
export function plotArea(frame: Frame, yTicks: readonly string[]): PlotArea {
  const rows = legendRows(frame);
  return {
    left: 14 + Math.max(0, ...yTicks.map(textWidth)),
    right: frame.size.width - MARGIN.right,
    top: 64 + rows * LEGEND_ROW,
    bottom: totalHeight(frame) - MARGIN.bottom,
  };
}

/** The whole chart as a self-contained SVG document around `marks`; `notes` may reach beyond the plot. */
export function drawFrame(
  frame: Frame,
  area: PlotArea,
  x: Scale,
  y: Scale,
  marks: Child,
  notes: Child = [],
): string {
  const { width } = frame.size;
  const height = totalHeight(frame);
  return h(
    'svg',
    {
      xmlns: 'http://www.w3.org/2000/svg',
      class: 'agd-chart',
      role: 'img',
      width,
      height,
      viewBox: `0 0 ${width} ${height}`,
    },
    h('title', {}, frame.title),
    h('desc', {}, frame.description),
    h('style', {}, CSS),
    h('text', { class: 'title', y: 18 }, frame.title),
    legendPositions(frame).map(({ entry, x, row }) => drawLegendEntry(entry, x, 40 + row * LEGEND_ROW)),
    drawYAxis(y, area, frame.yLabel),
    drawXAxis(x, area, frame.xLabel),
    notes,
    clip(area, marks),
  ).source;
}

/** Cuts off what an axis' given ends leave out; a nested svg does it without an id that a page might have twice. */
function clip({ left, right, top, bottom }: PlotArea, marks: Child): Markup {
  const overhang = 5;
  const [x, y, width, height] = [left - overhang, top - overhang, right - left, bottom - top];
  const size = { width: width + 2 * overhang, height: height + 2 * overhang };
  const viewBox = `${x} ${y} ${size.width} ${size.height}`;
  return h('svg', { x, y, ...size, viewBox, 'aria-hidden': 'true' }, marks);
}

function drawYAxis(y: Scale, { left, right, top }: PlotArea, label: string): Markup {
  const ticks = y.ticks.map(tick => {
    const at = round(y.at(tick));
    return [
      h('path', { class: 'grid', d: `M${left},${at}H${right}` }),
      h('text', { x: left - 8, y: at, dy: '.32em', 'text-anchor': 'end' }, y.format(tick)),
    ];
  });
  return h('g', { class: 'axis' }, ticks, h('text', { class: 'label', y: top - 18 }, `↑ ${label}`));
}

function drawXAxis(x: Scale, { left, right, bottom }: PlotArea, label: string): Markup {
  const ticks = x.ticks.map(tick => {
    const at = round(x.at(tick));
    return [
      h('path', { class: 'tick', d: `M${at},${bottom}v5` }),
      h('text', { x: at, y: bottom + 18, 'text-anchor': 'middle' }, x.format(tick)),
    ];
  });
  return h(
    'g',
    { class: 'axis' },
    h('path', { class: 'base', d: `M${left},${bottom}H${right}` }),
    ticks,
    h('text', { class: 'label', x: right, y: bottom + 36, 'text-anchor': 'end' }, `${label} →`),
  );
}

function drawLegendEntry({ name, swatch, attributes }: LegendEntry, x: number, y: number): Markup {
  const mark =
    swatch === 'line'
      ? h('path', { class: 'line', d: `M${x + 1},${y - 4}h16` })
      : h('rect', { class: 'fill', x: x + 2, y: y - 11, width: 14, height: 14, rx: 3 });
  return h('g', attributes, mark, h('text', { class: 'key', x: x + 24, y }, name));
}

/** Legend entries from left to right, in as many rows as they need. */
function legendPositions({ legend, size }: Frame): { entry: LegendEntry; x: number; row: number }[] {
  let x = 0;
  let row = 0;
  return legend.map(entry => {
    const width = 24 + textWidth(entry.name);
    if (x > 0 && x + width > size.width) {
      x = 0;
      row++;
    }
    const position = { entry, x: round(x), row };
    x += width + 16;
    return position;
  });
}

function legendRows(frame: Frame): number {
  return (legendPositions(frame).at(-1)?.row ?? -1) + 1;
}

/** A long legend does not squeeze the plot: only its first row is within the size asked for. */
function totalHeight(frame: Frame): number {
  return frame.size.height + Math.max(0, legendRows(frame) - 1) * LEGEND_ROW;
}

/** About how wide a text is at 12 pixels: nothing here can measure a font, so letters come in a few widths. */
function textWidth(text: string): number {
  let width = 0;
  for (const letter of text)
    width += /[fijlrtI1.,:;|'()[\]/ ]/.test(letter) ? 5 : /[mwMW@%]/.test(letter) ? 11 : 7.4;
  return width + (text.match(/[A-LN-VX-Z]/g)?.length ?? 0);
}

/** A coordinate to a tenth of a pixel. */
export function round(pixels: number): number {
  return Math.round(10 * pixels) / 10;
}

const seriesCss = Array.from(
  { length: SERIES_COLORS },
  (_, i) => `.agd-chart .s${i}{color:var(--series-${i})}`,
);

const CSS = [
  themeCss('.agd-chart'),
  '.agd-chart{background:var(--surface);max-width:100%;height:auto;overflow:visible;',
  'font:12px system-ui,-apple-system,Segoe UI,Roboto,Helvetica Neue,Arial,sans-serif}',
  '.agd-chart text{fill:var(--muted);font-variant-numeric:tabular-nums}',
  '.agd-chart .title{fill:var(--ink);font-size:15px;font-weight:600}',
  '.agd-chart .key,.agd-chart .label{fill:var(--ink)}',
  '.agd-chart path{fill:none;stroke-linejoin:round;stroke-linecap:round}',
  '.agd-chart .grid{stroke:var(--line)}',
  '.agd-chart .base,.agd-chart .tick{stroke:var(--muted);stroke-linecap:butt}',
  '.agd-chart .line{stroke:currentColor;stroke-width:2}',
  '.agd-chart .raw{stroke:currentColor;stroke-width:1;opacity:.35}',
  '.agd-chart .dashed .line{stroke-dasharray:6 4}',
  '.agd-chart .band{fill:currentColor;opacity:.18}',
  '.agd-chart .fill{fill:currentColor}',
  '.agd-chart path.fill{stroke:var(--surface);stroke-width:.75}',
  '.agd-chart circle{fill:currentColor;stroke:var(--surface);stroke-width:1.5}',
  '.agd-chart .contour{stroke:currentColor;opacity:.6}',
  '.agd-chart .trajectory{stroke-width:1.6}',
  '.agd-chart .goal{fill:none;stroke:var(--ink)}',
  '.agd-chart .mark path{stroke:var(--muted);stroke-dasharray:3 4}',
  '.agd-chart .mark .key{fill:var(--muted);paint-order:stroke;stroke:var(--surface);stroke-width:3px}',
  ...seriesCss,
].join('');
