/** From records to arrays, as a recipe says; here and in the threads of the pool. */
import type { DType } from '../../graph/dtype.js';
import { Tensor } from '../../graph/tensor.js';
import type { InputRecipe, Recipe } from '../../passes/recipe/recipe.js';
import { convert } from './convert.js';
import type { Augmentation } from './images/augmentation.js';
import { applyRecipe, columnsOf, hasWindows } from './recipe/apply-recipe.js';
import type { Pass } from './samples.js';
import type { Block } from './source.js';

/** All that a thread needs to know. Plain data. */
export type EncodingSpec = {
  recipe: Recipe;
  /** The inputs to make arrays for; all of the recipe if not given. */
  inputs?: readonly string[];
  /** What is done to images in training. */
  augment?: readonly Augmentation[];
};

export type Encoding = {
  /** Element type, and shape of one sample, by input name. */
  arrays: ReadonlyMap<string, { dtype: DType; dims: readonly number[] }>;
  /** The fields of the records that it reads. */
  fields: readonly string[];
  /** Whether a sample is another one in each pass. */
  isRandom: boolean;
  /** Whether files are decoded. */
  isSlow: boolean;
  /** Whether samples are windows over the text of a block. */
  isWindowed: boolean;
  /** `rows` are the numbers of the records; `firstRow` that of the first where they follow one another. */
  encode(
    block: Block,
    place: { source: string; firstRow: number; rows?: Uint32Array; pass?: Pass },
  ): Promise<Map<string, Tensor>>;
};

export function makeEncoding({ recipe, inputs, augment = [] }: EncodingSpec): Encoding {
  const used = recipe.inputs.filter(({ input }) => !inputs || inputs.includes(input));
  const images = used.filter(input => lastStep(input).step === 'image');
  const others = used.filter(input => !images.includes(input)).map(({ input }) => input);
  return {
    arrays: new Map(used.map(({ input, dtype, dims }) => [input, { dtype, dims }])),
    fields: columnsOf(recipe, inputs),
    isRandom: images.length > 0 && augment.length > 0,
    isSlow: images.length > 0,
    isWindowed: hasWindows(recipe),
    async encode(block, { source, firstRow, rows, pass }) {
      const encoded = others.length
        ? await applyRecipe(recipe, block, { inputs: others, source, firstRow })
        : new Map<string, Tensor>();
      const numbers = rows ?? Uint32Array.from({ length: block.rows }, (_, i) => firstRow - 1 + i);
      for (const [name, array] of await encodeImages(images, block, numbers, augment, pass))
        encoded.set(name, array);
      return encoded;
    },
  };
}

const lastStep = ({ columns }: InputRecipe) => columns.at(-1)!.steps.at(-1)!;

type Images = readonly (string | Uint8Array)[];

/** Images, and masks of them, which are turned and cropped alike. */
async function encodeImages(
  inputs: readonly InputRecipe[],
  block: Block,
  rows: Uint32Array,
  augment: readonly Augmentation[],
  pass: Pass | undefined,
): Promise<Map<string, Tensor>> {
  const out = new Map<string, Tensor>();
  if (!inputs.length) return out;
  const { imageSpec } = await import('./images/spec.js');
  const { maskSpec } = await import('./images/mask.js');
  const { loadImages } = await import('./images/worker.js');
  const optionsOf = (input: InputRecipe) => {
    const step = lastStep(input);
    return step.step === 'image' ? step.options : {};
  };
  const given = ({ input, dtype, dims }: InputRecipe) => ({ name: input, dtype, shape: [null, ...dims] });
  const files = ({ columns }: InputRecipe) => block.values.get(columns[0]!.column) as Images;
  const masked = inputs.find(input => 'mask' in optionsOf(input));
  for (const [i, input] of inputs.filter(one => one !== masked).entries()) {
    const spec = imageSpec(given(input), optionsOf(input));
    const task = { images: files(input), rows: Array.from(rows), spec, augment, pass };
    const { mask: _, ...maskOptions } = masked ? optionsOf(masked) : {};
    const mask = masked && i === 0 ? maskSpec(given(masked), spec, maskOptions) : undefined;
    const loaded = await loadImages({ ...task, ...(mask ? { mask, masks: files(masked!) } : {}) });
    const size = [block.rows, ...input.dims];
    out.set(input.input, as(input.dtype, Tensor.from(spec.dtype, size, loaded.images)));
    if (loaded.masks) {
      const array = Tensor.from('uint8', [block.rows, ...masked!.dims], loaded.masks);
      out.set(masked!.input, as(masked!.dtype, array));
    }
  }
  return out;
}

const as = (dtype: DType, array: Tensor) => (array.dtype === dtype ? array : convert(array, dtype));
