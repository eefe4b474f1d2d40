import { AgdError } from '../../graph/errors.js';
import type { Tensor } from '../../graph/tensor.js';
import { providerOf } from '../../ops/core/provider.js';
import type { OptimizerSpec } from '../../ops/optimizers/index.js';
import { inject } from '../../passes/inject.js';
import { attachModels } from '../../passes/normalize/attach-models.js';
import type { InjectOptions } from '../../passes/options.js';
import { readRecipe } from '../../passes/recipe/read-recipe.js';
import type { BindOptions } from '../data/bind.js';
import { type Data, type DataOptions, dataOptionsOf, OpenedData } from '../data/data.js';
import { openData } from '../data/open.js';
import { withDevice } from '../devices/choose.js';
import type { Beginning } from '../formats/artifacts.js';
import { openForInjection } from '../formats/open-for-injection.js';
import { inputSpecs } from '../input-specs.js';
import { checkMetrics, metricNamed } from '../metrics/index.js';
import { type SessionOptions, sessionShapes } from '../session.js';
import { withBalance } from './balance.js';
import { calibrate } from './calibrate.js';
import type { Evaluation, TelemetryRow } from './events.js';
import { batchToFree, inputsToDerive, shapesOf } from './model-data.js';
import { type Direction, directionOf, metricsWith, monitoredValue } from './monitor.js';
import {
  bind,
  bindingOf,
  bindTraining,
  openHeld,
  trialData,
  updatesOf,
  withMixedTargets,
} from './prepare.js';
import { type Spread, spreadOf } from './spread.js';
import { Trainer } from './trainer.js';
import { trainingLoop } from './training-loop.js';
import { verifyPacking } from './verify-packing.js';

/** An optimizer with its options, and the learning rates that it is tried at. */
export type Candidate = { name: string; optimizer: OptimizerSpec; rates: readonly number[] };

/** The same model, from the same weights, on the same batches, by each candidate at each rate with each seed. */
export type Comparison = SessionOptions & {
  model: string;
  /** What all share; the optimizer is each candidate's own. */
  inject: InjectOptions;
  data: string | readonly string[];
  validation?: string | readonly string[];
  /** Data that no choice depends on: each run is evaluated on them at its end. */
  test?: string | readonly string[];
  candidates: readonly Candidate[];
  /** Seeds 0, 1, ... of the order of the samples and of what the graph draws. */
  seeds: number;
  /** Choose each candidate's rate by seed 0 alone, and run the other seeds at that rate only. */
  tune?: boolean;
  epochs: number;
  batchSize?: number;
  bind?: Omit<BindOptions, 'labels' | 'source'>;
  /** Metrics of the validation, and the value that runs are ranked by: `loss` or a metric. */
  metrics?: readonly string[];
  monitor?: string;
} & Omit<DataOptions, 'seed' | 'progress' | 'fold'> &
  Pick<Beginning, 'teacher' | 'lossModel'>;

export type ComparedRun = {
  candidate: string;
  lr: number;
  seed: number;
  /** The loss of each step. */
  losses: number[];
  epochs: { trainLoss: number; validation?: Evaluation }[];
  /** What the last weights give on the test data. */
  test?: Evaluation;
  secondsPerStep: number;
  /** Where telemetry shows it: the share of all coordinates that took a step of SGD, by update. */
  sgdShare?: { update: number; share: number }[];
  /** Why the run ended early: its loss or a parameter was no longer finite. */
  diverged?: string;
};

export type ComparisonEvent =
  | { type: 'note'; text: string }
  | { type: 'start'; runs: number; stepsPerRun: number; batchSize: number }
  | { type: 'step'; run: number; step: number; loss: number }
  | { type: 'run'; run: number; result: ComparedRun };

/** Yields what happens; each run's result when it is done. Throws as `inject` and `openData` do. */
export async function* compare(comparison: Comparison): AsyncGenerator<ComparisonEvent> {
  const opened = new OpenedData();
  const notes: string[] = [];
  const placed = await withDevice(comparison, why => notes.push(why));
  for (const text of notes) yield { type: 'note', text };
  try {
    yield* compareOnData(placed, opened);
  } finally {
    await opened.close();
  }
}

