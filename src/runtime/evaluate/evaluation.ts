/** Evaluation of a model: loss and metrics over batches of any sizes, as if they were one. */
import { deserialize, serialize } from 'node:v8';
import type { DType } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import { Tensor } from '../../graph/tensor.js';
import type { AttachedSampleLosses } from '../../passes/differentiate/attach-loss.js';
import type { LossSpec } from '../../passes/options.js';
import { classNames, type Recipe } from '../../passes/recipe/recipe.js';
import type { NamedLoss } from '../../passes/run/evaluation-model.js';
import type { Collective } from '../collective/collective.js';
import type { Batch } from '../data/dataset.js';
import { type MetricChoice, MetricSet } from '../metrics/index.js';
import type { Feeds } from '../session.js';
import type { Evaluation } from '../train/events.js';

export type EvaluateOptions = {
  /** Names of metrics, or definitions of one's own; what is usual for the loss and the output if not given, none for []. */
  metrics?: readonly MetricChoice[];
  /** Told the mean loss of each sample of a batch, in the order of the data: not of a loss that does not tell them apart. */
  onLosses?: (losses: readonly number[]) => void;
  /** The batches are those of this rank, of a sharded data set: the result is that of the batches of all, on each rank. */
  collective?: Collective;
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
  const { collective } = options;
  const own = judged(batches, spec, open, () => metrics.isActive);
  const all = collective ? gathered(own, collective, () => !metrics.areSums) : own;
  for await (const { size, padding, terms, loss, output, target, isForeign } of all) {
    const areApart = terms?.every(t => !t.acrossBatch && t.losses.length === size + padding);
    if (padding && !areApart) {
      leftOut += size;
      continue;
    }
    samples += size;
    if (!terms) {
      addTo(totals, 0, 1, loss! * size, size);
      continue;
    }
    const each = Array<number>(size).fill(0);
    for (const [i, { losses: all, weights, factor }] of terms.entries()) {
      const counted = all.length - padding;
      // What is one number for the whole batch counts once for each of its samples.
      const times = all.length === 1 ? size : 1;
      addTo(totals, i, factor, times * sum(all, counted), times * sum(weights, counted));
      // A sample that weighs nothing has no loss.
      each.forEach((_, at) => {
        each[at]! += (factor * all[at]!) / weights[at]! || 0;
      });
    }
    if (terms.every(t => t.losses.length === size + padding)) options.onLosses?.(each);
    if (!metrics.isActive || !target || !output) continue;
    const scored = [output, target, terms[0]!.losses.length - padding, padding] as const;
    metrics.choose(...scored);
    if (!(isForeign && metrics.areSums)) metrics.add(...scored);
  }
  if (collective && metrics.areSums) {
    const parts = await collective.allGather(new Uint8Array(serialize(metrics.sums)));
    metrics.combine(parts.map(bytes => deserialize(bytes)));
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

/** What a model made of a batch: the losses of its samples by the losses of a sum, or one number. */
type Judged = {
  size: number;
  padding: number;
  terms?: { factor: number; acrossBatch: boolean; losses: number[]; weights: number[] }[];
  loss?: number;
  output?: Tensor;
  target?: Tensor;
  /** Of another rank. */
  isForeign?: boolean;
};

async function* judged(
  batches: Iterable<Batch> | AsyncIterable<Batch>,
  spec: NamedLoss,
  open: (inputs: Feeds) => Promise<EvaluationRun>,
  wantsOutput: () => boolean,
): AsyncGenerator<Judged> {
  for await (const { inputs: given, size, padding = 0 } of batches) {
    const { samples: outputs, inputs, run } = await open(given);
    const wanted = outputs?.terms.flatMap(t => [t.losses.name, ...(t.weights ? [t.weights.name] : [])]) ?? [
      spec.name,
    ];
    const needsOutput = outputs && wantsOutput();
    const results = await run([...wanted, ...(needsOutput ? [spec.output] : [])]);
    const numbers = (value: { name: string } | undefined) => value && results[value.name]!.numbers();
    const target = spec.target === undefined ? undefined : inputs[spec.target];
    const terms = outputs?.terms.map(({ factor, acrossBatch, losses: named, weights }) => {
      const losses = numbers(named)!;
      const counts = () => losses.map(() => target!.size / losses.length);
      return { factor, acrossBatch, losses, weights: numbers(weights) ?? counts() };
    });
    yield {
      ...{ size, padding, terms },
      loss: outputs ? undefined : results[spec.name]!.numbers()[0]!,
      output: needsOutput ? results[spec.output] : undefined,
      target,
    };
  }
}

/**
 * The batches of all ranks, in the order that one process would have them in: of a sharded data set, each rank has every nth.
 * So the loss has the same bits with any number of ranks. Of other ranks, outputs and targets only come while they are needed.
 */
async function* gathered(
  own: AsyncGenerator<Judged>,
  collective: Collective,
  needsOutputs: () => boolean,
): AsyncGenerator<Judged> {
  for (;;) {
    const { value, done } = await own.next();
    const sent: Judged | undefined =
      done || needsOutputs() ? value : { ...value, output: undefined, target: undefined };
    const bytes = done ? new Uint8Array() : new Uint8Array(serialize(packed(sent!)));
    const all = await collective.allGather(bytes);
    const found = all.flatMap((one, rank) => {
      if (!one.length) return [];
      return rank === collective.rank
        ? [value as Judged]
        : [{ ...unpacked(deserialize(one)), isForeign: true }];
    });
    yield* found;
    if (found.length < collective.size) return;
  }
}

type Packed = Omit<Judged, 'output' | 'target'> & Record<'output' | 'target', PlainTensor | undefined>;
type PlainTensor = { dtype: DType; dims: readonly number[]; bytes: Uint8Array };

const plain = (tensor: Tensor | undefined): PlainTensor | undefined =>
  tensor && { dtype: tensor.dtype, dims: [...tensor.dims], bytes: tensor.bytes };
const tensorOf = (given: PlainTensor | undefined) =>
  given && new Tensor(given.dtype, given.dims, new Uint8Array(given.bytes));
const packed = (batch: Judged): Packed => ({
  ...batch,
  output: plain(batch.output),
  target: plain(batch.target),
});
const unpacked = (batch: Packed): Judged => ({
  ...batch,
  output: tensorOf(batch.output),
  target: tensorOf(batch.target),
});

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
    ? `the ${leftOut} samples do not fill a batch, and the loss that the model computes has no per-sample values`
    : !samples
      ? 'there are no batches'
      : ignored
        ? `all targets are ${spec.ignoreIndex}, which is ignored`
        : 'the classes of all targets weigh nothing';
  return new AgdError('bad-data', `There is nothing to evaluate: ${what}.`);
}
