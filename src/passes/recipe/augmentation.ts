/** The value of `--augment`: a list of augmentations with their options. */
import * as v from 'valibot';
import { AgdError } from '../../graph/errors.js';
import { record } from '../../graph/record.js';
import { unknownName } from '../../ops/core/option-type.js';

/** A number, or the two ends of a range. */
type Amount = number | readonly [least: number, most: number];

/** An augmentation with all of its options. Augmentations are applied in the order of the list, mixing last. */
export type Augmentation = { kind: AugmentationKind } & Record<string, Amount | string>;

/** The type of an option, and its default. */
type OptionSpec = {
  otherwise?: Amount;
  least?: number;
  most?: number;
  range?: true;
  names?: readonly string[];
};

const share = (otherwise: number): OptionSpec => ({ otherwise, least: 0, most: 1 });

const KINDS = record<Record<string, OptionSpec>>({
  /** Flips left to right with probability p, and top to bottom with probability `vertical`. */
  flip: { p: share(0.5), vertical: share(0) },
  /**
   * With `padding`, adds that many black pixels on each side and crops the original size at a random position. With
   * `scale`, crops a random part of the original image with this share of its area and an aspect ratio in `ratio`, and
   * resizes it.
   */
  crop: {
    padding: { least: 1 },
    scale: { least: 0.01, most: 1, range: true },
    ratio: { otherwise: [3 / 4, 4 / 3], least: 0.01, range: true },
  },
  /** Rotates about the center by up to this many degrees either way: bilinear, black outside. */
  rotate: { degrees: { otherwise: 10, least: 0, most: 180 } },
  /** Factors in [1 - x, 1 + x]; for `hue`, a rotation by up to this share of the circle, at most a half. */
  color: {
    brightness: { otherwise: 0, least: 0 },
    contrast: { otherwise: 0, least: 0 },
    saturation: { otherwise: 0, least: 0 },
    hue: { otherwise: 0, least: 0, most: 0.5 },
  },
  /** With probability p, a rectangle of this share of the area becomes the mean of the normalization. */
  erase: {
    p: share(0.5),
    scale: { otherwise: [0.02, 0.33], least: 0.001, most: 1, range: true },
    ratio: { otherwise: [0.3, 3.3], least: 0.01, range: true },
  },
  /** Mixes each sample with another one of its batch, with shares drawn from Beta(alpha, alpha). */
  mixup: { alpha: { otherwise: 0.2, least: 0.001 } },
  /** Replaces a rectangle of each sample by that of another one, with a share of the area drawn in the same way. */
  cutmix: { alpha: { otherwise: 1, least: 0.001 } },
});

export type AugmentationKind = 'flip' | 'crop' | 'rotate' | 'color' | 'erase' | 'mixup' | 'cutmix';
export const AUGMENTATIONS = Object.keys(KINDS) as AugmentationKind[];

/** Whether samples of a batch are mixed, and therefore their targets. */
export const mixes = (list: readonly Augmentation[] = []): boolean =>
  list.some(({ kind }) => kind === 'mixup' || kind === 'cutmix');

/** Parses `flip,crop:padding=4,color:brightness=0.2+contrast=0.2`. Ranges are 0.08..1. Throws `bad-option`. */
export function parseAugmentations(text: string): Augmentation[] {
  return text.split(',').map(part => {
    const [kind = '', ...rest] = part.trim().split(':');
    const options = rest.join(':');
    const pairs = options === '' ? [] : options.split('+').map(pair => pair.split('='));
    const wrong = pairs.find(pair => pair.length !== 2 || pair[1] === '');
    if (wrong)
      throw new AgdError(
        'bad-option',
        `Options of ${kind} are NAME=VALUE joined by +, as color:brightness=0.2+contrast=0.2, not '${wrong.join('=')}'.`,
      );
    return augmentation(kind, Object.fromEntries(pairs) as Record<string, string>);
  });
}

/** The text that parses to this list. */
export const showAugmentations = (list: readonly Augmentation[]): string =>
  list
    .map(({ kind, ...options }) => {
      const pairs = Object.entries(options).map(([name, x]) => `${name}=${[x].flat().join('..')}`);
      return `${kind}:${pairs.join('+')}`;
    })
    .join(',');

/** As an option of a run: a list of objects, checked and with defaults filled in. */
export const augmentationsType = v.pipe(
  v.custom<readonly Augmentation[]>(
    value => Array.isArray(value) && value.every(isAugmentation),
    'a list of augmentations',
  ),
  v.transform(list => list.map(({ kind, ...options }) => augmentation(kind, options))),
  v.description('a list of augmentations, as flip,crop:padding=4'),
);

function isAugmentation(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false;
  const { kind, ...options } = value as { kind?: unknown };
  if (typeof kind !== 'string') return false;
  augmentation(kind, options);
  return true;
}

/** Checks an augmentation and fills in defaults. Throws `bad-option`. */
export function augmentation(kind: string, given: Readonly<Record<string, unknown>>): Augmentation {
  const specs = KINDS[kind];
  if (!specs) throw unknownName('augmentation', kind, AUGMENTATIONS);
  const unknown = Object.keys(given).find(name => !Object.hasOwn(specs, name));
  if (unknown !== undefined) throw unknownName(`option of ${kind}`, unknown, Object.keys(specs));
  const values = Object.entries(specs).flatMap(([name, spec]) => {
    const value = Object.hasOwn(given, name)
      ? amountOf(`${kind}:${name}`, given[name], spec)
      : spec.otherwise;
    return value === undefined ? [] : [[name, value] as const];
  });
  const result = { kind: kind as AugmentationKind, ...Object.fromEntries(values) };
  if (kind === 'crop') checkCrop(result);
  if (kind === 'color' && values.every(([, x]) => x === 0))
    throw new AgdError('bad-option', 'color changes nothing: give it one, as color:brightness=0.2.');
  return result;
}

function checkCrop(crop: Augmentation): void {
  if ((crop.padding === undefined) === (crop.scale === undefined))
    throw new AgdError(
      'bad-option',
      'crop takes padding, as crop:padding=4, or scale, as crop:scale=0.08..1.',
    );
  if (crop.padding !== undefined && !Number.isSafeInteger(crop.padding))
    throw new AgdError('bad-option', `crop:padding must be a whole number, not ${crop.padding}.`);
}

function amountOf(
  name: string,
  given: unknown,
  { least = -Infinity, most = Infinity, range }: OptionSpec,
): Amount {
  const ends = Array.isArray(given) ? given : String(given).split('..');
  const numbers = ends.map(end => (typeof end === 'string' && end.trim() === '' ? Number.NaN : Number(end)));
  const fits = numbers.every(x => Number.isFinite(x) && x >= least && x <= most);
  const [low, high] = numbers;
  if (fits && !range && numbers.length === 1) return low!;
  if (fits && range && numbers.length === 1) return [low!, Math.max(low!, Math.min(1, most))];
  if (fits && range && numbers.length === 2 && low! <= high!) return [low!, high!];
  const limits = `${least > -Infinity ? ` of at least ${least}` : ''}${most < Infinity ? ` and at most ${most}` : ''}`;
  throw new AgdError(
    'bad-option',
    `${name} must be ${range ? 'a range LEAST..MOST of numbers' : 'a number'}${limits}, not ${given}.`,
  );
}
