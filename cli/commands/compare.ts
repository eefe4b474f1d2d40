import { basename } from 'node:path';
import { injectOptionsOf, types } from '../../src/command/startup.js';
import type { ComparedRun } from '../../src/internal.js';
import type { Arguments } from '../arguments.js';
import { candidatesOf, ratesAround } from '../candidates.js';
import {
  comparisonCharts,
  comparisonMarkdown,
  protocolOf,
  type Results,
  renderComparison,
  standingsTable,
} from '../compare-report.js';
import { makeFolder, pathsOf, withOriginal, writeTexts } from '../files.js';
import type { Options } from '../flags.js';
import { commandLine } from '../run-display.js';
import { formatCount, formatNumber } from '../ui/format.js';
import { createProgress, type Progress } from '../ui/progress.js';
import { renderTable } from '../ui/table.js';
import { jsonText, painter, print, printPainted } from '../ui/terminal.js';

export const model = 'Plain ONNX file';

const RUN = { group: 'Run', commands: [], stage: 'run' } as const;

export const options = {
  optimizers: {
    ...RUN,
    type: types.text,
    group: 'Optimizer',
    shown: 'agd,adamw,sgd',
    help: 'Optimizers to compare, e.g. agd,adamw or with options: agd(delta=1e-3),agd(delta=1e-8); all for every optimizer',
  },
  lr: {
    ...RUN,
    type: types.text,
    group: 'Optimizer',
    shown: '0.1, 1 and 10 times the default',
    help: "Learning rates to try, e.g. '3e-4,1e-3; sgd=0.03,0.1'",
  },
  tune: {
    ...RUN,
    type: types.count,
    group: 'Optimizer',
    help: "Choose each optimizer's rate with one seed among N, spaced evenly on a log scale from a tenth to ten times its default (or its --lr); the other seeds run at the chosen rate",
  },
  test: {
    ...RUN,
    type: types.text,
    group: 'Data',
    help: 'Test data that no choice depends on, evaluated at the end of each run',
  },
  seeds: { ...RUN, type: types.count, help: 'Repeats with different shuffles', shown: '3' },
  monitor: {
    ...RUN,
    type: types.text,
    help: 'Validation value that runs are ranked by: loss or a metric',
    shown: 'the first --metric, else accuracy, else loss',
  },
  reach: {
    ...RUN,
    type: types.finite,
    help: 'Count the steps until the value that runs are ranked by is reached',
  },
  out: {
    ...RUN,
    type: types.text,
    group: 'Output',
    alias: 'o',
    help: 'Folder to write to',
    shown: 'MODEL.compare',
  },
} satisfies Options;

export const examples = [
  [
    "compare model.onnx --loss cross-entropy --data train.npz --val-split 0.2 --test test.npz --optimizers agd,adamw,lion,muon --tune 5 --lr 'lion=3e-4'",
    '',
  ],
  [
    "compare model.onnx --loss cross-entropy --data train.npz --val test.npz --epochs 3 --lr '3e-4,1e-3,3e-3; sgd=0.03,0.1,0.3'",
    '',
  ],
] as const;

type Args = Arguments & {
  data: string | readonly string[];
  optimizers?: string;
  lr?: string;
  tune?: number;
  test?: string;
  seeds?: number;
  monitor?: string;
  reach?: number;
  out?: string;
};

