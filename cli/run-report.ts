import { cpus } from 'node:os';
import { elements, singleMetrics } from './run-display.js';
import type { RunRecord } from './run-record.js';
import { describeOptimizer } from './ui/describe-step.js';
import {
  formatCount,
  formatLoss,
  formatMetric,
  formatNumber,
  formatPercent,
  formatSeconds,
} from './ui/format.js';
import { type Block, renderReport, type Section, type Tile } from './ui/report.js';
import { type Axis, bothSizes, type Chart, type Series } from './ui/svg.js';
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
export function renderRun(run: RunRecord, page: RunPage): string {
  const { title, subtitle, code, facts } = page;
  return renderReport({
    title,
    subtitle,
    tiles: tiles(run),
    sections: [
      ...runSections(run, page.sections),
      {
        title: 'How to reproduce',
        blocks: [
          { kind: 'code', code },
          { kind: 'facts', facts: { ...facts, ...environment(run) } },
        ],
      },
    ],
  });
}

/** How a run went so far; the page on a run that is under way shows the same. */
export function runSections(run: RunRecord, more: readonly Section[] = []): Section[] {
  const { telemetry, worst, epochs } = run;
  return [
    { title: 'Training', blocks: [{ kind: 'charts', svgs: charts(run).map(bothSizes) }] },
    ...confusionSection(run),
    ...(worst.length ? [worstSection(run)] : []),
    ...more,
    ...(telemetry.length ? [telemetrySection(run)] : []),
    ...(epochs.length ? [{ title: 'Epochs', blocks: epochTables(run) }] : []),
  ];
}

/** Key figures; those of the best epoch where there is one. */
export function tiles(run: RunRecord): Tile[] {
  const { losses, seconds, injected, start, epochs, best } = run;
  const result = best ?? epochs.at(-1);
  const { loss, accuracy } = result?.validation ?? {};
  const where =
    best && epochs.length > 1 ? `of the best epoch, ${best.epoch} of ${epochs.length}` : undefined;
  const unseen = 'on data not seen in training';
  return [
    ...(accuracy === undefined
      ? []
      : [{ label: 'Accuracy', value: formatPercent(accuracy), note: where ?? unseen }]),
    loss === undefined
      ? { label: 'Training loss', value: formatLoss(result?.trainLoss ?? losses.at(-1) ?? Number.NaN) }
      : { label: 'Validation loss', value: formatLoss(loss), note: where ?? unseen },
    {
      label: 'Time',
      value: formatSeconds(seconds),
      note: `${formatCount(losses.length, 'step')} of ${formatCount(start?.batchSize ?? 1, 'sample')}`,
    },
    { label: 'Steps a second', value: formatRate(losses.length / seconds), note: 'evaluation included' },
    ...(start?.parameters
      ? [
          {
            label: 'Parameters',
            value: formatCount(start.parameters.elements),
            note: `in ${formatCount(start.parameters.tensors, 'tensor')}`,
          },
        ]
      : []),
    ...(injected
      ? [
          {
            label: 'Graph',
            value: formatCount(injected.nodes.after, 'node'),
            note: `from ${formatCount(injected.nodes.before)}`,
          },
        ]
      : []),
  ];
}

const formatRate = (rate: number) =>
  Number.isFinite(rate) ? (rate < 10 ? rate.toPrecision(2) : formatCount(rate)) : '–';

/** Curves of steps have the step as x, those of epochs the epoch; the best epoch is marked in both. */
function charts(run: RunRecord): Chart[] {
  const { losses, rates, norms, epochs, epochEnds, best } = run;
  const validated = epochs.map(e => e.validation?.loss ?? Number.NaN);
  const isPositive = [losses, validated].every(list => list.every(loss => !(loss <= 0)));
  const bestAt = best ? epochs.indexOf(best) : -1;
  const bestStep =
    best && epochs.length > 1 ? [{ x: epochEnds[bestAt]!, label: `best epoch ${best.epoch}` }] : [];
  const bestMark = best && epochs.length > 1 ? [{ x: best.epoch, label: 'best' }] : [];
  const steps: Chart = {
    title: 'Loss of each step',
    x: { label: 'step' },
    y: { label: 'loss', scale: isPositive ? 'log' : 'linear' },
    series: [
      { name: 'training, with its trend', y: losses, smooth: true },
      ...(validated.some(Number.isFinite) ? [{ name: 'validation', x: epochEnds, y: validated }] : []),
    ],
    marks: bestStep,
  };
  const x = epochs.map(e => e.epoch);
  const series = (name: string, y: number[]): Series[] => (y.some(Number.isFinite) ? [{ name, x, y }] : []);
  const byEpoch: Chart = {
    title: 'Loss of each epoch',
    x: { label: 'epoch' },
    y: { label: 'loss' },
    series: [
      ...series(
        'training',
        epochs.map(e => e.trainLoss),
      ),
      ...series('validation', validated),
    ],
    marks: bestMark,
  };
  return [
    steps,
    ...(epochs.length > 1 ? [byEpoch] : []),
    ...metricNames(run).map(
      (name): Chart => ({
        title: `${capital(name)} after each epoch`,
        x: { label: 'epoch' },
        y: { label: name, ...(/accuracy$/.test(name) ? { format: (v: number) => formatPercent(v) } : {}) },
        series: [
          ...series(
            'training',
            epochs.map(e => e.training?.metrics[name] ?? Number.NaN),
          ),
          ...series(
            'validation',
            epochs.map(e => e.validation?.metrics[name] ?? Number.NaN),
          ),
        ],
        marks: bestMark,
      }),
    ),
    ...ofSteps(rates, { title: 'Learning rate', label: 'learning rate', varies: true }),
    ...ofSteps(norms, { title: 'Norm of the gradients before clipping', label: '2-norm', smooth: true }),
  ];
}

