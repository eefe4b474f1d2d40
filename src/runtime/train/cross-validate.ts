/** K-fold cross-validation: a run from the same weights for each fold, which is held out for validation. */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { AgdError } from '../../graph/errors.js';
import { anyRank } from '../collective/collective.js';
import type { EndEvent, EpochEvent, FoldEvent, TrainEvent } from './events.js';
import { directionOf, monitoredValue } from './monitor.js';
import { spreadOf } from './spread.js';
import type { TrainJob } from './train-job.js';

type Report = (event: TrainEvent) => void;
type Signal = { readonly aborted: boolean };
type RunOne = (job: TrainJob, report: Report, signal: Signal) => Promise<void>;

/** The file for the model of the fold with this index. */
export const foldOutput = (folder: string, index: number) => join(folder, `fold-${index + 1}.onnx`);

/**
 * Runs `job` once for each of its folds, with the statistics of columns taken from the other folds, and reports a `fold`
 * for each and `folds` for all. A fold counts with its last epoch, or with its best one where the job stops or chooses by the
 * monitored value. Models are written to `job.outDir`, if there is one.
 */
export async function crossValidate(
  job: TrainJob,
  runOne: RunOne,
  report: Report,
  signal: Signal,
): Promise<void> {
  const { folds: of = 2, outDir, monitor, patience, collective } = job;
  // Ranks are asked to stop at different times.
  const isStopped = async () => (collective ? anyRank(collective, signal.aborted) : signal.aborted);
  const choice = job.export ?? (patience === undefined && monitor === undefined ? 'last' : 'best');
  if (outDir !== undefined) await mkdir(outDir, { recursive: true }).catch(cannotMake(outDir));
  const told = new Set<string>();
  const results: FoldEvent[] = [];
  const runs: EpochEvent[][] = [];
  const ends: EndEvent[] = [];
  let stopped = await isStopped();
  for (let index = 0; index < of && !stopped; index++) {
    const epochs: EpochEvent[] = [];
    const place = { fold: index + 1, folds: of };
    const watch = (event: TrainEvent) => {
      if (event.type === 'end') ends.push(event);
      else if (event.type === 'start') report({ ...event, ...place });
      else if (event.type === 'note' || event.type === 'injected') {
        // What holds for all folds is told once.
        const { time: _, ...what } = event;
        const text = JSON.stringify(what);
        if (!told.has(text)) report(event);
        told.add(text);
      } else report(event);
      if (event.type === 'epoch') epochs.push(event);
    };
    const output = outDir === undefined ? undefined : foldOutput(outDir, index);
    const fold = { index, of };
    await runOne({ ...job, folds: undefined, fold, output, export: choice }, watch, signal).catch(error => {
      // What was asked for is wrong for all folds.
      if (!(error instanceof AgdError) || error.code === 'bad-option') throw error;
      throw new AgdError(error.code, `Fold ${index + 1} of ${of}: ${error.message}`, { cause: error });
    });
    stopped = await isStopped();
    if (stopped) break;
    const { epoch = epochs.length } = ends.at(-1)!.best ?? {};
    const counted = epochs.find(event => event.epoch === epoch)!;
    const { loss, metrics, samples } = counted.validation!;
    const result: FoldEvent = {
      ...{ type: 'fold', time: Date.now(), ...place, epoch, epochs: epochs.length, samples },
      values: { loss, ...metrics },
    };
    report(result);
    results.push(result);
    runs.push(epochs);
  }
  if (results.length) {
    const names = Object.keys(results[0]!.values);
    const of = (name: string) => spreadOf(results.map(({ values }) => values[name] ?? Number.NaN));
    const best = bestMean(runs, monitor ?? 'loss');
    report({
      ...{ type: 'folds', time: Date.now(), folds: results.length, choice },
      values: Object.fromEntries(names.map(name => [name, of(name)])),
      ...(best ? { best } : {}),
    });
  }
  const total = (key: 'steps' | 'skipped') => ends.reduce((sum, end) => sum + end[key], 0);
  report({
    ...{ type: 'end', time: Date.now(), stopped },
    ...{ reason: stopped ? 'signal' : 'epochs', steps: total('steps'), skipped: total('skipped') },
  });
}

/** The epoch with the best mean of the monitored value, among those that all folds have. */
function bestMean(runs: readonly EpochEvent[][], metric: string): EndEvent['best'] {
  const better = directionOf(metric);
  const shared = Math.min(...runs.map(({ length }) => length));
  const means = Array.from(
    { length: shared },
    (_, i) => spreadOf(runs.map(epochs => monitoredValue(epochs[i]!, metric)!)).mean,
  );
  const isBetter = (a: number, b: number) => (better === 'higher' ? a > b : a < b);
  const at = means.reduce(
    (best, value, i) => (!Number.isNaN(value) && (best < 0 || isBetter(value, means[best]!)) ? i : best),
    -1,
  );
  return at < 0 ? undefined : { epoch: at + 1, metric, value: means[at]! };
}

const cannotMake = (folder: string) => (error: Error) => {
  throw new AgdError('io', `Cannot make the folder ${folder}: ${error.message}.`);
};
