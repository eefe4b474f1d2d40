/** What a metric is, and what it may need to know. */
import type { Activation } from '../../ops/losses/loss.js';
import type { ScoredBatch } from './scored-batch.js';

/**
 * What is predicted: one of several classes for each position, a probability for each of several labels, or numbers.
 */
export type Task = 'classes' | 'labels' | 'values';

/** How the output and the target of a model are to be read. */
export type TaskSpec = {
  task: Task;
  /** Function that converts the output to probabilities. */
  activation: Activation;
  /** Axis of the classes, or of the labels: the last one, or 1 for outputs of four and more axes. */
  classAxis?: number;
  /** Targets with this class count in no metric. */
  ignoreIndex?: number;
  /** One weight per class. They weigh the log-loss, as they weigh the loss; every other metric counts each target once. */
  classWeights?: readonly number[];
  /** How many bytes of text each class stands for, for bits per byte. One each where not given. */
  classBytes?: ArrayLike<number>;
};

/** A number, or numbers by name. */
export type MetricValue = number | Readonly<Record<string, number>>;

/** Counts: a row for each true class, a column for each predicted one. */
export type ConfusionMatrix = { readonly matrix: readonly (readonly number[])[] };

/** Sums over the data, as numbers and as arrays of them. */
export type Sums = Readonly<Record<string, number | ArrayLike<number>>>;

/** Those of both parts of the data. Of arrays, what one part lacks is 0: it had no samples. */
export function addSums(one: Sums, other: Sums): Sums {
  const added = Object.entries(one).map(([name, a]) => {
    const b = other[name]!;
    if (typeof a === 'number') return [name, a + (b as number)];
    const [long, short] = [a, b as ArrayLike<number>].sort((x, y) => y.length - x.length);
    return [name, Float64Array.from(long!, (value, i) => value + (short![i] ?? 0))];
  });
  return Object.fromEntries(added);
}

/** Takes batches one by one; several metrics may read one of these. */
export type Accumulator = {
  add(batch: ScoredBatch): void;
  /** All that it has kept, if that is sums: what several of these kept of parts of the data then adds up. */
  sums?: Sums;
  /** What the user should know about the numbers, such as that they are of a sample of the scores. */
  note?(): string | undefined;
};

export type Metric = {
  readonly name: string;
  /** Which of two models is the better one; undefined for what does not rank models. */
  readonly better?: 'higher' | 'lower';
  readonly help: string;
  readonly tasks: readonly Task[];
  /** Makes what takes the batches. Metrics with the same function share it. */
  readonly accumulator: (spec: TaskSpec) => Accumulator;
  /** NaN where it is not defined for what was seen. */
  readonly value: (accumulator: never) => MetricValue | ConfusionMatrix;
};

/** A metric whose value is read off an accumulator that others may share. */
export const metric = <A extends Accumulator>(
  make: (spec: TaskSpec) => A,
  about: Pick<Metric, 'better' | 'help' | 'tasks'>,
  value: (accumulator: A) => MetricValue | ConfusionMatrix,
): Omit<Metric, 'name'> => ({ ...about, accumulator: make, value: value as Metric['value'] });

export const mean = (values: readonly number[]): number =>
  values.reduce((sum, value) => sum + value, 0) / values.length;
