import { cpus } from 'node:os';
import type { ComparedRun, Metric, Standing } from '../src/internal.js';
import { formatCount, formatLoss, formatNumber, formatPercent } from './ui/format.js';
import { renderReport } from './ui/report.js';
import { spread, trend } from './ui/series.js';
import { type Chart, lineChart, type Series } from './ui/svg.js';
import type { Table } from './ui/table.js';

export type Results = {
  runs: readonly ComparedRun[];
  standings: readonly Standing[];
  metric: Metric;
  /** The metric after each epoch of a run. */
  curve: (run: ComparedRun) => number[];
};

/** All standings, or of each candidate that at its best rate. */
export function standingsTable({ standings, metric }: Results, which: 'all' | 'best'): Table {
  const shown = which === 'all' ? standings : bestOf(standings);
  const seeds = Math.max(...standings.map(s => s.seeds));
  const columns: Record<string, (s: Standing) => string> = {
    optimizer: s => s.candidate,
    lr: s => formatNumber(s.lr),
    [`final ${metric.name}`]: s => formatMetric(metric, s.final.mean),
    '±': s => (seeds > 1 ? formatMetric(metric, s.final.spread) : ''),
    best: s => formatMetric(metric, s.best.mean),
    'steps to target': s => (s.stepsToTarget === undefined ? '' : formatCount(Math.round(s.stepsToTarget))),
    'share of SGD': s => (s.sgdShare === undefined ? '' : formatPercent(s.sgdShare)),
    'time a step': s =>
      Number.isFinite(s.secondsPerStep) ? `${(1000 * s.secondsPerStep).toPrecision(3)} ms` : '',
    'best of the rates tried': s => (which === 'best' ? edgeOf(s, standings) : ''),
    diverged: s => (s.diverged ? `${s.diverged} of ${s.seeds}` : ''),
  };
  const filled = Object.entries(columns).filter(([, text]) => shown.some(s => text(s)));
  return { head: filled.map(([name]) => name), rows: shown.map(s => filled.map(([, text]) => text(s))) };
}

/** By file name. Lines are means over the seeds, bands reach from the lowest to the highest. */
export function comparisonCharts(results: Results): Record<string, string> {
  const { standings, metric, curve } = results;
  const best = bestOf(standings);
  const runsOf = ({ candidate, lr }: Standing) =>
    results.runs.filter(r => r.candidate === candidate && r.lr === lr && r.diverged === undefined);
  const name = ({ candidate, lr }: Standing) => `${candidate} at ${formatNumber(lr)}`;
  const over = (s: Standing, values: (run: ComparedRun) => number[]): Series => {
    const { y, low, high } = spread(runsOf(s).map(values));
    return { name: name(s), y, ...(results.runs.length > standings.length ? { low, high } : {}) };
  };
  const rates = [...new Set(standings.map(s => s.candidate))].map((candidate): Series => {
    const all = standings
      .filter(s => s.candidate === candidate && s.diverged < s.seeds)
      .sort((a, b) => a.lr - b.lr);
    return { name: candidate, x: all.map(s => s.lr), y: all.map(s => s.final.mean) };
  });
  const isPositive = results.runs.every(run => run.losses.every(loss => !(loss <= 0)));
  const charts: Record<string, Chart> = {
    loss: {
      title: 'Loss by step (trend)',
      x: { label: 'step' },
      y: { label: 'loss', scale: isPositive ? 'log' : 'linear' },
      series: best.map(s => over(s, run => trend(run.losses, { log: isPositive }))),
    },
    metric: {
      title: `${capital(metric.name)} after each epoch`,
      x: { label: 'epoch' },
      y: axisOf(metric),
      series: best.map(s => over(s, curve)),
    },
    rates: {
      title: `Final ${metric.name} by learning rate`,
      x: { label: 'learning rate', scale: 'log' },
      y: axisOf(metric),
      series: rates,
    },
    switch: {
      title: 'Share of coordinates in steps of SGD',
      x: { label: 'update' },
      y: { label: 'share', min: 0, max: 1, format: v => formatPercent(v, 0) },
      series: best
        .filter(s => s.sgdShare !== undefined)
        .map(s => ({
          ...over(s, run => run.sgdShare!.map(({ share }) => share)),
          x: runsOf(s)[0]!.sgdShare!.map(({ update }) => update),
        })),
    },
  };
  const drawn = Object.entries(charts).filter(([, { series }]) => series.some(s => s.y.length > 1));
  return Object.fromEntries(drawn.map(([file, chart]) => [file, lineChart(chart)]));
}

export type ComparisonPage = { title: string; subtitle: string; code: string; facts: Record<string, string> };

/** The page on a comparison: who was best, how they learned, at which rates, how to do it again. */
export function renderComparison(
  results: Results,
  charts: Record<string, string>,
  { title, subtitle, code, facts }: ComparisonPage,
): string {
  return renderReport({
    title,
    subtitle,
    sections: [
      {
        title: 'Each at its best learning rate',
        blocks: [
          { kind: 'table', ...standingsTable(results, 'best') },
          { kind: 'charts', svgs: Object.values(charts) },
        ],
      },
      { title: 'All learning rates', blocks: [{ kind: 'table', ...standingsTable(results, 'all') }] },
      {
        title: 'How to do it again',
        blocks: [
          { kind: 'code', code },
          {
            kind: 'facts',
            facts: {
              ...facts,
              Node: process.version,
              Processor: `${cpus()[0]?.model ?? 'unknown'}, ${formatCount(cpus().length, 'core')}`,
            },
          },
        ],
      },
    ],
  });
}

/** Standings have the best rate of a candidate first. */
function bestOf(standings: readonly Standing[]): Standing[] {
  return standings.filter((s, i) => s.candidate !== standings[i - 1]?.candidate);
}

/** Whether a rate is the first or last of those tried, so that a better one may lie beyond. */
function edgeOf({ candidate, lr }: Standing, standings: readonly Standing[]): string {
  const rates = standings.filter(s => s.candidate === candidate).map(s => s.lr);
  if (rates.length < 2) return '';
  return lr === Math.min(...rates) ? 'the lowest' : lr === Math.max(...rates) ? 'the highest' : '';
}

const formatMetric = ({ name }: Metric, value: number) =>
  !Number.isFinite(value) ? '' : isShare(name) ? formatPercent(value, 2) : formatLoss(value);

const axisOf = ({ name }: Metric) =>
  isShare(name) ? { label: name, format: (v: number) => formatPercent(v) } : { label: name };

const isShare = (name: string) => /accuracy$/.test(name);

const capital = (text: string) => `${text[0]!.toUpperCase()}${text.slice(1)}`;
