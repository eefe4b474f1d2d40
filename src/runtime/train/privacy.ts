/** Differentially private runs: the noise that a budget asks for, what a run has spent, and what it may not do. */
import { AgdError } from '../../graph/errors.js';
import { secretSeed } from '../../graph/random.js';
import type { TrainingDescription } from '../../passes/file/description.js';
import type { InjectOptions } from '../../passes/options.js';
import type { DataOptions } from '../data/data.js';
import type { Dataset } from '../data/dataset.js';
import { epsilonOf, noiseFor } from './accountant.js';
import type { Run, RunSettings } from './run-state.js';

export type PrivacyOptions = {
  /** The epsilon that all epochs together may spend: decides the noise where `dpSgd` has none. */
  dpEpsilon?: number;
  /** The delta for which epsilon is computed; samples^-1.1 if not given. */
  dpDelta?: number;
};

/** What is known of a run before it begins. */
type Plan = PrivacyOptions & Pick<DataOptions, 'sampler'> & { batchSize?: number; epochs: number };

/** What a run has spent. */
export type PrivacySpent = { epsilon: number; delta: number };

/** Throws `bad-option` for options that need --dp-sgd, or another form of it. */
export function checkBudget(inject: InjectOptions | undefined, { dpEpsilon, dpDelta }: PrivacyOptions): void {
  const { dpSgd, loss } = inject ?? {};
  const terms = dpSgd && loss && loss.kind !== 'output' ? [loss, ...(loss.plus ?? [])] : [];
  if (terms.some(term => term.posWeight === 'balanced'))
    throw new AgdError(
      'bad-option',
      '--pos-weight balanced is computed from the data, which --dp-sgd does not cover: give numbers.',
    );
  if (dpEpsilon === undefined || !inject) return;
  if (!dpSgd)
    throw new AgdError('bad-option', '--dp-epsilon needs the norm to clip to: add --dp-sgd clip=1.');
  if (dpSgd.noise !== undefined)
    throw new AgdError(
      'bad-option',
      `--dp-epsilon chooses the noise, and --dp-sgd has noise=${dpSgd.noise}: give one of the two.`,
    );
  if (dpDelta !== undefined && dpDelta >= 1) throw new AgdError('bad-option', '--dp-delta must be below 1.');
}

/** The options of injection with the expected size of a batch, and with the noise that the budget asks for. */
export async function withNoise(
  options: InjectOptions,
  plan: Plan,
  open: () => Promise<Dataset>,
): Promise<InjectOptions> {
  const { dpSgd, accumulate = 1 } = options;
  if (!dpSgd) return options;
  checkBudget(options, plan);
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

/** The seed of a private run, which is secret unless the user chose it; a resumed run has that of the run before. */
export function seedOf(
  description: TrainingDescription,
  seed: number | undefined,
  before: Run | undefined,
): number | undefined {
  if (!description.dpSgd || seed !== undefined) return seed;
  return before?.settings.seed ?? secretSeed();
}

/** Throws `bad-option` where a resumed run would no longer spend what it tells. */
export function checkResumed(
  { dpSgd }: TrainingDescription,
  before: Run | undefined,
  now: RunSettings,
  steps: number,
): void {
  if (!dpSgd || !before || !steps) return;
  const { batchSize, data, samples, sampler } = before.settings;
  const differs = (was: unknown, is: unknown) => was !== undefined && was !== is;
  const other =
    batchSize !== now.batchSize
      ? `--batch-size ${now.batchSize} (was ${batchSize})`
      : data !== now.data
        ? 'other data'
        : differs(samples, now.samples)
          ? `${now.samples} training samples (was ${samples}; --val-split changes their number)`
          : differs(sampler, now.sampler)
            ? `--sampler ${now.sampler} (was ${sampler})`
            : undefined;
  if (other)
    throw new AgdError(
      'bad-option',
      `A private run cannot be resumed with ${other}: its epsilon is computed for the run as it began.`,
    );
}

/** Relative; the noise for a budget is found to a limited precision. */
const TOLERANCE = 1e-6;

/** Follows what a private run spends, after so many batches. */
export type Accounting = { spent(batches: number): PrivacySpent; notes: string[] };

/**
 * The accounting of a run; undefined if it is not private. Throws `bad-option` for a sampler under which a sample may
 * count for more than the noise hides, and for a run that spends more than `dpEpsilon`: its noise may be fixed already,
 * in a state or an injected file.
 */
export function accountingOf(
  { dpSgd, accumulation }: TrainingDescription,
  train: Dataset,
  options: PrivacyOptions &
    Pick<DataOptions, 'sampler' | 'sampleWeights'> & { batchSize?: number; epochs: number },
): Accounting | undefined {
  const perUpdate = accumulation?.batches ?? 1;
  if (!dpSgd) {
    if (options.dpEpsilon === undefined && options.dpDelta === undefined) return undefined;
    throw new AgdError('bad-option', '--dp-epsilon and --dp-delta are for private training: add --dp-sgd.');
  }
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