async function* compareOnData(comparison: Comparison, opened: OpenedData): AsyncGenerator<ComparisonEvent> {
  const { epochs } = comparison;
  if (comparison.inject.schedule?.kind === 'plateau')
    throw new AgdError(
      'bad-option',
      'The schedule plateau is not available in comparisons: choose another one.',
    );
  const { validation: path, metrics, monitor, recipe } = comparison;
  if (monitor !== undefined) {
    directionOf(monitor);
    if (path === undefined && comparison.valSplit === undefined)
      throw new AgdError(
        'bad-option',
        '--monitor needs validation data: give them with --val or --val-split.',
      );
  }
  if (comparison.test !== undefined && path === undefined && comparison.valSplit === undefined)
    throw new AgdError(
      'bad-option',
      '--test needs validation data to choose learning rates by: give them with --val or --val-split.',
    );
  const data = opened.add(await openData(comparison.data, { ...dataOptionsOf(comparison), recipe }));
  let held: Data | undefined;
  let lastHeld: Data | undefined;
  const { inject: given, augment, teacher, lossModel } = comparison;
  const beside = { teacher, lossModel };
  const file = await openForInjection(comparison.model, withMixedTargets(given, augment), beside);
  data.use(await readRecipe(file.model));
  const source = { ...file, ...(await attachModels(file.model, file.options, sessionShapes)) };
  const derived = await inputsToDerive({ ...source, job: comparison, data });
  const provider = source.options.provider ?? providerOf(comparison.device);
  const options = { ...source.options, ...derived.options, provider };
  const plain = { ...source, options, job: comparison, data };
  const { freeBatch = source.options.freeBatch, note } = await batchToFree(plain);
  await verifyPacking({ ...plain, options: { ...plain.options, freeBatch } });
  for (const text of [derived.note, note]) if (text) yield { type: 'note', text };
  const updates: InjectOptions['updates'] = async (fed, epochs = comparison.epochs) =>
    updatesOf({ ...comparison, epochs }, await bind(comparison, data, inputSpecs(fed), fed.target));
  const shapes = await shapesOf(plain);
  const unrounded = { ...plain.options, freeBatch, updates };
  const trial = (more: Partial<InjectOptions>) =>
    trialData({ ...plain, options: { ...unrounded, ...more } }, shapes);
  const ranges = await calibrate(
    { ...plain, options: unrounded },
    shapes,
    async () => (await trial({ qat: undefined })).data,
  );
  const shared = await withBalance({ ...unrounded, ranges }, loss => trial({ ranges, loss }));
  const runs = runCount(comparison);
  const done: ComparedRun[] = [];
  for (const { candidate, lr, seed } of plannedRuns(comparison, done)) {
    const run = done.length;
    const options: InjectOptions = { ...shared, optimizer: { ...candidate.optimizer, lr }, seed };
    const { model, report } = await inject(source.model, options, await shapesOf(plain));
    if (run === 0) for (const text of report.warnings) yield { type: 'note', text: `warning: ${text}` };
    const trainer = await Trainer.create(model, comparison);
    try {
      const { target } = trainer.description.loss;
      checkMetrics(trainer.description.loss, metrics, data.recipe);
      const train = await bindTraining(comparison, data, trainer);
      if (path !== undefined) held ??= opened.add(await openHeld(path, comparison, data));
      const validation = held
        ? await bind(comparison, held, trainer.inputs, target)
        : await data.validation(trainer.inputs, bindingOf(comparison, target));
      if (comparison.test !== undefined)
        lastHeld ??= opened.add(await openHeld(comparison.test, comparison, data));
      const test = lastHeld && (await bind(comparison, lastHeld, trainer.inputs, target));
      const loop = {
        epochs,
        batchSize: comparison.batchSize,
        validation,
        seed,
        metrics: metricsWith(monitor, metrics),
      };
      const stepsPerRun = epochs * train.batchCount(loop);
      if (run === 0) for (const text of train.notesOn(loop)) yield { type: 'note', text };
      if (run === 0) yield { type: 'start', runs, stepsPerRun, batchSize: train.batchSize(loop) };
      const result: ComparedRun = {
        ...{ candidate: candidate.name, lr, seed },
        ...{ losses: [], epochs: [], secondsPerStep: Number.NaN },
      };
      let seconds = 0;
      try {
        for await (const event of trainingLoop(trainer, train, loop)) {
          if (event.type === 'epoch') {
            result.epochs.push({ trainLoss: event.trainLoss, validation: event.validation });
            seconds += event.trainSeconds;
            if (monitor !== undefined) monitoredValue(event, monitor);
          }
          if (event.type === 'telemetry' && event.rows[0]!.values.sgd_share !== undefined) {
            result.sgdShare ??= [];
            result.sgdShare.push(shareOf(event.rows, trainer.state));
          }
          if (event.type !== 'step') continue;
          result.losses.push(event.loss);
          yield { type: 'step', run, step: result.losses.length, loss: event.loss };
        }
        result.secondsPerStep = seconds / result.losses.length;
        if (test) {
          const batches = test.batches({ batchSize: comparison.batchSize, pad: true });
          result.test = await trainer.evaluate(batches, { metrics: loop.metrics });
        }
      } catch (error) {
        if (!(error instanceof AgdError) || error.code !== 'non-finite') throw error;
        result.diverged = error.message;
      }
      done.push(result);
      yield { type: 'run', run, result };
    } finally {
      await trainer.release();
    }
  }
}

