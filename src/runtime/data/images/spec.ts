import { AgdError } from '../../../graph/errors.js';
import { type Shape, showShape } from '../../../graph/ir.js';
import { record } from '../../../graph/record.js';
import { unknownName } from '../../../ops/core/option-type.js';
import { FILTER_NAMES, type Filter } from './resize.js';

/** How images become arrays that feed an input. Plain JSON: a recipe holds it. */
export type ImageSpec = {
  height: number;
  width: number;
  /** Grey, RGB, or RGB with alpha. */
  channels: 1 | 3 | 4;
  /** Where the axis of the channels is; `none` where there is no such axis, for grey images. */
  layout: 'chw' | 'hwc' | 'none';
  /** `uint8` pixels are not normalized. */
  dtype: 'float32' | 'uint8';
  /**
   * To the size: `cover` it and crop the center, fit inside it and pad with black (`contain`), or change the aspect ratio
   * (`exact`).
   */
  fit: Fit;
  /** The shorter side before the center crop, where it is not that of the output: 256 for 224, say. With `cover` alone. */
  resize?: number;
  filter: Filter;
  /** The share of each channel (0 to 1) less `mean`, divided by `std`. */
  mean: number[];
  std: number[];
};

export const FITS = ['cover', 'contain', 'exact'] as const;
export type Fit = (typeof FITS)[number];

/** Mean and standard deviation by name, of one channel or three. */
export const NORMALIZATIONS = record({
  /** The training images of ImageNet: torchvision's and most of timm's models. */
  imagenet: { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] },
  /** OpenAI's CLIP. */
  clip: { mean: [0.48145466, 0.4578275, 0.40821073], std: [0.26862954, 0.26130258, 0.27577711] },
  '0..1': { mean: [0], std: [1] },
  '-1..1': { mean: [0.5], std: [0.5] },
  '0..255': { mean: [0], std: [1 / 255] },
});

/** As a user gives it: text or numbers by name. */
export type ImageParameters = Readonly<Record<string, unknown>>;

const PARAMETERS = [
  'size',
  'resize',
  'fit',
  'filter',
  'color',
  'layout',
  'normalize',
  'mean',
  'std',
] as const;

/** The input that images feed: with a first axis of samples. */
export type ImageInput = { name: string; dtype: string; shape?: Shape };

/**
 * How images feed an input: what the parameters say, the rest from the input's shape and type. `size` is 224 or HxW,
 * `normalize` a name of `NORMALIZATIONS`, `mean` and `std` numbers joined by /. Throws `bad-option`, `bad-shape` where the
 * input takes no images.
 */
export function imageSpec(input: ImageInput, given: ImageParameters = {}): ImageSpec {
  const unknown = Object.keys(given).find(name => !(PARAMETERS as readonly string[]).includes(name));
  if (unknown !== undefined) throw unknownName('parameter of image', unknown, PARAMETERS);
  const wanted = geometryOf(input, given);
  const channels = wanted.channels;
  const fit = choose('fit', given.fit, FITS, 'cover');
  const resize = given.resize === undefined ? undefined : wholeNumber('resize', given.resize);
  if (resize !== undefined && fit !== 'cover')
    throw new AgdError('bad-option', `resize is for fit=cover, which crops the center, not for fit=${fit}.`);
  if (resize !== undefined && resize < Math.min(wanted.height, wanted.width))
    throw new AgdError(
      'bad-option',
      `Images resized to ${resize} are smaller than the ${wanted.height}x${wanted.width} that are cropped from them.`,
    );
  const normalization = normalizationOf(given, channels);
  const dtype = input.dtype === 'uint8' ? 'uint8' : 'float32';
  if (dtype === 'uint8' && (given.normalize ?? given.mean ?? given.std) !== undefined)
    throw new AgdError('bad-option', `Input '${input.name}' takes uint8 pixels, which are not normalized.`);
  return {
    ...wanted,
    dtype,
    fit,
    ...(resize === undefined ? {} : { resize }),
    filter: choose('filter', given.filter, FILTER_NAMES, 'bilinear'),
    ...normalization,
  };
}

/** One line on what was decided. */
export function describeImages(name: string, spec: ImageSpec): string {
  const { height, width, channels, layout, dtype, fit, resize, filter } = spec;
  const kind = { 1: 'grey', 3: 'RGB', 4: 'RGBA' }[channels];
  const before = resize === undefined ? '' : `resize=${resize}, `;
  const size = `${height}x${width}`;
  const axes = layout === 'none' ? '' : ` (${layout.toUpperCase()})`;
  return `Images feed '${name}' as ${size} ${kind} ${dtype}${axes}: ${before}fit=${fit}, filter=${filter}, ${describeNormalization(spec)}`;
}

function describeNormalization({ dtype, mean, std }: ImageSpec): string {
  if (dtype === 'uint8') return 'pixels 0 to 255';
  const same = (a: readonly number[], b: readonly number[]) => a.every((x, i) => x === b[i % b.length]);
  const named = Object.entries(NORMALIZATIONS).find(([, n]) => same(mean, n.mean) && same(std, n.std));
  return named ? `normalize=${named[0]}` : `mean=${mean.join('/')}, std=${std.join('/')}`;
}

/** Whether an input may be one of images, by its shape: [N, C, H, W] or [N, H, W, C] with 1, 3 or 4 channels. */
export function takesImages({ shape }: { shape?: Shape }): boolean {
  return shape?.length === 4 && layoutOf(shape) !== undefined;
}

const CHANNELS: readonly unknown[] = [1, 3, 4];