export async function handler(args: Args): Promise<void> {
  const {
    model,
    epochs = 1,
    seeds = 3,
    tune,
    test,
    device,
    threads,
    reach,
    data,
    validation,
    batchSize,
    bind,
  } = args;
  const { compare, dataOptionsOf, loadRecipe, metricCurve, metricOf, standings } = await import(
    '../../src/internal.js'
  );
  const inject = await withOriginal(injectOptionsOf(args), model);
  const candidates = candidatesOf(
    args.optimizers ?? 'agd,adamw,sgd',
    args.lr,
    center => ratesAround(center, tune ?? 3),
    tune !== undefined,
  );
  const out = args.out ?? model.replace(/(\.onnx)?$/, '.compare');
  await makeFolder(out);
  const { metrics, monitor, teacher, lossModel } = args;
  const recipe = args.recipe === undefined ? undefined : await loadRecipe(args.recipe);
  const source = { data, validation, batchSize, bind, ...dataOptionsOf(args), recipe };
  const comparison = {
    model,
    inject,
    ...source,
    candidates,
    ...{ seeds, tune: tune !== undefined, test },
    epochs,
    device,
    threads,
    metrics,
    monitor,
    teacher,
    lossModel,
  };
  const runs = await runAll(compare(comparison), args);
  if (!runs.length) return;
  const metric = metricOf(runs, args);
  const results = {
    runs,
    metric,
    standings: standings(runs, reach, metric),
    curve: (r: ComparedRun) => metricCurve(r, metric),
  };
  printPainted(renderTable(standingsTable(results, 'all'), painter(process.stdout, args.color)));
  await write(out, results, args);
}

/** Runs one after the other; Ctrl-C ends them, and what is done counts. */
async function runAll(
  events: ReturnType<typeof import('../../src/internal.js').compare>,
  { color, ...by }: Pick<Args, 'color' | 'monitor' | 'metrics'>,
): Promise<ComparedRun[]> {
  const { metricCurve, metricOf } = await import('../../src/internal.js');
  const done: ComparedRun[] = [];
  let progress: Progress | undefined;
  let stopped = false;
  const stop = () => {
    stopped = true;
  };
  process.once('SIGINT', stop);
  let start = performance.now();
  try {
    for await (const event of events) {
      if (event.type === 'note') print(event.text);
      if (event.type === 'start') {
        const { runs: epochs, stepsPerRun: stepsPerEpoch, batchSize: samplesPerStep } = event;
        progress = createProgress({
          stream: process.stdout,
          unit: 'run',
          epochs,
          stepsPerEpoch,
          samplesPerStep,
          color,
        });
      }
      if (event.type === 'step') {
        progress?.step({ epoch: event.run + 1, step: event.step, loss: event.loss });
        // Between two steps there is no other chance for a signal to arrive.
        if (event.step % 50 === 0) await new Promise(setImmediate);
      }
      if (event.type === 'run') {
        const { result, run } = event;
        done.push(result);
        const name = `${result.candidate} at ${formatNumber(result.lr)}, seed ${result.seed}`;
        const last = result.epochs.at(-1);
        const metric = metricOf([result], by);
        const value = metricCurve(result, metric).at(-1);
        progress?.epoch({
          ...{
            epoch: run + 1,
            name,
            trainLoss: last?.trainLoss ?? Number.NaN,
            valLoss: last?.validation?.loss,
          },
          metrics:
            value === undefined || metric.name.endsWith('loss') ? {} : { [`val ${metric.name}`]: value },
          seconds: (performance.now() - start) / 1000,
        });
        start = performance.now();
      }
      if (stopped) {
        process.exitCode = 130;
        break;
      }
    }
  } finally {
    progress?.done();
    process.off('SIGINT', stop);
  }
  return done;
}

async function write(
  out: string,
  results: Results,
  { model, data, epochs = 1, ...args }: Args,
): Promise<void> {
  const charts = comparisonCharts(results);
  const { runs, standings, metric } = results;
  const protocol = protocolOf(results, args);
  const text = {
    title: `${basename(model)}: ${[...new Set(standings.map(s => s.candidate))].join(', ')}`,
    subtitle: `The same weights and batches of ${pathsOf(data)
      .map(path => basename(path))
      .join(', ')} for all; ${formatCount(epochs, 'epoch')}, ${formatCount(standings[0]!.seeds, 'seed')}.`,
    code: commandLine(process.argv.slice(2)),
    protocol,
  };
  const files: Record<string, string> = {
    'report.html': renderComparison(results, charts, text),
    'report.md': comparisonMarkdown(results, text),
    'results.json': `${jsonText({ protocol, metric, standings, runs }, 1)}\n`,
    ...Object.fromEntries(Object.entries(charts).map(([name, svg]) => [`${name}.svg`, svg])),
  };
  await writeTexts(out, files);
}