/** How many runs a comparison has. */
function runCount({ candidates, seeds, tune }: Comparison): number {
  return candidates.reduce((n, { rates }) => n + (tune ? rates.length + seeds - 1 : rates.length * seeds), 0);
}

/** The runs in their order; `done` are the results so far, which choose the rate of the seeds after the first. */
function* plannedRuns({ candidates, seeds, tune, ...by }: Comparison, done: readonly ComparedRun[]) {
  for (const candidate of candidates) {
    const seedsTried = tune ? 1 : seeds;
    for (const lr of candidate.rates)
      for (let seed = 0; seed < seedsTried; seed++) yield { candidate, lr, seed };
    if (seedsTried === seeds) continue;
    const own = done.filter(run => run.candidate === candidate.name);
    const [{ lr } = { lr: Number.NaN }] = standings(own, undefined, metricOf(done, by));
    for (let seed = 1; seed < seeds; seed++) yield { candidate, lr, seed };
  }
}

/** Of all coordinates of all parameters. */
function shareOf(rows: readonly TelemetryRow[], state: ReadonlyMap<string, Tensor>) {
  const sizes = rows.map(({ parameter }) => state.get(parameter)!.size);
  const all = sizes.reduce((a, b) => a + b, 0);
  const taken = rows.reduce((sum, { values }, i) => sum + values.sgd_share! * sizes[i]!, 0);
  return { update: rows[0]!.values.update!, share: taken / all };
}

/** What runs are ranked by: a metric of the validation, `validation loss` or `train loss`. */
export type Metric = { name: string; better: Direction };

/**
 * The monitored value where one is given, or else the first of these that the results have: one of `metrics`, the accuracy,
 * the loss on the validation data, and that in training.
 */
export function metricOf(
  runs: readonly ComparedRun[],
  { monitor, metrics = [] }: { monitor?: string; metrics?: readonly string[] } = {},
): Metric {
  const [epoch] = runs.flatMap(run => run.epochs);
  const found = epoch?.validation?.metrics ?? {};
  const isRanked = (name: string) => found[name] !== undefined && metricNamed(name).better !== undefined;
  const name = monitor ?? [...metrics, 'accuracy'].find(isRanked) ?? 'loss';
  if (name !== 'loss') return { name, better: directionOf(name) };
  return { name: epoch?.validation ? 'validation loss' : 'train loss', better: 'lower' };
}

