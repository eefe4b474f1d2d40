import { AgdError } from '../graph/errors.js';
import type { BatchOptions, Dataset } from './data/dataset.js';
import type { Metrics, Trainer } from './trainer.js';

export type LoopOptions = {
  /** Passes over the data in all, those that the trainer's state already has behind it included. */
  epochs: number;
  batchSize?: number;
  /** Seeds the order of the samples. */
  seed?: number;
  /** Evaluated after every epoch. */
  validation?: Dataset;
  lr?: number;
  /** Checked before every step; a step under way is finished. */
  signal?: { readonly aborted: boolean };
};

/** Epochs and steps count from 1. `loss` is that of the batch before the update. */
export type LoopEvent =
  | { type: 'step'; epoch: number; step: number; loss: number }
  | { type: 'epoch'; epoch: number; trainLoss: number; validation?: Metrics; seconds: number };

/**
 * Trains epoch by epoch and reports each step. The state's own step count says where to begin, in the middle of
 * an epoch too, so that a run that was stopped and goes on sees the same batches as one that was not.
 * Throws `non-finite` where the loss or a parameter is.
 */
export async function* trainingLoop(
  trainer: Trainer,
  train: Dataset,
  options: LoopOptions,
): AsyncGenerator<LoopEvent> {
  const { epochs, seed = 0, batchSize, validation, lr, signal } = options;
  if (!Number.isSafeInteger(epochs) || epochs < 1)
    throw new AgdError('bad-option', `${epochs} epochs are not a whole number above 0.`);
  const order: BatchOptions = { batchSize, shuffle: seed };
  const steps = train.batchCount(order);
  let done = trainer.stepCount;
  for (let epoch = Math.floor(done / steps); epoch < epochs; epoch++) {
    const begin = performance.now();
    let [step, sum, samples] = [0, 0, 0];
    for (const batch of train.batches({ ...order, epoch, skip: done - epoch * steps })) {
      if (signal?.aborted) return;
      const { loss } = await trainer.step(batch.inputs, { lr });
      step = ++done - epoch * steps;
      sum += loss * batch.size;
      samples += batch.size;
      yield { type: 'step', epoch: epoch + 1, step, loss };
    }
    await trainer.checkState();
    const metrics = validation && (await trainer.evaluate(validation.batches({ batchSize })));
    const seconds = (performance.now() - begin) / 1000;
    yield { type: 'epoch', epoch: epoch + 1, trainLoss: sum / samples, validation: metrics, seconds };
  }
}
