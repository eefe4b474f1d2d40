import { cpus } from 'node:os';
import { elements } from './run-display.js';
import type { RunRecord } from './run-record.js';
import { describeOptimizer } from './ui/describe-step.js';
import { formatCount, formatLoss, formatPercent, formatSeconds } from './ui/format.js';
import { type Block, renderReport, type Section, type Tile } from './ui/report.js';
import { type Axis, type Chart, lineChart, type Series } from './ui/svg.js';
import { SERIES_COLORS } from './ui/theme.js';

export type RunPage = {
  title: string;
  subtitle: string;
  /** The command lines that do it again. */
  code: string;
  facts?: Record<string, string>;
  /** Between the curves and the command lines. */
  sections?: readonly Section[];
};

/** The page on a training run: what came out, how it went, how to do it again. */
export function renderRun(run: RunRecord, { title, subtitle, code, facts, sections = [] }: RunPage): string {
  return renderReport({
    title,
    subtitle,
    tiles: tiles(run),
    sections: [
      {
        title: 'Training',
        blocks: [
          { kind: 'charts', svgs: charts(run).map(lineChart) },
          ...(run.epochs.length ? [epochTable(run)] : []),
        ],
      },
      ...(run.telemetry.length ? [telemetrySection(run)] : []),
      ...sections,
      {
        title: 'How to do it again',
        blocks: [
          { kind: 'code', code },
          { kind: 'facts', facts: { ...facts, ...environment(run) } },
        ],
      },
    ],
  });
}

function tiles(run: RunRecord): Tile[] {
  const { losses, seconds, accuracy, injected, start } = run;
  const result = run.epochs.at(-1);
  const trained = injected?.parameters.filter(p => p.trains) ?? [];
  return [
    accuracy === undefined
      ? { label: 'Loss', value: formatLoss(result?.validation?.loss ?? result?.trainLoss ?? losses.at(-1)!) }
      : { label: 'Accuracy', value: formatPercent(accuracy), note: 'on data not seen in training' },
    {
      label: 'Time',
      value: formatSeconds(seconds),
      note: `${formatCount(losses.length, 'step')} of ${start?.batchSize} samples`,
    },
    { label: 'Steps a second', value: formatCount(losses.length / seconds), note: 'evaluation included' },
    ...(injected
      ? [
          {
            label: 'Parameters',
            value: formatCount(trained.reduce((n, { shape }) => n + elements(shape), 0)),
            note: formatCount(trained.length, 'tensor'),
          },
          {
            label: 'Graph',
            value: formatCount(injected.nodes.after, 'node'),
            note: `from ${formatCount(injected.nodes.before)}`,
          },
        ]
      : []),
  ];
}

function charts({ losses, epochs, epochEnds, accuracy }: RunRecord): Chart[] {
  const validated = epochs.map(e => e.validation?.loss ?? Number.NaN);
  const isPositive = [...losses, ...validated].every(loss => !(loss <= 0));
  const validation = { name: 'validation', x: epochEnds, y: validated };
  const steps: Chart = {
    title: 'Loss of each step',
    x: { label: 'step' },
    y: { label: 'loss', scale: isPositive ? 'log' : 'linear' },
    series: [
      { name: 'training, with its trend', y: losses, smooth: true },
      ...(validated.some(Number.isFinite) ? [validation] : []),
    ],
  };
  if (!epochs.length) return [steps];
  const x = epochs.map(e => e.epoch);
  const series = (name: string, y: number[]): Series[] => (y.some(Number.isFinite) ? [{ name, x, y }] : []);
  if (accuracy === undefined)
    return [
      steps,
      {
        title: 'Loss of each epoch',
        x: { label: 'epoch' },
        y: { label: 'loss' },
        series: [
          ...series(
            'training',
            epochs.map(e => e.trainLoss),
          ),
          ...series(
            'validation',
            epochs.map(e => e.validation?.loss ?? Number.NaN),
          ),
        ],
      },
    ];
  return [
    steps,
    {
      title: 'Accuracy after each epoch',
      x: { label: 'epoch' },
      y: { label: 'accuracy', format: v => formatPercent(v) },
      series: series(
        'validation',
        epochs.map(e => e.validation!.accuracy!),
      ),
    },
  ];
}

/** What the columns of telemetry are called here; `update` is their x. */
const SHOWN: Record<string, { title: string; y: Axis }> = {
  sgd_share: {
    title: 'Share of coordinates in steps of SGD',
    y: { label: 'share', min: 0, max: 1, format: v => formatPercent(v, 0) },
  },
  grad_norm: { title: 'Gradient', y: { label: '2-norm', scale: 'log' } },
  update_norm: { title: 'Update', y: { label: '2-norm', scale: 'log' } },
  difference_norm: { title: 'Stepwise gradient difference', y: { label: '2-norm', scale: 'log' } },
};

/** A chart for each column, a line for each parameter: those of most dimensions first, as many as there are colours. */
function telemetrySection({ telemetry, injected }: RunRecord): Section {
  const size = new Map(injected?.parameters.map(p => [p.name, elements(p.shape)]));
  const places = [...telemetry[0]!.keys()]
    .sort((a, b) => sizeAt(b) - sizeAt(a))
    .slice(0, SERIES_COLORS)
    .sort((a, b) => a - b);
  function sizeAt(i: number): number {
    return size.get(telemetry[0]![i]!.parameter) ?? 0;
  }
  const x = telemetry.map(rows => rows[0]!.values.update!);
  const columns = Object.keys(SHOWN).filter(name => name in telemetry[0]![0]!.values);
  const charts = columns.map(name =>
    lineChart({
      title: SHOWN[name]!.title,
      x: { label: 'update' },
      y: SHOWN[name]!.y,
      series: places.map(i => ({
        name: telemetry[0]![i]!.parameter,
        x,
        y: telemetry.map(rows => rows[i]!.values[name]!),
      })),
    }),
  );
  const count = telemetry[0]!.length;
  const text = `The ${places.length} largest of ${count} tensors; --log writes all.`;
  return {
    title: 'What the optimizer did',
    blocks: [
      ...(places.length < count ? [{ kind: 'text', text } as const] : []),
      { kind: 'charts', svgs: charts },
    ],
  };
}

function epochTable({ epochs }: RunRecord): Block {
  const columns: Record<string, (result: (typeof epochs)[number]) => string> = {
    epoch: e => formatCount(e.epoch),
    'train loss': e => formatLoss(e.trainLoss),
    'val loss': e => (e.validation ? formatLoss(e.validation.loss) : ''),
    'val accuracy': e => (e.validation?.accuracy === undefined ? '' : formatPercent(e.validation.accuracy)),
    time: e => formatSeconds(e.seconds),
  };
  const filled = Object.entries(columns).filter(([, text]) => epochs.some(e => text(e)));
  const rows = epochs.map(e => filled.map(([, text]) => text(e)));
  return { kind: 'table', head: filled.map(([name]) => name), rows };
}

function environment({ injected }: RunRecord): Record<string, string> {
  return {
    ...(injected ? { Optimizer: describeOptimizer(injected.description) } : {}),
    Node: process.version,
    Processor: `${cpus()[0]?.model ?? 'unknown'}, ${formatCount(cpus().length, 'core')}`,
  };
}
