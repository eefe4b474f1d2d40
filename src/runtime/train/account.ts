/** What differential privacy costs a run: the noise that a budget asks for, and what the steps so far have spent. */
import { AgdError } from '../../graph/errors.js';
import type { TrainingDescription } from '../../passes/file/description.js';
import type { InjectOptions } from '../../passes/options.js';
import type { DataOptions } from '../data/data.js';
import type { Dataset } from '../data/dataset.js';
import { epsilonOf, noiseFor } from './accountant.js';
import type { Accounting, AccountingOptions, PrivacyOptions } from './privacy.js';

/** What is known of a run before it begins. */
type Plan = PrivacyOptions & Pick<DataOptions, 'sampler'> & { batchSize?: number; epochs: number };

/** The options of injection with the expected size of a batch, and with the noise that the budget asks for. */
export async function withNoise(
  options: InjectOptions,
  plan: Plan,
  open: () => Promise<Dataset>,
): Promise<InjectOptions> {
  const { dpSgd, accumulate = 1 } = options;
  if (!dpSgd) return options;
  const { dpEpsilon } = plan;
  let { noise, batch } = dpSgd;
  if (batch === undefined || (noise === undefined && dpEpsilon !== undefined)) {
    const data = await open();
    const train = data.isPoisson ? data.poisson(accumulate) : data;
    batch ??= train.batchSize(plan);
    if (noise === undefined && dpEpsilon !== undefined) {
      const updates = Math.ceil((plan.epochs * train.batchCount(plan)) / accumulate);
      const rate = rateOf(train, plan, accumulate);
      noise = noiseFor(dpEpsilon, deltaOf(train, plan), { rate, updates });
    }
  }
  return { ...options, dpSgd: { ...dpSgd, noise, batch } };
}

const deltaOf = (train: Dataset, { dpDelta }: PrivacyOptions) => dpDelta ?? train.length ** -1.1;

/** The share of the samples that an update has. */
const rateOf = (train: Dataset, options: { batchSize?: number }, accumulate: number) =>
  Math.min(1, (accumulate * train.batchSize(options)) / train.length);

/** Relative; the noise for a budget is found to a limited precision. */
const TOLERANCE = 1e-6;

/** What `accountingOf` tells of a private run. */
export function account(
  { dpSgd, accumulation }: TrainingDescription,
  train: Dataset,
  options: AccountingOptions,
): Accounting {
  const perUpdate = accumulation?.batches ?? 1;
  if (!dpSgd)
    throw new AgdError('bad-option', '--dp-epsilon and --dp-delta are for private training: add --dp-sgd.');
  if (options.sampler === 'weighted' || options.sampleWeights !== undefined)
    throw new AgdError(
      'bad-option',
      '--dp-sgd needs samples that are equally likely, and a weighted sampler draws some more often: use --sampler poisson.',
    );
  if (dpSgd.batch === undefined && perUpdate > 1)
    throw new AgdError(
      'bad-option',
      'The model divides the sum over several batches by the size of the last one, which depends on the data: inject it again, with batch= in --dp-sgd.',
    );
  const batches = train.batchCount(options);
  if (!train.isPoisson && batches % perUpdate)
    throw new AgdError(
      'bad-option',
      `An epoch has ${batches} batches and an update takes ${perUpdate}, so that some updates could take a sample twice, which --dp-sgd excludes: use --sampler poisson, or another --batch-size.`,
    );
  const { noise = 0, clip, method } = dpSgd;
  const rate = rateOf(train, options, perUpdate);
  const delta = deltaOf(train, options);
  const spent = (done: number) => {
    const updates = Math.ceil(done / perUpdate);
    return { epsilon: epsilonOf({ noise, rate, updates }, delta), delta };
  };
  const { epsilon } = spent(options.epochs * batches);
  const { dpEpsilon } = options;
  const fits = (epochs: number) => spent(epochs * batches).epsilon <= dpEpsilon! * (1 + TOLERANCE);
  if (dpEpsilon !== undefined && !fits(options.epochs)) {
    let [most, tooMany] = [0, options.epochs];
    while (tooMany - most > 1) {
      const middle = Math.floor((most + tooMany) / 2);
      if (fits(middle)) most = middle;
      else tooMany = middle;
    }
    throw new AgdError(
      'bad-option',
      `${options.epochs} epochs spend an epsilon of ${epsilon.toPrecision(3)} with the noise of this run, ${noise}, which is above --dp-epsilon ${dpEpsilon}: ${most ? `--epochs ${most} is the most that fits` : 'not even one epoch fits'}.`,
    );
  }
  const total = Number.isFinite(epsilon)
    ? `epsilon will be ${epsilon.toPrecision(3)} at a delta of ${delta.toPrecision(3)} after the whole run`
    : 'without noise, there is no privacy';
  const how = method === 'ghost' ? 'by ghost clipping' : 'in a loop over the samples';
  return {
    spent,
    notes: [
      `private: gradients of samples clipped to ${clip} (${how}), noise ${noise}; ${total}`,
      ...(dpSgd.batch === undefined
        ? [
            'private: updates are divided by the number of samples that they took, which the noise does not hide: inject with batch= in --dp-sgd',
          ]
        : []),
      ...(train.isPoisson
        ? []
        : [
            'private: epsilon assumes Poisson sampling, but this run shuffles: use --sampler poisson for a guarantee',
          ]),
    ],
  };
}
