import { AgdError } from '../graph/errors.js';
import type { BatchOptions, Dataset } from './data/dataset.js';
import { RunLength } from './run-length.js';
import type { Metrics, TelemetryRow, Trainer } from './trainer.js';

export type LoopOptions = {
  /** Passes over the data in all, those that the trainer's state already has behind it included. */
  epochs: number;
  batchSize?: number;
  /** Seeds the order of the samples. */
  seed?: number;
  /** Evaluated after every epoch. */
  validation?: Dataset;
  lr?: number;
  /** The losses of the steps that a resumed run has behind it: those of the epoch under way count in its mean. */
  before?: readonly number[];
  /** Checked before every step; a step under way is finished. */
  signal?: { readonly aborted: boolean };
};

/** Epochs and steps count from 1. `loss` is that of the batch before the update. */
export type LoopEvent =
  | { type: 'step'; epoch: number; step: number; loss: number }
  | { type: 'telemetry'; rows: readonly TelemetryRow[] }
  /** `trainSeconds` are those of `seconds` in which steps were done. */
  | {
      type: 'epoch';
      epoch: number;
      trainLoss: number;
      validation?: Metrics;
      seconds: number;
      trainSeconds: number;
    };

/**
 * Trains epoch by epoch and reports each step. The state's own count of batches says where to begin, in the middle of
 * an epoch too, so that a run that was stopped and goes on sees the same batches as one that was not.
 * Throws `non-finite` where the loss or a parameter is.
 */
export async function* trainingLoop(
  trainer: Trainer,
  train: Dataset,
  options: LoopOptions,
): AsyncGenerator<LoopEvent> {
  const { epochs, seed = 0, batchSize, validation, lr, signal } = options;
  const before = [...(options.before ?? [])];
  if (!Number.isSafeInteger(epochs) || epochs < 1)
    throw new AgdError('bad-option', `${epochs} epochs are not a whole number above 0.`);
  const order: BatchOptions = { batchSize, shuffle: seed };
  const steps = train.batchCount(order);
  const perUpdate = trainer.description.accumulation?.batches ?? 1;
  if (epochs * steps < perUpdate)
    throw new AgdError(
      'bad-option',
      `An update takes ${perUpdate} batches, but the run has only ${epochs * steps}: nothing would be trained.`,
    );
  let done = trainer.batchCount;
  const length = new RunLength();
  for (let epoch = Math.floor(done / steps); epoch < epochs; epoch++) {
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
    const chunks = train.chunks({ ...order, epoch, skip: done - epoch * steps }, () => length.steps);
    for await (const { inputs, sizes } of chunks) {
      if (signal?.aborted) return;
      const start = performance.now();
      const losses = await trainer.steps(inputs, { lr });
      length.learn(inputs, losses.length, performance.now() - start);
      for (const [i, loss] of losses.entries()) {
        add(loss, sizes[i]!);
        yield { type: 'step', epoch: epoch + 1, step: ++done - epoch * steps, loss };
      }
      for (const rows of trainer.telemetry) yield { type: 'telemetry', rows };
    }
    const trainSeconds = (performance.now() - begin) / 1000;
    const metrics = validation && (await trainer.evaluate(validation.batches({ batchSize, pad: true })));
    const seconds = (performance.now() - begin) / 1000;
    yield {
      type: 'epoch',
      epoch: epoch + 1,
      trainLoss: sum / samples,
      validation: metrics,
      seconds,
      trainSeconds,
    };
  }
}
