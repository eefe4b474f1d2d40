/** Differentially private runs: the noise that a budget asks for, what a run has spent, and what it may not do. */
import { AgdError } from '../../graph/errors.js';
import { secretSeed } from '../../graph/random.js';
import type { TrainingDescription } from '../../passes/file/description.js';
import type { InjectOptions } from '../../passes/options.js';
import type { DataOptions } from '../data/data.js';
import type { Dataset } from '../data/dataset.js';
import type { Run, RunSettings } from './run-state.js';

export type PrivacyOptions = {
  /** The epsilon that all epochs together may spend: decides the noise where `dpSgd` has none. */
  dpEpsilon?: number;
  /** The delta for which epsilon is computed; samples^-1.1 if not given. */
  dpDelta?: number;
};

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

/** Follows what a private run spends, after so many batches. */
export type Accounting = { spent(batches: number): PrivacySpent; notes: string[] };

export type AccountingOptions = PrivacyOptions &
  Pick<DataOptions, 'sampler' | 'sampleWeights'> & { batchSize?: number; epochs: number };

/**
 * The accounting of a run; undefined if it is not private. Throws `bad-option` for a sampler under which a sample may
 * count for more than the noise hides, and for a run that spends more than `dpEpsilon`: its noise may be fixed already,
 * in a state or an injected file.
 */
export async function accountingOf(
  description: TrainingDescription,
  train: Dataset,
  options: AccountingOptions,
): Promise<Accounting | undefined> {
  const { dpEpsilon, dpDelta } = options;
  if (!description.dpSgd && dpEpsilon === undefined && dpDelta === undefined) return undefined;
  const { account } = await import('./on-demand.js');
  return account(description, train, options);
}
