/** From records to arrays, as a recipe says; here and in the threads of the pool. */
import type { DType } from '../../graph/dtype.js';
import type { Tensor } from '../../graph/tensor.js';
import type { Augmentation } from '../../passes/recipe/augmentation.js';
import type { InputRecipe, Recipe } from '../../passes/recipe/recipe.js';
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
  /** Whether these windows stay within documents. */
  hasDocuments: boolean;
  /** The array that tells the documents of a row apart, where they are packed. */
  segments?: string;
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
    hasDocuments: used.some(({ windows }) => windows?.documents),
    segments: used.find(({ windows }) => windows?.documents?.segments)?.input,
    async encode(block, { source, firstRow, rows, pass }) {
      const encoded = others.length
        ? await applyRecipe(recipe, block, { inputs: others, source, firstRow })
        : new Map<string, Tensor>();
      if (!images.length) return encoded;
      const { encodeImages } = await import('./images/encode.js');
      const numbers = rows ?? Uint32Array.from({ length: block.rows }, (_, i) => firstRow - 1 + i);
      const names = images.map(({ input }) => input);
      const decoded = await encodeImages(recipe, block, names, { rows: numbers, augment, pass, source });
      for (const [name, array] of decoded) encoded.set(name, array);
      return encoded;
    },
  };
}

const lastStep = ({ columns }: InputRecipe) => columns.at(-1)!.steps.at(-1)!;
