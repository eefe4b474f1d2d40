/** Learning-rate range test (Smith, "Cyclical Learning Rates for Training Neural Networks", 2017). */
import { AgdError } from '../../graph/errors.js';
import type { Dataset } from '../data/dataset.js';
import type { RatesEvent } from './events.js';
import type { Trainer } from './trainer.js';

const [FIRST, LAST] = [1e-7, 10];
/** Steps on each side over which the fall of the loss is measured. */
const SPAN = 4;
const STEPS = 100;
/** Decay of the moving average of the losses, whose bias is corrected. */
const SMOOTH = 0.9;
/** The test ends where the smoothed loss is this many times the least one. */
const DIVERGED = 4;

/**
 * Does steps at rates that grow exponentially, which changes the trainer's state. Suggests the rate at which the smoothed loss
 * falls fastest over the logarithm of the rate. Throws `bad-data` where the loss falls at no rate.
 */
export async function findRate(
  trainer: Trainer,
  train: Dataset,
  { batchSize, seed = 0 }: { batchSize?: number; seed?: number },
): Promise<Omit<RatesEvent, 'time'>> {
  const [rates, losses]: number[][] = [[], []];
  let [mean, least] = [0, Number.POSITIVE_INFINITY];
  test: for (let epoch = 0; ; epoch++)
    for await (const { inputs } of train.batches({ batchSize, shuffle: seed, epoch })) {
      const i = rates!.length;
      if (i === STEPS) break test;
      const rate = FIRST * (LAST / FIRST) ** (i / (STEPS - 1));
      const loss = await lossAt(trainer, inputs, rate);
      if (loss === undefined) break test;
      mean = SMOOTH * mean + (1 - SMOOTH) * loss;
      const smooth = mean / (1 - SMOOTH ** (i + 1));
      least = Math.min(least, smooth);
      // Losses near 0 and below it are no measure.
      if (i > STEPS / 10 && least > 0 && smooth > DIVERGED * least) break test;
      rates!.push(rate);
      losses!.push(smooth);
    }
  // Over several steps: between two, the smoothed loss still moves with the batch.
  const at = (i: number) => losses![Math.max(0, Math.min(losses!.length - 1, i))]!;
  const falls = losses!.map((_, i) => at(i + SPAN) - at(i - SPAN));
  const lowest = losses!.indexOf(Math.min(...losses!));
  const before = falls.slice(0, Math.max(1, lowest));
  const steepest = before.indexOf(Math.min(...before));
  if (!(before[steepest]! < 0))
    throw new AgdError(
      'bad-data',
      'The loss does not fall at any learning rate: check the targets, the scale of the inputs, and --loss.',
    );
  return {
    type: 'rates',
    rates: rates!,
    losses: losses!,
    suggested: Number(rates![steepest]!.toPrecision(2)),
  };
}

/** The loss of a step; undefined where it or the update is not finite. */
async function lossAt(trainer: Trainer, inputs: Parameters<Trainer['step']>[0], lr: number) {
  try {
    const { loss } = await trainer.step(inputs, { lr });
    return Number.isFinite(loss) ? loss : undefined;
  } catch (error) {
    if (error instanceof AgdError && error.code === 'non-finite') return undefined;
    throw error;
  }
}
