import { basename } from 'node:path';
import type { ArgumentsCamelCase, Argv } from 'yargs';
import { AgdError } from '../../src/constants.js';
import type { ComparedRun, Comparison } from '../../src/index.js';
import { comparisonCharts, type Results, renderComparison, standingsTable } from '../compare-report.js';
import { contendersOf } from '../contenders.js';
import { dataOf, dataOptions, type ParsedData } from '../data-options.js';
import {
  injectOptions,
  lossOptions,
  makeFolder,
  type Parsed,
  sessionOptions,
  trainingOptions,
  withOriginal,
  writeTexts,
} from '../options.js';
import { sharedStepOptions } from '../step-options.js';
import { formatCount, formatNumber } from '../ui/format.js';
import { createProgress, type Progress } from '../ui/progress.js';
import { renderTable } from '../ui/table.js';
import { painter, print, printPainted } from '../ui/terminal.js';
import { commandLine } from './train.js';

export const builder = (args: Argv) =>
  sessionOptions(sharedStepOptions(dataOptions(trainingOptions(lossOptions(args)))))
    .positional('model', { type: 'string', demandOption: true, describe: 'Plain ONNX file' })
    .options({
      epochs: { type: 'number', default: 1, describe: 'Passes over the data' },
      optimizers: {
        type: 'string',
        default: 'agd,adamw,sgd',
        describe: 'Whom to compare, as agd,adamw or with options: agd(delta=1e-3),agd(delta=1e-8)',
      },
      lr: {
        type: 'string',
        describe: "Rates to try, as '3e-4,1e-3; sgd=0.03,0.1' [0.1, 1 and 10 times the default]",
      },
      seeds: { type: 'number', default: 3, describe: 'Runs of each, of different order' },
      'by-loss': { type: 'boolean', describe: 'Judge by the loss where there is an accuracy too' },
      reach: { type: 'number', describe: 'Count the steps until this accuracy or loss' },
      out: { alias: 'o', type: 'string', describe: 'Folder to write to [MODEL.compare]' },
    } as const)
    .example(
      '$0 compare model.onnx --loss cross-entropy --data train.npz --val test.npz --epochs 3 --optimizers agd,adamw,sgd --lr "3e-4,1e-3,3e-3; sgd=0.03,0.1,0.3"',
      '',
    );

type Args = ArgumentsCamelCase<
  Omit<Parsed, 'lr'> &
    ParsedData & {
      model: string;
      epochs: number;
      optimizers: string;
      lr?: string;
      seeds: number;
      byLoss?: boolean;
      reach?: number;
      out?: string;
      device?: Comparison['device'];
      threads?: number;
      color?: boolean;
    }
>;

export async function handler(args: Args): Promise<void> {
  const { model, epochs, seeds, device, threads, reach } = args;
  if (!Number.isSafeInteger(seeds) || seeds < 1)
    throw new AgdError('bad-option', `${seeds} seeds are not a whole number above 0.`);
  const { compare, metricCurve, metricOf, standings } = await import('../../src/index.js');
  const { lr, ...shared } = args;
  const inject = await withOriginal(injectOptions(shared), model);
  if (Object.keys(inject.optimizer ?? {}).length)
    throw new AgdError(
      'bad-option',
      'compare takes optimizers and their options from --optimizers and --lr.',
    );
  const contenders = contendersOf(args.optimizers, lr, usualRates);
  const out = args.out ?? model.replace(/(\.onnx)?$/, '.compare');
  await makeFolder(out);
  const comparison = { model, inject, ...dataOf(args), contenders, seeds, epochs, device, threads };
  const runs = await runAll(compare(comparison), args.color);
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
  events: ReturnType<typeof import('../../src/index.js').compare>,
  color: boolean | undefined,
): Promise<ComparedRun[]> {
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
      if (event.type === 'begin') {
        const { runs: epochs, stepsPerRun: stepsPerEpoch, batchSize: samplesPerStep } = event;
        progress = createProgress({
          ...{ stream: process.stdout, unit: 'run', epochs, stepsPerEpoch, samplesPerStep, color },
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
        const name = `${result.contender} at ${formatNumber(result.lr)}, seed ${result.seed}`;
        const last = result.epochs.at(-1);
        const accuracy = last?.validation?.accuracy;
        progress?.epoch({
          ...{
            epoch: run + 1,
            name,
            trainLoss: last?.trainLoss ?? Number.NaN,
            valLoss: last?.validation?.loss,
          },
          metrics: accuracy === undefined ? undefined : { 'val accuracy': accuracy },
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

async function write(out: string, results: Results, { model, data, epochs }: Args): Promise<void> {
  const charts = comparisonCharts(results);
  const { runs, standings } = results;
  const page = renderComparison(results, charts, {
    title: `${basename(model)}: ${[...new Set(standings.map(s => s.contender))].join(', ')}`,
    subtitle: `The same weights and batches of ${basename(data)} for all; ${formatCount(epochs, 'epoch')}, ${formatCount(standings[0]!.seeds, 'seed')}.`,
    code: commandLine(process.argv.slice(2)),
    facts: {},
  });
  const files: Record<string, string> = {
    'report.html': page,
    'results.json': `${JSON.stringify({ standings, runs }, undefined, 1)}\n`,
    ...Object.fromEntries(Object.entries(charts).map(([name, svg]) => [`${name}.svg`, svg])),
  };
  await writeTexts(out, files);
}

const usualRates = (lr: number) => [0.1, 1, 10].map(factor => Number((factor * lr).toPrecision(12)));
