/**
 * Metrics of predicted numbers: mean absolute error, root of the mean squared error, both over all numbers, and R2, the
 * mean over the numbers of a sample, as in scikit-learn's `r2_score`.
 */
import { type Accumulator, mean, metric, type Sums, type TaskSpec } from './metric.js';
import type { ScoredBatch } from './scored-batch.js';

class Errors implements Accumulator {
  absolute = 0;
  squared = 0;
  count = 0;

  get sums(): Sums {
    const { absolute, squared, count } = this;
    return { absolute, squared, count };
  }

  set sums(sums: Sums) {
    Object.assign(this, sums);
  }

  add({ positions, width, probabilities, targets }: ScoredBatch): void {
    for (let i = 0; i < positions * width; i++) {
      const error = probabilities[i]! - targets[i]!;
      this.absolute += Math.abs(error);
      this.squared += error * error;
    }
    this.count += positions * width;
  }
}

/** Sums of squares by the number of a sample; the mean moves along (Welford, 1962). */
class Variance implements Accumulator {
  #samples = 0;
  #means = new Float64Array();
  /** Squared differences of the targets to their mean, and of the predictions to the targets. */
  #total = new Float64Array();
  #residual = new Float64Array();

  add({ positions, width, probabilities, targets }: ScoredBatch): void {
    if (this.#means.length !== width) {
      this.#means = new Float64Array(width);
      this.#total = new Float64Array(width);
      this.#residual = new Float64Array(width);
    }
    for (let p = 0; p < positions; p++) {
      const count = ++this.#samples;
      for (let c = 0; c < width; c++) {
        const target = targets[p * width + c]!;
        const before = target - this.#means[c]!;
        this.#means[c]! += before / count;
        this.#total[c]! += before * (target - this.#means[c]!);
        this.#residual[c]! += (probabilities[p * width + c]! - target) ** 2;
      }
    }
  }

  /** 1 - residual / total; for targets that are all the same 1 where they are met, else 0. NaN below two samples. */
  get r2(): number {
    if (this.#samples < 2) return NaN;
    return mean(
      Array.from(this.#total, (total, c) => {
        const residual = this.#residual[c]!;
        if (total === 0) return residual === 0 ? 1 : Number.isNaN(residual) ? NaN : 0;
        return 1 - residual / total;
      }),
    );
  }
}

const errors = (_: TaskSpec) => new Errors();
const tasks = ['values', 'labels'] as const;

export const REGRESSION = {
  mae: metric(errors, { better: 'lower', help: 'Mean absolute error', tasks }, e => e.absolute / e.count),
  rmse: metric(errors, { better: 'lower', help: 'Root of the mean squared error', tasks }, e =>
    Math.sqrt(e.squared / e.count),
  ),
  r2: metric(
    (_: TaskSpec) => new Variance(),
    { better: 'higher', help: 'Share of the variance that is explained (R2)', tasks: ['values'] },
    v => v.r2,
  ),
};
