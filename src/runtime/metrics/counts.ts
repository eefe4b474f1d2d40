/**
 * Metrics of right and wrong predictions, from counts by class: accuracy, balanced accuracy, precision, recall, F1, IoU
 * (Jaccard) and Dice. Definitions: scikit-learn, "Metrics and scoring", section "Classification metrics"; 0 / 0 is 0.
 */
import { AgdError } from '../../graph/errors.js';
import { type Accumulator, type MetricValue, mean, metric, type Sums, type TaskSpec } from './metric.js';
import type { ScoredBatch } from './scored-batch.js';

/** Counts for each class, or for each label: how often it was predicted, how often it is the target, and both. */
export class Counts implements Accumulator {
  hits = new Float64Array();
  predicted = new Float64Array();
  actual = new Float64Array();
  /** Of labels: neither predicted nor the target. */
  rejected = new Float64Array();
  /** Predictions that count, and those that are right. */
  total = 0;
  right = 0;

  constructor(readonly spec: TaskSpec) {}

  get sums(): Sums {
    const { hits, predicted, actual, rejected, total, right } = this;
    return { hits, predicted, actual, rejected, total, right };
  }

  set sums(sums: Sums) {
    Object.assign(this, sums);
  }

  add(batch: ScoredBatch): void {
    const { width, targets, predicted } = batch;
    if (this.hits.length !== width) {
      this.hits = new Float64Array(width);
      this.predicted = new Float64Array(width);
      this.actual = new Float64Array(width);
      this.rejected = new Float64Array(width);
    }
    if (this.spec.task === 'classes') this.#addClasses(targets, predicted);
    else this.#addLabels(targets, predicted, width);
  }

  #addClasses(targets: ArrayLike<number>, predicted: Int32Array): void {
    for (let i = 0; i < predicted.length; i++) {
      const [target, guess] = [targets[i]!, predicted[i]!];
      if (target < 0) continue;
      this.total++;
      this.actual[target]!++;
      if (guess >= 0) this.predicted[guess]!++;
      if (guess !== target) continue;
      this.right++;
      this.hits[target]!++;
    }
  }

  #addLabels(targets: ArrayLike<number>, predicted: Int32Array, width: number): void {
    for (let i = 0; i < predicted.length; i++) {
      const [target, guess, label] = [targets[i]! > 0.5 ? 1 : 0, predicted[i]!, i % width];
      this.total++;
      this.actual[label]! += target;
      if (guess === 1) this.predicted[label]!++;
      if (guess !== target) continue;
      this.right++;
      if (target) this.hits[label]!++;
      else this.rejected[label]!++;
    }
  }

  /** The class that yes and no are about, where there are no others. */
  get positive(): number | undefined {
    const { length } = this.hits;
    return this.spec.task === 'labels' ? (length === 1 ? 0 : undefined) : length === 2 ? 1 : undefined;
  }

  /** The classes that a mean is over: those that are a target or were predicted; of labels all. */
  get present(): number[] {
    const all = [...this.hits.keys()];
    return this.spec.task === 'labels' ? all : all.filter(c => this.actual[c]! + this.predicted[c]! > 0);
  }
}

const countsOf = (spec: TaskSpec) => new Counts(spec);
const tasks = ['classes', 'labels'] as const;
const higher = (help: string) => ({ better: 'higher', help, tasks }) as const;

/** A ratio of counts of one class, or of sums of them. */
type Ratio = (hits: number, predicted: number, actual: number) => number;

const share = (a: number, b: number) => (b === 0 ? 0 : a / b);
const precision: Ratio = (hits, predicted) => share(hits, predicted);
const recall: Ratio = (hits, _, actual) => share(hits, actual);
/** 2 / (1 / precision + 1 / recall), which is Dice's coefficient: 2 |A and B| / (|A| + |B|). */
const f1: Ratio = (hits, predicted, actual) => share(2 * hits, predicted + actual);
/** Jaccard's index: |A and B| / |A or B|. */
const iou: Ratio = (hits, predicted, actual) => share(hits, predicted + actual - hits);

const of = (ratio: Ratio, c: Counts, i: number) => ratio(c.hits[i]!, c.predicted[i]!, c.actual[i]!);
const macro = (ratio: Ratio) => (c: Counts) => (c.total ? mean(c.present.map(i => of(ratio, c, i))) : NaN);
const sum = (values: Float64Array) => values.reduce((a, b) => a + b, 0);
const micro = (ratio: Ratio) => (c: Counts) =>
  c.total ? ratio(sum(c.hits), sum(c.predicted), sum(c.actual)) : NaN;
