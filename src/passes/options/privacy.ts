import * as v from 'valibot';
import { betweenZeroAndOne, choice, count, nonNegative, positive } from '../../ops/core/option-type.js';
import { type Option, option } from './option.js';
import { parseSettings } from './text.js';

const spec = v.pipe(
  v.strictObject(
    {
      clip: positive,
      noise: v.optional(nonNegative),
      batch: v.optional(count),
      method: v.optional(choice(['scan', 'ghost'])),
    },
    'an object of clip, noise, batch and method',
  ),
  v.description('an object of clip, noise, batch and method'),
);

/**
 * DP-SGD (Abadi et al., 2016): the gradient of each sample is clipped to the 2-norm `clip` over all trained parameters;
 * to the sum over the samples of an update, Gaussian noise with standard deviation `noise` times `clip` is added, and the
 * result divided by the number of samples, or by `accumulate` times `batch`, the expected size of a batch.
 */
export type DpSgd = v.InferOutput<typeof spec>;

const PRIVACY = { group: 'Update', commands: ['inject', 'train'] } as const;

export const PRIVACY_OPTIONS = {
  dpSgd: option(spec, {
    ...PRIVACY,
    stage: 'inject',
    help: 'Differentially private training, e.g. clip=1,noise=1.1: clip the gradient of each sample, add noise to their sum',
    parse: (text: string) => parseSettings(text, spec, 'needs the norm to clip to, as clip=1,noise=1.1'),
    recorded: true,
    conflicts: [
      'gradients',
      'lazyRows',
      'checkpointActivations',
      'sampleWeights',
      'classWeights',
      'folds',
      'qat',
    ],
  }),
  dpEpsilon: option(positive, {
    ...PRIVACY,
    commands: ['train'],
    stage: 'run',
    help: 'With --dp-sgd without noise: choose the noise so that the whole run spends this epsilon',
  }),
  dpDelta: option(betweenZeroAndOne, {
    ...PRIVACY,
    commands: ['train'],
    stage: 'run',
    help: 'Delta for which epsilon is reported',
    shown: 'samples^-1.1',
  }),
} satisfies Record<string, Option>;
