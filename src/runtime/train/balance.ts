/** Weights of classes and labels by their frequency in the training data. */
import { AgdError } from '../../graph/errors.js';
import type { InjectOptions, LossSpec } from '../../passes/options.js';
import type { InputSpec } from '../data/bind.js';
import type { Dataset } from '../data/dataset.js';

/** Samples that are read at a time. */
const BATCH = 1024;

/**
 * The options with numbers for weights that are `balanced`: n / (C n_c) of class c, as scikit-learn has it, and the negative
 * targets over the positive ones of each label. `open` gives the training data for a loss without weights.
 */
export async function withBalance(
  options: InjectOptions,
  open: (loss: LossSpec) => Promise<{ data: Dataset; target: InputSpec }>,
): Promise<InjectOptions> {
  const { loss } = options;
  if (!loss || loss.kind === 'output') return options;
  const { classWeights, posWeight, ...plain } = loss;
  const byClass = classWeights === 'balanced';
  if (!byClass && posWeight !== 'balanced') return options;
  const { data, target } = await open(plain);
  const weights = byClass
    ? { classWeights: await classBalance(data, target, plain.ignoreIndex), posWeight }
    : { classWeights, posWeight: await labelBalance(data, target) };
  return { ...options, loss: { ...plain, ...weights } as LossSpec };
}

async function classBalance(data: Dataset, target: InputSpec, ignored?: number): Promise<number[]> {
  const { most = 0 } = target.range ?? {};
  const counts: number[] = Array(Number.isSafeInteger(most) ? most + 1 : 0).fill(0);
  for await (const { values } of targets(data, target.name))
    for (const label of values) {
      if (label === ignored) continue;
      while (counts.length <= label) counts.push(0);
      counts[label]!++;
    }
  const all = counts.reduce((a, b) => a + b, 0);
  // A class without samples has no say in training.
  return counts.map(count => (count ? all / (counts.length * count) : 1));
}

/** A weight for each label of targets [samples, labels]; one for all positions of others. */
async function labelBalance(data: Dataset, target: InputSpec): Promise<number[]> {
  let positive: number[] = [];
  let count = 0;
  for await (const { values, labels } of targets(data, target.name)) {
    if (!positive.length) positive = Array(labels).fill(0);
    values.forEach((value, i) => {
      positive[i % labels]! += value;
    });
    count += values.length / labels;
  }
  const never = positive.indexOf(0);
  if (never >= 0)
    throw new AgdError(
      'bad-option',
      `--pos-weight balanced: label ${never} is never positive in the training data: give numbers.`,
    );
  return positive.map(sum => (count - sum) / sum);
}

async function* targets(data: Dataset, name: string): AsyncGenerator<{ values: number[]; labels: number }> {
  const batchSize = data.fixedBatch ?? BATCH;
  for await (const { inputs, size } of data.batches({ batchSize, pad: true })) {
    const { dims } = inputs[name]!;
    const values = inputs[name]!.numbers();
    const each = values.length / dims[0]!;
    yield { values: values.slice(0, each * size), labels: dims.length === 2 ? dims[1]! : 1 };
  }
}