/** Of the positive class where there are two, else the mean over classes. */
const binary = (ratio: Ratio) => (c: Counts) =>
  c.total && c.positive !== undefined ? of(ratio, c, c.positive) : macro(ratio)(c);
/** NaN for a class that is neither a target nor predicted. */
const perClass =
  (ratio: Ratio) =>
  (c: Counts): MetricValue => {
    const present = new Set(c.present);
    return Object.fromEntries(
      [...c.hits.keys()].map(i => [i, c.total && present.has(i) ? of(ratio, c, i) : NaN]),
    );
  };

/** The mean over labels is of both answers of each; an answer that is never the right one does not count. */
function balanced(c: Counts): number {
  if (!c.total) return NaN;
  if (c.spec.task === 'classes')
    return mean([...c.hits.keys()].filter(i => c.actual[i]! > 0).map(i => c.hits[i]! / c.actual[i]!));
  const positions = c.total / c.hits.length;
  return mean(
    [...c.hits.keys()].map(i => {
      const [yes, no] = [c.actual[i]!, positions - c.actual[i]!];
      const rates = [...(yes ? [c.hits[i]! / yes] : []), ...(no ? [c.rejected[i]! / no] : [])];
      return mean(rates);
    }),
  );
}

export const COUNTS = {
  accuracy: metric(countsOf, higher('Share of right predictions'), c => (c.total ? c.right / c.total : NaN)),
  'balanced-accuracy': metric(countsOf, higher('Mean over classes of the recall'), balanced),
  precision: metric(
    countsOf,
    higher('Precision: of the positive class of two, else the mean over classes'),
    binary(precision),
  ),
  'precision-macro': metric(countsOf, higher('Precision, mean over classes'), macro(precision)),
  'precision-micro': metric(countsOf, higher('Precision of all classes together'), micro(precision)),
  recall: metric(
    countsOf,
    higher('Recall: of the positive class of two, else the mean over classes'),
    binary(recall),
  ),
  'recall-macro': metric(countsOf, higher('Recall, mean over classes'), macro(recall)),
  'recall-micro': metric(countsOf, higher('Recall of all classes together'), micro(recall)),
  f1: metric(countsOf, higher('F1: of the positive class of two, else the mean over classes'), binary(f1)),
  'f1-macro': metric(countsOf, higher('F1, mean over classes'), macro(f1)),
  'f1-micro': metric(countsOf, higher('F1 of all classes together'), micro(f1)),
  iou: metric(countsOf, higher('Intersection over union (Jaccard), mean over classes'), macro(iou)),
  'iou-per-class': metric(countsOf, higher('Intersection over union of each class'), perClass(iou)),
  dice: metric(countsOf, higher('Dice coefficient, mean over classes'), macro(f1)),
  'dice-per-class': metric(countsOf, higher('Dice coefficient of each class'), perClass(f1)),
};

/** Beyond it a table is nothing to look at. */
const MOST_CLASSES = 1000;

/** Row: the target's class; column: the predicted one. NaN scores predict nothing and are in no column. */
export class Confusion implements Accumulator {
  readonly #rows: number[][] = [];

  constructor(readonly spec: TaskSpec) {}

  add({ width, targets, predicted }: ScoredBatch): void {
    const classes = this.spec.task === 'labels' ? 2 : width;
    if (classes > MOST_CLASSES || (this.spec.task === 'labels' && width > 1))
      throw new AgdError(
        'bad-option',
        `A confusion matrix needs one prediction of at most ${MOST_CLASSES} classes; the model predicts ${width} ${this.spec.task}.`,
      );
    while (this.#rows.length < classes) this.#rows.push(Array(classes).fill(0));
    for (let i = 0; i < predicted.length; i++) {
      const target = this.spec.task === 'labels' ? (targets[i]! > 0.5 ? 1 : 0) : targets[i]!;
      if (target >= 0 && predicted[i]! >= 0) this.#rows[target]![predicted[i]!]!++;
    }
  }

  get sums(): Sums {
    return { matrix: this.#rows.flat() };
  }

  set sums({ matrix }: Sums) {
    const all = Array.from(matrix as ArrayLike<number>);
    const classes = Math.sqrt(all.length);
    this.#rows.splice(0);
    for (let i = 0; i < classes; i++) this.#rows.push(all.slice(i * classes, (i + 1) * classes));
  }

  get matrix(): readonly (readonly number[])[] {
    return this.#rows;
  }
}

export const CONFUSION = {
  'confusion-matrix': metric(
    spec => new Confusion(spec),
    { help: 'How often each class (row) was taken for each (column)', tasks },
    ({ matrix }) => ({ matrix }),
  ),
};
