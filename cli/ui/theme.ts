/**
 * Colours of charts and pages, light and dark. The series' are told apart by colour-blind readers too: the
 * hues are Okabe and Ito's (jfly.uni-koeln.de/color), adjusted so that each stands out from its background.
 */
const LIGHT = {
  scheme: 'light',
  page: '#f6f7f9',
  surface: '#ffffff',
  ink: '#1b1f24',
  muted: '#626b76',
  line: '#e3e6ea',
  good: '#007a57',
  bad: '#c2410c',
  series: ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#cf9a00', '#3a9fd8', '#6a4fb3', '#5f6875'],
};

const DARK: typeof LIGHT = {
  scheme: 'dark',
  page: '#0e1116',
  surface: '#161b22',
  ink: '#e8ebef',
  muted: '#98a2ae',
  line: '#2a313b',
  good: '#35c99a',
  bad: '#ff8a4c',
  series: ['#4ba6e0', '#f2813a', '#2fc79a', '#e39ac4', '#e6b43c', '#8fd0f5', '#a996ea', '#aab3bf'],
};

/** Series that have a colour of their own; from there on colours repeat, dashed. */
export const SERIES_COLORS = LIGHT.series.length;

/** Custom properties (`--ink`, `--series-0` ...) on `selector`, following the reader's colour scheme. */
export function themeCss(selector: string): string {
  return `${selector}{${properties(LIGHT)}}@media(prefers-color-scheme:dark){${selector}{${properties(DARK)}}}`;
}

function properties({ scheme, series, ...rest }: typeof LIGHT): string {
  const colors = [...Object.entries(rest), ...series.map((color, i) => [`series-${i}`, color])];
  return `color-scheme:${scheme};${colors.map(([name, color]) => `--${name}:${color}`).join(';')}`;
}

/** Colours in an order that eyes read as one (dark violet over teal to yellow), for many layers; `t` in [0, 1]. */
export function sequentialColor(t: number): string {
  const anchors = [
    [92, 56, 140],
    [62, 98, 158],
    [38, 138, 148],
    [70, 176, 118],
    [206, 196, 60],
  ] as const;
  const position = Math.min(1, Math.max(0, t)) * (anchors.length - 1);
  const index = Math.min(anchors.length - 2, Math.floor(position));
  const [from, to] = [anchors[index]!, anchors[index + 1]!];
  const mixed = from.map((channel, i) => Math.round(channel + (to[i]! - channel) * (position - index)));
  return `rgb(${mixed.join(' ')})`;
}
