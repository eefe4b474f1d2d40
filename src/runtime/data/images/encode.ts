import { Tensor } from '../../../graph/tensor.js';
import type { Augmentation } from '../../../passes/recipe/augmentation.js';
import type { Recipe } from '../../../passes/recipe/recipe.js';
import { convert } from '../convert.js';
import type { Pass } from '../samples.js';
import type { Block } from '../source.js';
import type { EncodedImage } from './decode.js';
import { dimsOf } from './normalize.js';
import { imageInputs } from './recipe.js';
import { loadImages } from './worker.js';

/** `rows` are the numbers of the records in the data; `source` names the data in errors. */
export type EncodeOptions = {
  rows: Uint32Array;
  augment?: readonly Augmentation[];
  pass?: Pass;
  source?: string;
};

/** The arrays of those inputs, of the ones given or all, that images or masks feed, by input name. Throws as `loadImages`. */
export async function encodeImages(
  recipe: Recipe,
  block: Block,
  inputs: readonly string[] | undefined,
  { rows, ...options }: EncodeOptions,
): Promise<Map<string, Tensor>> {
  const out = new Map<string, Tensor>();
  for (const [input, { column, spec }] of imageInputs(recipe)) {
    if (inputs && !inputs.includes(input)) continue;
    const images = block.values.get(column) as readonly (EncodedImage | null)[];
    const data = await loadImages({ images, rows: Array.from(rows), spec, ...options });
    const array = Tensor.from('dtype' in spec ? spec.dtype : 'uint8', [block.rows, ...dimsOf(spec)], data);
    const { dtype, dims } = recipe.inputs.find(one => one.input === input)!;
    const shaped = new Tensor(array.dtype, [block.rows, ...dims], array.bytes);
    out.set(input, dtype === array.dtype ? shaped : convert(shaped, dtype));
  }
  return out;
}
