import { formatFixed } from './format.js';

/** Maps data to pixels and knows where the axis has its ticks. */
export type Scale = { at(value: number): number; ticks: number[]; format(tick: number): string };

export type Interval = readonly [from: number, to: number];

/** Lowest and highest finite value, widened where they are equal up to rounding; [0, 1] where there is none. */
export function extent(values: Iterable<number>): Interval {
  let low = Number.POSITIVE_INFINITY;
  let high = Number.NEGATIVE_INFINITY;
  for (const value of values) {
    if (!Number.isFinite(value)) continue;
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  if (low > high) return [0, 1];
  const size = Math.max(Math.abs(low), Math.abs(high));
  if (high - low > size * 1e-9) return [low, high];
  const margin = size / 10 || 1;
  return [low - margin, high + margin];
}

/** The round step (1, 2 or 5 times a power of ten) that divides `span` into about `count` parts. */
export function tickStep(span: number, count: number): number {
  const raw = span / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const ratio = raw / power;
  // Thresholds are the geometric means of neighbouring steps.
  const factor = ratio >= Math.sqrt(50) ? 10 : ratio >= Math.sqrt(10) ? 5 : ratio >= Math.SQRT2 ? 2 : 1;
  return exact(power * factor);
}

/** A linear scale. `nice` widens the domain to whole ticks; `integer` has ticks at whole numbers only. */
export function linearScale(
  domain: Interval,
  range: Interval,
  { count = 6, nice = false, integer = false } = {},
): Scale {
  const step = Math.max(tickStep(domain[1] - domain[0], count), integer ? 1 : 0);
  const [from, to] = nice
    ? [exact(Math.floor(domain[0] / step) * step), exact(Math.ceil(domain[1] / step) * step)]
    : domain;
  return {
    at: value => range[0] + ((value - from) / (to - from)) * (range[1] - range[0]),
    ticks: multiples(step, [from, to]),
    format: tick => formatTick(tick, step),
  };
}

/** A base-10 logarithmic scale over a positive domain; values that have no logarithm map to no finite number. */
export function logScale(domain: Interval, range: Interval, { count = 6 } = {}): Scale {
  const [from, to] = [Math.log10(domain[0]), Math.log10(domain[1])];
  return {
    at: value => range[0] + ((Math.log10(value) - from) / (to - from)) * (range[1] - range[0]),
    ticks: logTicks(domain, count),
    format: formatLogTick,
  };
}

/** Powers of ten; with 2 and 5 between where that makes too few; plain round numbers below one decade. */
function logTicks([from, to]: Interval, count: number): number[] {
  const first = Math.ceil(Math.log10(from) - 1e-9);
  const last = Math.floor(Math.log10(to) + 1e-9);
  const every = Math.ceil((last - first + 1) / count);
  const powers: number[] = [];
  for (let e = first; e <= last; e += Math.max(1, every)) powers.push(exact(10 ** e));
  if (powers.length > 2) return powers;
  const between: number[] = [];
  for (let e = first - 1; e <= last; e++)
    for (const factor of [1, 2, 5]) between.push(exact(factor * 10 ** e));
  const inside = between.filter(tick => tick >= from && tick <= to);
  return inside.length > 2 ? inside : multiples(tickStep(to - from, count), [from, to]);
}

/** Far above what any axis has: a domain narrower than its rounding must not run on. */
const MOST_TICKS = 1000;

function multiples(step: number, [from, to]: Interval): number[] {
  const ticks: number[] = [];
  const first = Math.ceil(from / step - 1e-9);
  // A counter of its own: above 2^53 a multiple plus one is the same multiple.
  for (let i = 0; i <= MOST_TICKS && (first + i) * step <= to + step * 1e-9; i++)
    ticks.push(exact((first + i) * step));
  return ticks;
}

/** As many decimals as `step` has; thousands grouped; an exponent where zeros would take over. */
function formatTick(tick: number, step: number): string {
  if (tick === 0) return '0';
  if (step >= 1e6 || step < 1e-4) return scientific(tick);
  const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  return formatFixed(tick, decimals);
}

function formatLogTick(tick: number): string {
  if (tick >= 1e6 || tick < 1e-3) return scientific(tick);
  return tick.toLocaleString('en-US', { maximumSignificantDigits: 4 });
}

function scientific(value: number): string {
  return value.toExponential().replace('e+', 'e');
}

/** Takes off what binary fractions add: 0.30000000000000004 is 0.3, and -0 is 0. */
function exact(value: number): number {
  return Number(value.toPrecision(12)) + 0;
}