function layoutOf([, a, b, c]: Shape): 'chw' | 'hwc' | undefined {
  const [first, last] = [CHANNELS.includes(a), CHANNELS.includes(c)];
  if (first && last) {
    // [N, 3, 4, 4]: the axis of the channels is the one that is not as long as the axis beside it.
    if (a !== b && b === c) return 'chw';
    return a === b && b !== c ? 'hwc' : 'chw';
  }
  return first ? 'chw' : last ? 'hwc' : undefined;
}

function geometryOf(
  input: ImageInput,
  given: ImageParameters,
): Pick<ImageSpec, 'height' | 'width' | 'channels' | 'layout'> {
  const shape = input.shape ?? [null, null, null, null];
  const is = `Input '${input.name}' is ${showShape(shape)}`;
  if (shape.length === 3 && given.layout === undefined) {
    const [height, width] = sizeOf(is, given, shape[1], shape[2]);
    return { height, width, channels: 1, layout: 'none' };
  }
  const asked =
    given.layout === undefined ? undefined : choose('layout', given.layout, ['chw', 'hwc'] as const);
  const count = given.color === undefined ? undefined : channelsOf(given.color);
  const open = shape.slice(1).every(d => typeof d !== 'number');
  const layout = asked ?? (shape.length === 4 ? layoutOf(shape) : undefined) ?? (open ? 'chw' : undefined);
  if (shape.length !== 4 || !layout)
    throw new AgdError(
      'bad-shape',
      `${is}, which takes no images: those are [N, C, H, W] or [N, H, W, C] with 1, 3 or 4 channels, or [N, H, W].`,
    );
  const [c, h, w] = layout === 'chw' ? shape.slice(1) : [shape[3], shape[1], shape[2]];
  const channels = count ?? (typeof c === 'number' ? c : 3);
  if (!CHANNELS.includes(channels) || (typeof c === 'number' && c !== channels))
    throw new AgdError('bad-shape', `${is}: it takes ${c} channels, not ${channels} (1, 3 or 4).`);
  const [height, width] = sizeOf(is, given, h, w);
  return { height, width, channels: channels as 1 | 3 | 4, layout };
}

function sizeOf(is: string, given: ImageParameters, h: Shape[number], w: Shape[number]) {
  const fixed = typeof h === 'number' && typeof w === 'number';
  if (given.size === undefined) {
    if (fixed) return [h, w] as const;
    throw new AgdError('bad-option', `${is}, of any size: give one, as image(size=224).`);
  }
  const match = /^(\d+)(?:x(\d+))?$/.exec(String(given.size));
  const [height, width] = [Number(match?.[1]), Number(match?.[2] ?? match?.[1])];
  if (!match || !height || !width)
    throw new AgdError('bad-option', `size must be a number of pixels or HxW, not ${given.size}.`);
  if ((typeof h === 'number' && h !== height) || (typeof w === 'number' && w !== width))
    throw new AgdError('bad-shape', `${is}: images of size ${height}x${width} do not fit it.`);
  return [height, width] as const;
}

function channelsOf(given: unknown): number {
  const named = record<number>({ grey: 1, gray: 1, rgb: 3, rgba: 4 })[String(given)];
  const count = named ?? Number(given);
  if (CHANNELS.includes(count)) return count;
  throw new AgdError('bad-option', `color must be one of grey, rgb, rgba, not ${given}.`);
}

function normalizationOf(given: ImageParameters, channels: number): Pick<ImageSpec, 'mean' | 'std'> {
  if (given.normalize !== undefined && (given.mean ?? given.std) !== undefined)
    throw new AgdError('bad-option', 'normalize cannot be combined with mean and std.');
  const names = Object.keys(NORMALIZATIONS);
  const name = choose('normalize', given.normalize, names, '0..1');
  const { mean, std } = NORMALIZATIONS[name]!;
  const spread = (values: readonly number[], what: string) => {
    if (values.length === 1 || values.length === channels)
      return Array.from({ length: channels }, (_, i) => values[i % values.length]!);
    // Alpha is no colour: it stays a share.
    if (values.length === 3 && channels === 4) return [...values, what === 'mean' ? 0 : 1];
    throw new AgdError(
      'bad-option',
      `${what} has ${values.length} numbers, but the images have ${channels === 1 ? 'one channel' : `${channels} channels`}.`,
    );
  };
  const own = { mean: numbersOf('mean', given.mean ?? mean), std: numbersOf('std', given.std ?? std) };
  if (own.std.some(x => !(x > 0))) throw new AgdError('bad-option', 'std must be above 0.');
  return { mean: spread(own.mean, 'mean'), std: spread(own.std, 'std') };
}

function numbersOf(what: string, given: unknown): number[] {
  const list = Array.isArray(given) ? given : String(given).split('/');
  const values = list.map(x => (typeof x === 'string' && x.trim() === '' ? Number.NaN : Number(x)));
  if (values.length && values.every(Number.isFinite)) return values;
  throw new AgdError('bad-option', `${what} must be numbers, as 0.5 or 0.485/0.456/0.406, not ${given}.`);
}

function wholeNumber(what: string, given: unknown): number {
  const x = Number(given);
  if (Number.isSafeInteger(x) && x > 0) return x;
  throw new AgdError('bad-option', `${what} must be a whole number above 0, not ${given}.`);
}

function choose<T extends string>(what: string, given: unknown, names: readonly T[], otherwise?: T): T {
  if (given === undefined && otherwise !== undefined) return otherwise;
  if (names.includes(given as T)) return given as T;
  throw unknownName(what, String(given), names);
}
