/**
 * Metrics of the probability of the targets: log-loss (scikit-learn's `log_loss`), perplexity (exp of its mean, as in
 * torchmetrics) and bits per byte. They are without label smoothing, which belongs to training.
 */
import { type Accumulator, metric, type Sums, type TaskSpec } from './metric.js';
import { logSumExp, type ScoredBatch } from './scored-batch.js';

/** Probabilities that the model gives itself are at least this, as in scikit-learn. */
const LEAST = Number.EPSILON;

class Likelihood implements Accumulator {
  /** Sum of -log p over the targets, that with the classes' weights, and the sums of what they weigh. */
  sum = 0;
  weighted = 0;
  count = 0;
  weights = 0;
  bytes = 0;

  constructor(readonly spec: TaskSpec) {}

  get sums(): Sums {
    const { sum, weighted, count, weights, bytes } = this;
    return { sum, weighted, count, weights, bytes };
  }

  set sums(sums: Sums) {
    Object.assign(this, sums);
  }

  add(batch: ScoredBatch): void {
    if (this.spec.task === 'classes') this.#addClasses(batch);
    else this.#addLabels(batch);
  }

  #addClasses({ positions, width, scores, targets }: ScoredBatch): void {
    const { classWeights, classBytes } = this.spec;
    for (let p = 0; p < positions; p++) {
      const target = targets[p]!;
      if (target < 0) continue;
      const loss = this.#ofClass(scores, p * width, width, target);
      const weight = classWeights?.[target] ?? 1;
      this.sum += loss;
      this.count++;
      this.bytes += classBytes?.[target] ?? 1;
      // Of a class that weighs nothing not even an infinite loss counts.
      if (weight) this.weighted += weight * loss;
      this.weights += weight;
    }
  }

  #ofClass(scores: ArrayLike<number>, start: number, width: number, target: number): number {
    const score = scores[start + target]!;
    switch (this.spec.activation) {
      case 'softmax':
        return logSumExp(scores, start, width) - score;
      case 'exp':
        return -score;
      default:
        return -Math.log(bounded(score));
    }
  }

  #addLabels({ positions, width, scores, targets }: ScoredBatch): void {
    for (let i = 0; i < positions * width; i++) {
      const [score, target] = [scores[i]!, targets[i]!];
      this.sum +=
        this.spec.activation === 'sigmoid'
          ? softplus(score) - score * target
          : -target * Math.log(bounded(score)) - (1 - target) * Math.log(bounded(1 - score));
    }
    this.count += positions * width;
    this.weighted = this.sum;
    this.weights = this.count;
  }
}

/** log(1 + exp(x)), without overflow. */
const softplus = (x: number) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));
const bounded = (p: number) => Math.max(LEAST, Math.min(1 - LEAST, p));

const likelihood = (spec: TaskSpec) => new Likelihood(spec);
const lower = (help: string, ...tasks: ('classes' | 'labels')[]) =>
  ({ better: 'lower', help, tasks }) as const;

export const LIKELIHOOD = {
  'log-loss': metric(
    likelihood,
    lower('Mean of -log of the probability of the target, weighed as the loss is', 'classes', 'labels'),
    l => l.weighted / l.weights,
  ),
  perplexity: metric(likelihood, lower('exp of the mean of -log of the probability', 'classes'), l =>
    Math.exp(l.sum / l.count),
  ),
  'bits-per-byte': metric(
    likelihood,
    lower('Bits that the model needs for a byte of text', 'classes'),
    l => l.sum / Math.LN2 / l.bytes,
  ),
};