function metricNames({ epochs }: RunRecord): string[] {
  return [...new Set(epochs.flatMap(e => singleMetrics(e.validation?.metrics).map(([name]) => name)))];
}

type StepCurve = { title: string; label: string; varies?: boolean; smooth?: boolean };

/** A chart of a number that steps have, where they do and, with `varies`, it is not always the same. */
function ofSteps(values: readonly number[], { title, label, varies, smooth }: StepCurve): Chart[] {
  const known = [...values.entries()].filter(([, value]) => Number.isFinite(value));
  const different = known.some(([, value]) => value !== known[0]![1]);
  if (known.length < 2 || (varies && !different)) return [];
  const isPositive = known.every(([, value]) => value > 0);
  return [
    {
      title,
      x: { label: 'step' },
      y: { label, scale: smooth && isPositive ? 'log' : 'linear' },
      series: [{ name: label, x: known.map(([i]) => i + 1), y: known.map(([, value]) => value), smooth }],
    },
  ];
}

/** More classes than this do not fit a table. */
const MATRIX_CLASSES = 24;

function confusionSection({ epochs, best }: RunRecord): Section[] {
  const epoch = best?.validation?.confusion ? best : epochs.findLast(e => e.validation?.confusion);
  const confusion = epoch?.validation?.confusion;
  if (!confusion) return [];
  const { matrix, classes = matrix.map((_, i) => String(i)) } = confusion;
  const title = 'Confusion matrix';
  const when = epochs.length > 1 ? `, after epoch ${epoch.epoch}` : '';
  if (classes.length <= MATRIX_CLASSES)
    return [
      { title, blocks: [{ kind: 'confusion', caption: `Validation samples${when}`, classes, matrix }] },
    ];
  const mistakes = matrix
    .flatMap((row, i) => row.map((count, j) => ({ count, i, j })))
    .filter(({ count, i, j }) => i !== j && count > 0)
    .sort((a, b) => b.count - a.count)
    .slice(0, 20);
  const rows = mistakes.map(({ count, i, j }) => [classes[i]!, classes[j]!, formatCount(count)]);
  const caption = `The most frequent mistakes on validation samples${when}`;
  return [{ title, blocks: [{ kind: 'table', caption, head: ['class', 'taken for', 'samples'], rows }] }];
}

function worstSection({ worst }: RunRecord): Section {
  const images = worst.flatMap(({ image, target, prediction, loss, row }) =>
    image
      ? {
          ...{ width: image.width, height: image.height, channels: image.channels },
          pixels: new Uint8Array(Buffer.from(image.pixels, 'base64')),
          ...{ label: target ?? `row ${row}`, prediction, note: `loss ${formatLoss(loss)}` },
        }
      : [],
  );
  const others = worst.filter(sample => !sample.image);
  return {
    title: 'Samples with the largest loss',
    blocks: [
      ...(images.length ? [{ kind: 'images', images } as const] : []),
      ...(others.length ? [{ kind: 'samples', samples: others } as const] : []),
    ],
  };
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
    bothSizes({
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
    title: 'Optimizer statistics',
    blocks: [
      ...(places.length < count ? [{ kind: 'text', text } as const] : []),
      { kind: 'charts', svgs: charts },
    ],
  };
}

/** With more epochs than this, the best and the last ones are shown, and all on request. */
const EPOCHS_SHOWN = { all: 20, last: 5 };

function epochTables(run: RunRecord): Block[] {
  const { epochs, best } = run;
  type Result = (typeof epochs)[number];
  const columns: Record<string, (result: Result) => string> = {
    epoch: e => `${formatCount(e.epoch)}`,
    'train loss': e => formatLoss(e.trainLoss),
    'val loss': e => (e.validation ? formatLoss(e.validation.loss) : ''),
    ...Object.fromEntries(
      metricNames(run).map(name => [
        `val ${name}`,
        (e: Result) => {
          const value = e.validation?.metrics[name];
          return value === undefined ? '' : formatMetric(name, value);
        },
      ]),
    ),
    time: e => formatSeconds(e.seconds),
    '': e => (e === best && epochs.length > 1 ? '★ best' : ''),
  };
  const filled = Object.entries(columns).filter(([, text]) => epochs.some(e => text(e)));
  const table = (shown: readonly Result[]) => ({
    head: filled.map(([name]) => name),
    rows: shown.map(e => filled.map(([, text]) => text(e))),
  });
  if (epochs.length <= EPOCHS_SHOWN.all) return [{ kind: 'table', ...table(epochs) }];
  const few = epochs.filter((e, i) => e === best || i >= epochs.length - EPOCHS_SHOWN.last);
  return [
    {
      kind: 'table',
      caption: `${best ? 'The best epoch and the last ones' : 'The last epochs'}`,
      ...table(few),
    },
    { kind: 'table', folded: `All ${formatCount(epochs.length, 'epoch')}`, ...table(epochs) },
  ];
}

function environment({ injected, rates }: RunRecord): Record<string, string> {
  const known = rates.filter(Number.isFinite);
  const isConstant = known.length > 0 && known.every(rate => rate === known[0]);
  return {
    ...(injected ? { Optimizer: describeOptimizer(injected.description) } : {}),
    ...(isConstant ? { 'Learning rate': formatNumber(known[0]!) } : {}),
    Node: process.version,
    Processor: `${cpus()[0]?.model ?? 'unknown'}, ${formatCount(cpus().length, 'core')}`,
  };
}

const capital = (text: string) => `${text[0]!.toUpperCase()}${text.slice(1)}`;
