/** Evaluation of a model: loss and metrics over batches of any sizes, as if they were one. */
import { AgdError } from '../../graph/errors.js';
import type { AttachedSampleLosses } from '../../passes/differentiate/attach-loss.js';
import type { LossSpec } from '../../passes/options.js';
import { classNames, type Recipe } from '../../passes/recipe/recipe.js';
import type { NamedLoss } from '../../passes/run/evaluation-model.js';
import type { Batch } from '../data/dataset.js';
import { type MetricChoice, MetricSet } from '../metrics/index.js';
import type { Feeds } from '../session.js';
import type { Evaluation } from '../train/events.js';

export type EvaluateOptions = {
  /** Names of metrics, or definitions of one's own; what is usual for the loss and the output if not given, none for []. */
  metrics?: readonly MetricChoice[];
  /** Told the mean loss of each sample of a batch, in the order of the data: not of a loss that does not tell them apart. */
  onLosses?: (losses: readonly number[]) => void;
  /** Also computes the confusion matrix, where there are few classes and the usual metrics are computed. */
  confusion?: boolean;
};

/** Runs one batch through the model in inference form. */
export type EvaluationRun = {
  /** The outputs with the loss of each sample, where the model has them. */
  samples?: AttachedSampleLosses;
  inputs: Feeds;
  run(fetch: readonly string[]): Promise<Feeds>;
};

/** `recipe` has the names of classes. Throws `bad-data` where nothing counts, `bad-option` for metrics that are unknown or do not apply. */
export async function evaluateBatches(
  batches: Iterable<Batch> | AsyncIterable<Batch>,
  spec: NamedLoss,
  options: EvaluateOptions,
  open: (inputs: Feeds) => Promise<EvaluationRun>,
  recipe?: Recipe,
): Promise<Evaluation> {
  const metrics = new MetricSet(spec, options.metrics, options.confusion, recipe);
  let [samples, leftOut] = [0, 0];
  const totals: Total[] = [];
  for await (const { inputs: given, size, padding = 0 } of batches) {
    const { samples: outputs, inputs, run } = await open(given);
    const wanted = outputs?.terms.flatMap(t => [t.losses.name, ...(t.weights ? [t.weights.name] : [])]) ?? [
      spec.name,
    ];
    const results = await run([...wanted, ...(outputs && metrics.isActive ? [spec.output] : [])]);
    const losses = outputs?.terms.map(t => results[t.losses.name]!.numbers());
    const areApart = outputs?.terms.every((t, i) => !t.acrossBatch && losses![i]!.length === size + padding);
    if (padding && !areApart) {
      leftOut += size;
      continue;
    }
    samples += size;
    if (!outputs) {
      addTo(totals, 0, 1, results[spec.name]!.numbers()[0]! * size, size);
      continue;
    }
    const target = spec.target === undefined ? undefined : inputs[spec.target];
    const each = Array<number>(size).fill(0);
    for (const [i, { weights: given, factor }] of outputs.terms.entries()) {
      const all = losses![i]!;
      const counted = all.length - padding;
      const weights = given ? results[given.name]!.numbers() : all.map(() => target!.size / all.length);
      // What is one number for the whole batch counts once for each of its samples.
      const times = all.length === 1 ? size : 1;
      addTo(totals, i, factor, times * sum(all, counted), times * sum(weights, counted));
      // A sample that weighs nothing has no loss.
      each.forEach((_, at) => {
        each[at]! += (factor * all[at]!) / weights[at]! || 0;
      });
    }
    if (losses!.every(all => all.length === size + padding)) options.onLosses?.(each);
    if (metrics.isActive && target)
      metrics.add(results[spec.output]!, target, losses![0]!.length - padding, padding);
  }
  if (!samples || totals.some(t => t.weight === 0)) throw nothingCounts(spec, leftOut, samples);
  const { metrics: found, confusion, notes } = metrics.result();
  const classes = recipe && classNames(recipe);
  return {
    loss: totals.reduce((sum, t) => sum + (t.factor * t.loss) / t.weight, 0),
    samples,
    ...(leftOut ? { leftOut } : {}),
    metrics: found,
    ...(found.accuracy === undefined ? {} : { accuracy: found.accuracy }),
    ...(confusion ? { confusion: { ...(classes ? { classes: [...classes] } : {}), ...confusion } } : {}),
    ...(notes.length ? { notes } : {}),
  };
}

/** Of one loss of a sum: its factor, the sum of the losses, and what they weigh. */
type Total = { factor: number; loss: number; weight: number };

function addTo(totals: Total[], i: number, factor: number, loss: number, weight: number): void {
  totals[i] ??= { factor, loss: 0, weight: 0 };
  totals[i].loss += loss;
  totals[i].weight += weight;
}

const sum = (values: readonly number[], count: number) =>
  values.slice(0, count).reduce((total, value) => total + value, 0);

/** Why there is no mean of the loss. */
function nothingCounts(spec: LossSpec, leftOut: number, samples: number): AgdError {
  const ignored = 'ignoreIndex' in spec && spec.ignoreIndex !== undefined;
  const what = leftOut
    ? `the ${leftOut} samples do not fill a batch, and the loss that the model computes does not tell samples apart`
    : !samples
      ? 'there are no batches'
      : ignored
        ? `all targets are ${spec.ignoreIndex}, which is ignored`
        : 'the classes of all targets weigh nothing';
  return new AgdError('bad-data', `There is nothing to evaluate: ${what}.`);
}
