/**
 * Expected calibration error: mean difference between confidence and accuracy over 15 bins of equal width, weighed by
 * their predictions (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017; bins as in torchmetrics).
 */
import { type Accumulator, metric, type Sums, type TaskSpec } from './metric.js';
import type { ScoredBatch } from './scored-batch.js';

const BINS = 15;

class Bins implements Accumulator {
  /** Sums of confidence less accuracy. */
  readonly #gaps = new Float64Array(BINS);
  #total = 0;

  constructor(readonly spec: TaskSpec) {}

  get sums(): Sums {
    return { gaps: this.#gaps, total: this.#total };
  }

  set sums({ gaps, total }: Sums) {
    this.#gaps.set(gaps as ArrayLike<number>);
    this.#total = total as number;
  }

  add({ positions, width, targets, predicted, probabilities }: ScoredBatch): void {
    const isClasses = this.spec.task === 'classes';
    for (let i = 0; i < (isClasses ? positions : positions * width); i++) {
      const [target, guess] = [targets[i]!, predicted[i]!];
      if (isClasses && target < 0) continue;
      const confidence = guess < 0 ? NaN : probabilities[isClasses ? i * width + guess : i]!;
      const isRight = isClasses ? guess === target : target > 0.5;
      const bin = Number.isNaN(confidence) ? 0 : Math.min(BINS - 1, Math.floor(confidence * BINS));
      this.#gaps[bin]! += confidence - (isRight ? 1 : 0);
      this.#total++;
    }
  }

  get error(): number {
    return this.#gaps.reduce((sum, gap) => sum + Math.abs(gap), 0) / this.#total;
  }
}

export const CALIBRATION = {
  'calibration-error': metric(
    spec => new Bins(spec),
    {
      better: 'lower',
      help: 'Expected calibration error, in 15 bins of confidence',
      tasks: ['classes', 'labels'],
    },
    bins => bins.error,
  ),
};
