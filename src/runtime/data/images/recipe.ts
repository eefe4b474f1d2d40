/** Images and masks as a recipe has them: the options of its step, and the shape of the input. */
import type { InputRecipe, Recipe } from '../../../passes/recipe/recipe.js';
import { type MaskSpec, maskSpec } from './mask.js';
import { dimsOf } from './normalize.js';
import { describeImages, type ImageInput, type ImageParameters, type ImageSpec, imageSpec } from './spec.js';

/** The shape of one sample. Throws as `imageSpec` and `maskSpec` do. */
export function imageDims(input: ImageInput, options: ImageParameters): number[] {
  if (!isMask(options)) return dimsOf(imageSpec(input, options));
  const { size, ...rest } = parametersOf(options);
  const [height, width] = planeOf(input, size);
  maskSpec(input, height, width, undefined, rest);
  return input.shape?.length === 4 ? [1, height, width] : [height, width];
}

/** The inputs of a recipe that images feed, with how. */
export type ImageInputs = ReadonlyMap<string, { column: string; spec: ImageSpec | MaskSpec }>;

/** Masks are brought to their size as the images of the recipe are. */
export function imageInputs({ inputs }: Recipe): ImageInputs {
  const found = inputs.flatMap(input => {
    const [only] = input.columns;
    const last = only!.steps.at(-1)!;
    return last.step === 'image' ? [{ input, column: only!.column, options: last.options }] : [];
  });
  const specOf = ({ input: name, dtype, dims }: InputRecipe, options: ImageParameters) =>
    imageSpec({ name, dtype, shape: [null, ...dims] }, options);
  const images = found.find(({ options }) => !isMask(options));
  const image = images && specOf(images.input, images.options);
  const specs = new Map<string, { column: string; spec: ImageSpec | MaskSpec }>();
  for (const { input, column, options } of found) {
    const { size: _, ...rest } = parametersOf(options);
    const [height, width] = input.dims.slice(-2) as [number, number];
    const spec = isMask(options)
      ? maskSpec({ name: input.input, shape: [null, ...input.dims] }, height, width, image, rest)
      : specOf(input, options);
    specs.set(input.input, { column, spec });
  }
  return specs;
}

/** One line on how images feed each input. */
export const describeImageInputs = (recipe: Recipe): string[] =>
  [...imageInputs(recipe)].flatMap(([input, { spec }]) =>
    'dtype' in spec ? [describeImages(input, spec)] : [],
  );

const isMask = ({ mask }: ImageParameters) => mask === true || mask === 'true';

/** Those of the mask alone. */
function parametersOf({ mask: _, ...rest }: ImageParameters): ImageParameters {
  return rest;
}

function planeOf({ name, shape }: ImageInput, size: unknown): [height: number, width: number] {
  const plane = [null, ...(shape?.slice(-2) ?? [null, null])];
  const { height, width } = imageSpec(
    { name, dtype: 'uint8', shape: plane },
    size === undefined ? {} : { size },
  );
  return [height, width];
}