/** The metric after each epoch that was finished. */
export function metricCurve(run: ComparedRun, { name }: Metric): number[] {
  if (name === 'train loss') return run.epochs.map(({ trainLoss }) => trainLoss);
  return run.epochs.map(epoch => monitoredValue(epoch, valueName(name)) ?? Number.NaN);
}

const valueName = (metric: string) => (metric === 'validation loss' ? 'loss' : metric);

const testValue = (validation: Evaluation, { name }: Metric) =>
  monitoredValue({ validation }, valueName(name)) ?? Number.NaN;

/** One candidate at one rate, over the seeds. Spreads are standard deviations of the sample. */
export type Standing = {
  candidate: string;
  lr: number;
  final: Spread;
  best: Spread;
  /** The same metric on the test data after the last step, where there are such data. */
  test?: Spread;
  /** Mean number of steps after which the target was first met, where every seed did. */
  stepsToTarget?: number;
  secondsPerStep: number;
  /** Mean over the run, where telemetry shows it. */
  sgdShare?: number;
  seeds: number;
  /** Seeds whose run diverged. */
  diverged: number;
};

/**
 * The standings in the order of the candidates, of each its best rate first: rates at which a seed diverged are last. Rates
 * are compared over the seeds that all rates of the candidate have.
 */
export function standings(
  runs: readonly ComparedRun[],
  target?: number,
  metric: Metric = metricOf(runs),
): Standing[] {
  const sign = metric.better === 'higher' ? 1 : -1;
  const groups = new Map<string, ComparedRun[]>();
  for (const run of runs) {
    const key = `${run.candidate} at ${run.lr}`;
    groups.set(key, [...(groups.get(key) ?? []), run]);
  }
  const order = [...new Set(runs.map(run => run.candidate))];
  const fewest = (candidate: string) =>
    Math.min(...[...groups.values()].filter(g => g[0]!.candidate === candidate).map(g => g.length));
  return [...groups.values()]
    .map(group => {
      const shared = standing(group.slice(0, fewest(group[0]!.candidate)), metric, undefined);
      return { shown: standing(group, metric, target), shared };
    })
    .sort(
      ({ shared: a }, { shared: b }) =>
        order.indexOf(a.candidate) - order.indexOf(b.candidate) ||
        a.diverged - b.diverged ||
        sign * (b.final.mean - a.final.mean),
    )
    .map(({ shown }) => shown);
}

function standing(group: readonly ComparedRun[], metric: Metric, target: number | undefined): Standing {
  const { candidate, lr } = group[0]!;
  const whole = group.filter(run => run.diverged === undefined);
  const curves = whole.map(run => metricCurve(run, metric));
  const best = metric.better === 'higher' ? Math.max : Math.min;
  const meets = (value: number) =>
    target !== undefined && (metric.better === 'higher' ? value >= target : value <= target);
  const steps = curves.map((curve, i) => {
    const epoch = curve.findIndex(meets);
    return epoch < 0 ? undefined : ((epoch + 1) * whole[i]!.losses.length) / curve.length;
  });
  const met = steps.filter(n => n !== undefined);
  const tested = whole.flatMap(run => (run.test ? [testValue(run.test, metric)] : []));
  const shares = whole.flatMap(run => run.sgdShare ?? []).map(({ share }) => share);
  return {
    candidate,
    lr,
    final: spreadOf(curves.map(curve => curve.at(-1)!)),
    best: spreadOf(curves.map(curve => best(...curve))),
    ...(tested.length ? { test: spreadOf(tested) } : {}),
    stepsToTarget: met.length && met.length === group.length ? spreadOf(met).mean : undefined,
    secondsPerStep: spreadOf(whole.map(run => run.secondsPerStep)).mean,
    sgdShare: shares.length ? spreadOf(shares).mean : undefined,
    seeds: group.length,
    diverged: group.length - whole.length,
  };
}
