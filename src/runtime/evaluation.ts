/** Evaluation of a model: loss and metrics over batches of any sizes, as if they were one. */
import { AgdError } from '../graph/errors.js';
import type { AttachedSampleLosses } from '../passes/differentiate/attach-loss.js';
import type { LossSpec } from '../passes/options.js';
import { classNames, type Recipe } from '../passes/recipe/recipe.js';
import type { NamedLoss } from '../passes/run/evaluation-model.js';
import type { Batch } from './data/dataset.js';
import type { Evaluation } from './events.js';
import { type MetricChoice, MetricSet } from './metrics/index.js';
import type { Feeds } from './session.js';

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
  const metrics = new MetricSet(spec, options.metrics, options.confusion);
  let [samples, leftOut, loss, weight] = [0, 0, 0, 0];
  for await (const { inputs: given, size, padding = 0 } of batches) {
    const { samples: outputs, inputs, run } = await open(given);
    const wanted = outputs
      ? [outputs.losses.name, ...(outputs.weights ? [outputs.weights.name] : [])]
      : [spec.name];
    const results = await run([...wanted, ...(outputs && metrics.isActive ? [spec.output] : [])]);
    const losses = outputs && results[outputs.losses.name]!.numbers();
    if (padding && losses?.length !== size + padding) {
      leftOut += size;
      continue;
    }
    samples += size;
    if (!losses) {
      loss += results[spec.name]!.numbers()[0]! * size;
      weight += size;
      continue;
    }
    const target = inputs[spec.target!]!;
    const count = losses.length - padding;
    loss += sum(losses, count);
    const weights = outputs.weights
      ? results[outputs.weights.name]!.numbers()
      : losses.map(() => target.size / losses.length);
    weight += sum(weights, count);
    // A sample that weighs nothing has no loss.
    options.onLosses?.(losses.slice(0, count).map((one, i) => one / weights[i]! || 0));
    if (metrics.isActive) metrics.add(results[spec.output]!, target, count, padding);
  }
  if (!samples || weight === 0) throw nothingCounts(spec, leftOut, samples);
  const { metrics: found, confusion, notes } = metrics.result();
  const classes = recipe && classNames(recipe);
  return {
    loss: loss / weight,
    samples,
    ...(leftOut ? { leftOut } : {}),
    metrics: found,
    ...(found.accuracy === undefined ? {} : { accuracy: found.accuracy }),
    ...(confusion ? { confusion: { ...(classes ? { classes: [...classes] } : {}), ...confusion } } : {}),
    ...(notes.length ? { notes } : {}),
  };
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
