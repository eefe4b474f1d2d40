import { cpus } from 'node:os';
import type { ComparedRun, Metric, Standing } from '../src/internal.js';
import { formatCount, formatLoss, formatNumber, formatPercent } from './ui/format.js';
import { renderReport } from './ui/report.js';
import { spread, trend } from './ui/series.js';
import { type Chart, lineChart, type Series } from './ui/svg.js';
import { type Table, tableTexts } from './ui/table.js';

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
  const columns: Record<string, (s: Standing) => string> = {
    optimizer: s => s.candidate,
    lr: s => formatNumber(s.lr),
    [`final ${metric.name}`]: s => formatMetric(metric, s.final.mean),
    '±': s => (s.seeds > 1 ? formatMetric(metric, s.final.spread) : ''),
    ...{
      [`test ${ownName(metric)}`]: s => (s.test ? formatMetric(metric, s.test.mean) : ''),
      'test ±': s => (s.test && s.seeds > 1 ? formatMetric(metric, s.test.spread) : ''),
    },
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

export type ComparisonPage = {
  title: string;
  subtitle: string;
  code: string;
  protocol: Readonly<Record<string, string>>;
};

/** How rates were chosen and what the numbers are, for readers who did not see the command. */
export function protocolOf(
  { standings, metric, runs }: Results,
  { tune, seeds = 3, test, reach }: { tune?: number; seeds?: number; test?: string; reach?: number },
): Record<string, string> {
  const counts = bestOf(standings).map(
    ({ candidate }) => standings.filter(s => s.candidate === candidate).length,
  );
  const [least, most] = [Math.min(...counts), Math.max(...counts)];
  const number = least === most ? formatCount(most) : `${least} to ${most}`;
  const by = tune === undefined || seeds === 1 ? 'the mean over the seeds' : 'seed 0 alone';
  const isTraining = metric.name === 'train loss';
  return {
    'Learning rates tried for each optimizer': `${number}${tune === undefined ? '' : ', evenly spaced on a log scale from a tenth to ten times the center'}`,
    'Choice of the rate': `by the final ${metric.name} (${metric.better} is better), ${by}; rates at which a run diverged come last`,
    'Options other than the rate': 'as listed in the names of the optimizers, else their defaults; not tuned',
    Seeds: `${seeds}: 0${seeds > 1 ? ` to ${seeds - 1}` : ''}; a seed determines the order of the samples and what the graph draws, the initial weights are the same`,
    Runs: formatCount(runs.length),
    Spread:
      seeds > 1
        ? 'standard deviation of the sample over the seeds; bands in charts are lowest to highest'
        : 'none: one seed',
    'Final and best': `${metric.name} after the last epoch, and after the best one`,
    ...(reach === undefined
      ? {}
      : {
          'Steps to target': `mean number of steps to the end of the first epoch with ${metric.name} ${metric.better === 'higher' ? 'at least' : 'at most'} ${formatNumber(reach)}; empty where a seed did not reach it`,
        }),
    Report:
      test !== undefined
        ? 'test data, evaluated once at the end of each run; no choice depends on them'
        : `${isTraining ? 'training' : 'the validation'} data, by which the rates were chosen: the best rate looks slightly better than it is`,
  };
}

/** The page as Markdown: tables, protocol, command. */
export function comparisonMarkdown(
  results: Results,
  { title, subtitle, code, protocol }: ComparisonPage,
): string {
  const facts = Object.entries({ ...protocol, ...environment() });
  return `${[
    `# ${cell(title)}`,
    cell(subtitle),
    '## Each at its best learning rate',
    markdownTable(standingsTable(results, 'best')),
    '## Protocol',
    facts.map(([name, value]) => `- ${cell(name)}: ${cell(value)}`).join('\n'),
    '## All learning rates',
    markdownTable(standingsTable(results, 'all')),
    '## How to reproduce',
    code.replace(/^/gm, '    '),
  ].join('\n\n')}\n`;
}

function markdownTable(table: Table): string {
  const row = (cells: readonly string[]) => `| ${cells.map(cell).join(' | ')} |`;
  return [row(table.head), row(table.head.map(() => '---')), ...tableTexts(table).rows.map(row)].join('\n');
}

/** Text that Markdown shows as it is. */
const cell = (text: string) => text.replace(/[\\`*_|<>[\]#]/g, '\\$&').replace(/\s+/g, ' ');

const environment = () => ({
  Node: process.version,
  Processor: `${cpus()[0]?.model ?? 'unknown'}, ${formatCount(cpus().length, 'core')}`,
});

/** The page on a comparison: who was best, how they learned, at which rates, how to do it again. */
export function renderComparison(
  results: Results,
  charts: Record<string, string>,
  { title, subtitle, code, protocol }: ComparisonPage,
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
      { title: 'Protocol', blocks: [{ kind: 'facts', facts: protocol }] },
      { title: 'All learning rates', blocks: [{ kind: 'table', ...standingsTable(results, 'all') }] },
      {
        title: 'How to reproduce',
        blocks: [
          { kind: 'code', code },
          { kind: 'facts', facts: environment() },
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

const ownName = ({ name }: Metric) => name.replace(/^(validation|train) /, '');

const formatMetric = ({ name }: Metric, value: number) =>
  !Number.isFinite(value) ? '' : isShare(name) ? formatPercent(value, 2) : formatLoss(value);

const axisOf = ({ name }: Metric) =>
  isShare(name) ? { label: name, format: (v: number) => formatPercent(v) } : { label: name };

const isShare = (name: string) => /accuracy$/.test(name);

const capital = (text: string) => `${text[0]!.toUpperCase()}${text.slice(1)}`;
