import { AgdError } from '../../../graph/errors.js';
import { type Augmentation, mixes } from '../../../passes/recipe/augmentation.js';
import type { InputSpec } from '../match.js';
import type { Mixing } from './mix.js';
import { takesImages } from './spec.js';

/** The target of a step, with the inputs of a second one where the loss takes two. */
export type MixTarget = { kind: string; target?: string; mix?: { target: string; share: string } };

/**
 * What mixup and cutmix of a list mix in a step of these inputs; undefined where the list has neither. Throws `bad-option`
 * where no input or several take images, and where the loss takes one class for each target.
 */
export function mixingOf(
  list: readonly Augmentation[] | undefined,
  inputs: readonly InputSpec[],
  { kind, target, mix }: MixTarget,
): Mixing | undefined {
  if (!list || !mixes(list)) return undefined;
  const names = list.filter(one => mixes([one])).map(one => one.kind);
  const what = `--augment ${names.join(',')}`;
  const images = inputs.filter(
    input => input.name !== target && input.dtype === 'float32' && takesImages(input) && !input.batchAxis,
  );
  if (images.length !== 1)
    throw new AgdError(
      'bad-option',
      `${what} mixes the images of one float32 input, and the model has ${images.length || 'none'}${images.length ? `: ${images.map(({ name }) => `'${name}'`).join(', ')}` : ''}.`,
    );
  const own = inputs.find(({ name }) => name === target);
  if (own && !mix && own.dtype !== 'float32')
    throw new AgdError(
      'bad-option',
      kind === 'output'
        ? `${what} mixes targets, and the model computes its loss of one class for each itself.`
        : `${what} needs a loss that takes two classes for each target: inject the model with --mix-targets.`,
    );
  return { list, images: images[0]!.name, ...(own ? { target } : {}), ...(mix ? { second: mix } : {}) };
}
