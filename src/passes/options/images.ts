/** Options of data in folders of images. */
import { flag } from '../../ops/core/option-type.js';
import { AUGMENTATIONS, augmentationsType, parseAugmentations } from '../recipe/augmentation.js';
import { type Option, option, RUNS } from './option.js';

const DATA = { group: 'Data', commands: RUNS, stage: 'run' } as const;

export const IMAGE_OPTIONS = {
  augment: option(augmentationsType, {
    ...DATA,
    help: `Random changes of training images, e.g. flip,crop:padding=4,color:brightness=0.2+contrast=0.2; one or more of ${AUGMENTATIONS.join(', ')}`,
    parse: parseAugmentations,
  }),
  skipDamaged: option(flag, {
    ...DATA,
    help: 'Skip images that cannot be decoded; reads all of them before the run',
  }),
} satisfies Record<string, Option>;
