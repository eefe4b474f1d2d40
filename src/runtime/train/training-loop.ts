import { AgdError } from '../../graph/errors.js';
import { leastOnRank } from '../../passes/file/description.js';
import { anyRank } from '../collective/collective.js';
import { OpenedData } from '../data/data.js';
import { type Batch, type BatchOptions, Dataset } from '../data/dataset.js';
import { dataFrom, type FitData, isOpen } from '../data/from-values.js';
import type { EvaluateOptions } from '../evaluate/evaluation.js';
import { checkMetrics } from '../metrics/index.js';
import type { Evaluation, LoopEvent } from './events.js';
import { RunLength } from './run-length.js';
import type { Trainer } from './trainer.js';

export type LoopOptions = Pick<EvaluateOptions, 'metrics'> & {
  /** Total passes over the data, those that the trainer's state already has behind it included. */
  epochs: number;
  batchSize?: number;
  /** Seeds the order of the samples. */
  seed?: number;
  /** Evaluated after every epoch. */
  validation?: FitData;
  /**
   * Also evaluate, after every epoch, this many samples of the training data: the same ones each time, chosen at random by
   * the seed. `true`: at most 10,000.
   */
  trainMetrics?: boolean | number;
  /** In place of the model's own learning rate; a function is asked before every run of steps. */
  lr?: number | (() => number | undefined);
  /** The losses of the steps that a resumed run has behind it: those of the epoch under way count in its mean. */
  before?: readonly number[];
  /** Checked before every run of steps; one under way is finished. */
  signal?: { readonly aborted: boolean };
  /** The most steps to do in one run of the session, of those that follow the first `done` steps. No limit if not given. */
  limit?: (done: number) => number;
  /** The limit on the memory of the process, by which the number of steps of a run is chosen. */
  memoryLimit?: number;
  /** Called between two runs of steps of an epoch, when the trainer's state is that of the last step reported. */
  afterRun?: () => void | Promise<void>;
};

/**
 * Trains on a dataset, or on what `fit` takes, epoch by epoch and reports each step. The state's own count of batches says where to begin, in the middle of
 * an epoch too, so that a run that was stopped and goes on sees the same batches as one that was not.
 * Throws `non-finite` where the loss or a parameter is.
 */
export async function* trainingLoop(
  trainer: Trainer,
  data: FitData,
  options: LoopOptions,
): AsyncGenerator<LoopEvent> {
  checkMetrics(trainer.description.loss, options.metrics);
  const { target } = trainer.description.loss;
  const opened = new OpenedData();
  const bound = async (given: FitData) => {
    if (given instanceof Dataset) return given;
    const found = await dataFrom(given);
    if (!isOpen(given)) opened.add(found);
    return found.bind(trainer.inputs, { labels: target === undefined ? [] : [target] });
  };
  try {
    const train = await bound(data);
    const validation = options.validation === undefined ? undefined : await bound(options.validation);
    const { collective, description } = trainer;
    const own = (set: Dataset) =>
      collective && !set.isSharded ? set.sharded(collective, leastOnRank(description)) : set;
    yield* loopOver(trainer, own(train), { ...options, validation: validation && own(validation) });
  } finally {
    await opened.close();
  }
}

