/** Masks of segmentation: images whose pixels are class numbers, resized without interpolation. */
import { readFile } from 'node:fs/promises';
import { AgdError } from '../../../graph/errors.js';
import { type Shape, showShape } from '../../../graph/ir.js';
import { unknownName } from '../../../ops/core/option-type.js';
import { type ChooseRegion, decode, type EncodedImage, fitTo } from './decode.js';
import { readIndexedPng } from './indexed-png.js';
import { cropTo, type Pixels } from './pixels.js';
import { resize } from './resize.js';
import type { ImageParameters, ImageSpec } from './spec.js';

/** How masks become targets. Plain JSON. The geometry is that of the images. */
export type MaskSpec = Pick<ImageSpec, 'height' | 'width' | 'fit' | 'resize'> & {
  filter: 'nearest';
  /** The class of pixels beyond the image, where it was padded or turned. */
  outside: number;
  /** The pixel's value of each class, where that is not its number: [0, 255] for black and white. */
  values?: number[];
};

/**
 * How masks feed a target of [N, H, W] or [N, 1, H, W], in the geometry of their images (that of the default where there are
 * none). Parameters: `values`, as 0/255, and `outside`, a class, 0 if not given. Throws `bad-option`, `bad-shape`.
 */
export function maskSpec(
  { name, shape }: { name: string; shape?: Shape },
  height: number,
  width: number,
  image: Pick<ImageSpec, 'fit' | 'resize'> = { fit: 'cover' },
  given: ImageParameters = {},
): MaskSpec {
  const unknown = Object.keys(given).find(key => key !== 'values' && key !== 'outside');
  if (unknown !== undefined) throw unknownName('parameter of masks', unknown, ['values', 'outside']);
  const plane = shape?.slice(-2) ?? [];
  const fits = (d: Shape[number] | undefined, size: number) => typeof d !== 'number' || d === size;
  const single =
    shape?.length === 3 || (shape?.length === 4 && (typeof shape[1] !== 'number' || shape[1] === 1));
  if (shape && !(single && fits(plane[0], height) && fits(plane[1], width)))
    throw new AgdError(
      'bad-shape',
      `Target '${name}' is ${showShape(shape)}, which masks of ${height}x${width} do not fit.`,
    );
  const { values, outside = 0 } = given;
  const list = Array.isArray(values) ? values : String(values).split('/');
  return {
    height,
    width,
    ...{ fit: image.fit, ...(image.resize === undefined ? {} : { resize: image.resize }) },
    filter: 'nearest',
    outside: classOf('outside', outside),
    ...(values === undefined ? {} : { values: list.map(x => classOf('values', x)) }),
  };
}

function classOf(what: string, value: unknown): number {
  const x = Number(value);
  if (Number.isSafeInteger(x) && x >= 0 && x <= 255) return x;
  throw new AgdError('bad-option', `${what} of masks must be whole numbers from 0 to 255, not ${value}.`);
}

/** The class of each pixel, in one channel. Throws `bad-data` for a damaged file, or one that is in color; `io`. */
export async function decodeMask(
  mask: EncodedImage,
  spec: MaskSpec,
  choose?: ChooseRegion,
  name = typeof mask === 'string' ? mask : 'a mask',
): Promise<Pixels> {
  const classes = toClasses(await readMask(mask, name), spec, name);
  const region = choose?.(classes.height, classes.width);
  if (region) return resize(cropTo(classes, region), spec.height, spec.width, 'nearest');
  return fitTo(classes, spec, spec.outside);
}

/** The numbers of a palette, which decoding would replace by colors, or grey pixels. */
async function readMask(mask: EncodedImage, name: string): Promise<Pixels> {
  const bytes = typeof mask === 'string' ? await readFile(mask).catch(() => undefined) : mask;
  const indexed = bytes && readIndexedPng(bytes);
  if (indexed) return indexed;
  const { data, height, width, channels } = await decode(bytes ?? mask, name);
  const out = new Uint8Array(height * width);
  for (let i = 0, p = 0; i < out.length; i++, p += channels) {
    if (channels >= 3 && (data[p] !== data[p + 1] || data[p] !== data[p + 2]))
      throw new AgdError(
        'bad-data',
        `Mask ${name} is in color: its pixels must be class numbers, in a grey image or one with a palette.`,
      );
    out[i] = data[p]!;
  }
  return { data: out, height, width, channels: 1 };
}

function toClasses(mask: Pixels, { values }: MaskSpec, name: string): Pixels {
  if (!values) return mask;
  const data = mask.data.map(x => values.indexOf(x));
  const stray = mask.data.find(x => !values.includes(x));
  if (stray === undefined) return { ...mask, data };
  throw new AgdError(
    'bad-data',
    `Mask ${name} has pixels of ${stray}, which is none of the values ${values.join(', ')}.`,
  );
}
