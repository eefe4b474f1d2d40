/**
 * Metrics of the order of scores, for which all of them are kept: area under the ROC curve, as the share of pairs of a
 * positive and a negative that are in order, ties counting half (Mann and Whitney, 1947), and average precision, the sum
 * over thresholds of precision times gained recall. Both equal scikit-learn's; several classes are taken one against the
 * rest, and the mean is over those that have positives and negatives.
 */
import { random } from '../../graph/random.js';
import { type Accumulator, mean, metric, type TaskSpec } from './metric.js';
import type { ScoredBatch } from './scored-batch.js';

/** Scores that are kept, 8 bytes each; of more, those of a random sample of positions. */
const MOST_SCORES = 2 ** 25;

/** The scores of all positions, in float64, and which class or labels each position has. */
export class Scores implements Accumulator {
  #scores = new Float64Array();
  #targets = new Uint32Array();
  #columns = 0;
  #seen = 0;
  #kept = 0;
  readonly #draw = random(0, 0);

  constructor(
    readonly spec: TaskSpec,
    readonly most = MOST_SCORES,
  ) {}

  add(batch: ScoredBatch): void {
    const { positions, width, targets } = batch;
    const isClasses = this.spec.task === 'classes';
    // Of two classes the order of one is that of the other.
    const isPair = isClasses && width === 2;
    this.#columns = isPair ? 1 : width;
    const columns = this.#columns;
    const perRow = isClasses ? 1 : columns;
    const most = Math.max(1, Math.floor(this.most / columns));
    const { scores } = batch;
    const isLinear = isPair && this.spec.activation === 'softmax';
    // Sigmoid and exp keep the order, and near 1 they would make ties; softmax depends on the other classes.
    const read = isPair || (isClasses && this.spec.activation === 'softmax') ? batch.probabilities : scores;
    for (let p = 0; p < positions; p++) {
      if (isClasses && targets[p]! < 0) continue;
      const at = this.#place(most);
      if (at < 0) continue;
      this.#grow((at + 1) * columns, (at + 1) * perRow);
      if (isLinear) this.#scores[at] = scores[2 * p + 1]! - scores[2 * p]!;
      else if (isPair) this.#scores[at] = read[2 * p + 1]!;
      else for (let c = 0; c < columns; c++) this.#scores[at * columns + c] = read[p * width + c]!;
      for (let c = 0; c < perRow; c++)
        this.#targets[at * perRow + c] = isClasses ? targets[p]! : targets[p * perRow + c]! > 0.5 ? 1 : 0;
    }
  }

  /** Where the next position goes, -1 for one that is not kept: Vitter's algorithm R (1985). */
  #place(most: number): number {
    const seen = this.#seen++;
    if (this.#kept < most) return this.#kept++;
    const at = Math.floor((this.#draw() / 2 ** 32) * (seen + 1));
    return at < most ? at : -1;
  }

  #grow(scores: number, targets: number): void {
    if (scores > this.#scores.length) this.#scores = grown(this.#scores, scores, Float64Array);
    if (targets > this.#targets.length) this.#targets = grown(this.#targets, targets, Uint32Array);
  }

  note(): string | undefined {
    if (this.#seen === this.#kept) return undefined;
    return `auc and average-precision are of ${this.#kept} random positions of ${this.#seen}, as all scores would not fit in memory`;
  }

  /** Scores of the positives and the negatives of each class or label that has both, each in ascending order. */
  *pairs(): Generator<{ positives: Float64Array; negatives: Float64Array }> {
    const isPair = this.spec.task === 'classes' && this.#columns === 1;
    for (let c = 0; c < this.#columns; c++) {
      const isPositive = (row: number) =>
        this.spec.task === 'labels'
          ? this.#targets[row * this.#columns + c] === 1
          : this.#targets[row] === (isPair ? 1 : c);
      let count = 0;
      for (let row = 0; row < this.#kept; row++) if (isPositive(row)) count++;
      if (!count || count === this.#kept) continue;
      const positives = new Float64Array(count);
      const negatives = new Float64Array(this.#kept - count);
      let [i, j] = [0, 0];
      for (let row = 0; row < this.#kept; row++) {
        const score = this.#scores[row * this.#columns + c]!;
        if (isPositive(row)) positives[i++] = score;
        else negatives[j++] = score;
      }
      yield { positives: positives.sort(), negatives: negatives.sort() };
    }
  }
}

function grown<T extends Float64Array<ArrayBuffer> | Uint32Array<ArrayBuffer>>(
  array: T,
  least: number,
  make: new (length: number) => T,
): T {
  const next = new make(Math.max(least, 2 * array.length, 1024));
  next.set(array);
  return next;
}

/** NaN, which sorts last, makes the order undefined. */
const isOrdered = (sorted: Float64Array) => !Number.isNaN(sorted.at(-1));

function areaUnderCurve(positives: Float64Array, negatives: Float64Array): number {
  if (!isOrdered(positives) || !isOrdered(negatives)) return NaN;
  let [below, upTo, sum] = [0, 0, 0];
  for (const score of positives) {
    while (below < negatives.length && negatives[below]! < score) below++;
    upTo = Math.max(upTo, below);
    while (upTo < negatives.length && negatives[upTo]! <= score) upTo++;
    sum += (below + upTo) / 2;
  }
  return sum / (positives.length * negatives.length);
}

function averagePrecision(positives: Float64Array, negatives: Float64Array): number {
  if (!isOrdered(positives) || !isOrdered(negatives)) return NaN;
  let [i, j, sum] = [positives.length, negatives.length, 0];
  while (i > 0) {
    const threshold = positives[i - 1]!;
    const before = i;
    while (i > 0 && positives[i - 1]! >= threshold) i--;
    while (j > 0 && negatives[j - 1]! >= threshold) j--;
    const [hits, falses] = [positives.length - i, negatives.length - j];
    sum += ((before - i) * hits) / (hits + falses);
  }
  return sum / positives.length;
}

const scoresOf = (spec: TaskSpec) => new Scores(spec);
const tasks = ['classes', 'labels'] as const;
const over = (of: typeof areaUnderCurve) => (scores: Scores) =>
  mean(Array.from(scores.pairs(), ({ positives, negatives }) => of(positives, negatives)));

export const RANKING = {
  auc: metric(
    scoresOf,
    { better: 'higher', help: 'Area under the ROC curve; one against the rest, mean over classes', tasks },
    over(areaUnderCurve),
  ),
  'average-precision': metric(
    scoresOf,
    { better: 'higher', help: 'Average precision; one against the rest, mean over classes', tasks },
    over(averagePrecision),
  ),
};