async function* loopOver(
  trainer: Trainer,
  train: Dataset,
  options: LoopOptions & { validation: Dataset | undefined },
): AsyncGenerator<LoopEvent> {
  const { epochs, seed = 0, batchSize, validation, trainMetrics = false, lr, signal, metrics } = options;
  const { limit = () => Number.POSITIVE_INFINITY, afterRun } = options;
  const { collective } = trainer;
  // Ranks are asked to stop at different times.
  const isStopped = async () => (collective ? anyRank(collective, !!signal?.aborted) : !!signal?.aborted);
  const before = [...(options.before ?? [])];
  if (!Number.isSafeInteger(epochs) || epochs < 1)
    throw new AgdError('bad-option', `epochs must be a whole number of at least 1, not ${epochs}.`);
  const order: BatchOptions = { batchSize, shuffle: seed };
  const steps = train.batchCount(order);
  const perUpdate = trainer.description.accumulation?.batches ?? 1;
  if (epochs * steps < perUpdate)
    throw new AgdError(
      'bad-option',
      `An update takes ${perUpdate} batches, but the run has only ${epochs * steps}: nothing would be trained.`,
    );
  let done = trainer.batchCount;
  const state = [...trainer.state.values()].reduce((bytes, tensor) => bytes + tensor.byteLength, 0);
  const memory = new Map();
  const length = new RunLength({
    state,
    limit: options.memoryLimit,
    inPlace: trainer.writesInPlace,
    replaced: trainer.replacesState,
  });
  for (let epoch = Math.floor(done / steps); epoch < epochs; epoch++) {
    if (await isStopped()) return;
    const begin = performance.now();
    let [sum, samples] = [0, 0];
    // Only a batch that was skipped has a loss that is not finite.
    const add = (loss: number, size: number) => {
      if (Number.isFinite(loss)) {
        sum += loss * size;
        samples += size;
      }
    };
    if (before.length === done)
      for (const loss of before.slice(epoch * steps, done)) add(loss, train.batchSize(order));
    const first = epoch * steps;
    const most = (batch: number) => Math.min(length.steps, limit(first + batch));
    const chunks = train.chunks({ ...order, epoch, skip: done - first }, most, memory);
    // What is in memory is prepared in this thread: none of that is waiting, in which the session could have run.
    const waits = !train.isInMemory;
    let [waited, asked] = [0, performance.now()];
    for await (const { inputs, sizes } of chunks) {
      // Ranks that train for themselves ask each other when they meet.
      if (!trainer.isApart && (await isStopped())) return;
      const start = performance.now();
      if (waits) waited += start - asked;
      const losses = await trainer.steps(inputs, { lr: typeof lr === 'function' ? lr() : lr });
      length.learn(inputs, losses.length, performance.now() - start);
      const end = performance.now();
      // The steps of one run of the runtime are told when all are done: their times are spread over it.
      const timeOf = (i: number) =>
        Math.round(Date.now() - ((end - start) * (losses.length - 1 - i)) / losses.length);
      const times = losses.map((_, i) => timeOf(i));
      for (const [i, loss] of losses.entries()) {
        add(loss, sizes[i]!);
        const at = { time: times[i]!, epoch: epoch + 1, step: ++done - first };
        yield { type: 'step', ...at, loss, ...trainer.lastSteps[i] };
      }
      for (const rows of trainer.telemetry) yield { type: 'telemetry', time: Date.now(), rows };
      if (done < first + steps) await afterRun?.();
      asked = performance.now();
    }
    if (trainer.isLocal) {
      await trainer.settle();
      // Each rank knows the losses of its own parts.
      const sums = Float64Array.of(sum, samples);
      await collective!.allReduce(sums);
      [sum, samples] = [sums[0]!, sums[1]!];
    }
    const trainSeconds = (performance.now() - begin) / 1000;
    let result: Evaluation | undefined;
    const pass = { batchSize, pad: true };
    if (validation) result = yield* evaluated(trainer, validation, pass, epoch + 1, metrics);
    const count = trainMetrics === true ? TRAIN_SAMPLES : trainMetrics;
    const training =
      count && (await trainer.evaluate(sampled(train, order, count, collective), { metrics, collective }));
    const seconds = (performance.now() - begin) / 1000;
    yield {
      type: 'epoch',
      time: Date.now(),
      epoch: epoch + 1,
      trainLoss: sum / samples,
      ...(result ? { validation: result } : {}),
      ...(training ? { training } : {}),
      seconds,
      trainSeconds,
      waitSeconds: waited / 1000,
    };
  }
  if (!trainer.stepCount && trainer.skippedCount) throw nothingTrained(trainer);
}

/** A run that skipped every batch learned nothing: what it would write is the model that it began with. */
function nothingTrained({ description: { scaling }, skippedCount }: Trainer): AgdError {
  const batches = skippedCount === 1 ? 'the batch was' : `all ${skippedCount} batches were`;
  const advice = scaling
    ? 'Start with a lower --loss-scale, or resume for more epochs: each of them halved it.'
    : 'Check the data for NaN and Inf.';
  return new AgdError(
    'non-finite',
    `Nothing was trained: ${batches} skipped, as gradients were not finite. ${advice}`,
  );
}

/** Milliseconds between two reports of where a validation pass stands. */
const VALIDATION_MS = 250;

/** The result of a validation pass, which is reported while it is under way. */
async function* evaluated(
  trainer: Trainer,
  validation: Dataset,
  options: BatchOptions,
  epoch: number,
  metrics: LoopOptions['metrics'],
): AsyncGenerator<LoopEvent, Evaluation> {
  const batches = validation.batchCount(options);
  const { collective } = trainer;
  let [batch, told] = [0, performance.now()];
  let tell = () => {};
  async function* counted(): AsyncGenerator<Batch> {
    for await (const one of validation.batches(options)) {
      yield one;
      batch = Math.min(batches, batch + (collective?.size ?? 1));
      if (performance.now() - told < VALIDATION_MS) continue;
      told = performance.now();
      tell();
      // So that who is told comes before the next batch.
      await new Promise(setImmediate);
    }
  }
  let result: Evaluation | undefined;
  const done = trainer.evaluate(counted(), { metrics, confusion: true, collective }).then(evaluation => {
    result = evaluation;
  });
  // A failure is thrown where it is awaited.
  done.catch(() => {});
  while (!result) {
    const progress = new Promise<void>(resolve => {
      tell = resolve;
    });
    await Promise.race([done, progress]);
    if (!result) yield { type: 'validation', time: Date.now(), epoch, batch, batches };
  }
  return result;
}

/** Samples of the training data that are evaluated after an epoch. */
const TRAIN_SAMPLES = 10_000;

/** Batches of the same samples in each epoch, about `count` of them: the last batch is not cut. Ranks take them in turn. */
async function* sampled(
  train: Dataset,
  order: BatchOptions,
  count: number,
  { rank, size } = { rank: 0, size: 1 },
): AsyncGenerator<Batch> {
  const pass = { ...order, epoch: 0, pad: true, asStored: true };
  const last = Math.ceil(count / train.batchSize(pass));
  let number = rank;
  for await (const batch of train.batches(pass)) {
    if (number >= last) return;
    yield batch;
    number += size;
  }
}
