import { Tensor } from '../../../graph/tensor.js';
import type { Recipe } from '../../../passes/recipe/recipe.js';
import { takeRows } from '../convert.js';
import { applyRecipe, columnsOf } from '../recipe/apply-recipe.js';
import type { Pass, Samples } from '../samples.js';
import type { Source } from '../source.js';
import type { Augmentation } from './augmentation.js';
import type { EncodedImage } from './decode.js';
import type { MaskSpec } from './mask.js';
import { dimsOf } from './normalize.js';
import { imageInputs } from './recipe.js';
import type { ImageSpec } from './spec.js';
import { type ImageTask, loadImages } from './worker.js';

/**
 * The samples of a source by a recipe with images: their paths, and the arrays of the other inputs, are read at once, the images
 * when they are taken. Throws as `applyRecipe` does.
 */
export async function openImageSamples(
  source: Source,
  recipe: Recipe,
  options: Omit<ImageSamplesOptions, 'source'> & { inputs?: readonly string[] } = {},
): Promise<ImageSamples> {
  const wanted = recipe.inputs
    .map(({ input }) => input)
    .filter(input => options.inputs?.includes(input) ?? true);
  const images = [...imageInputs(recipe)].filter(([input]) => wanted.includes(input));
  const inputs = wanted.filter(input => !images.some(([name]) => name === input));
  const columns = images.map(([array, { spec }]) => ({ array, spec, images: [] as (EncodedImage | null)[] }));
  const blocks: Map<string, Tensor>[] = [];
  let firstRow = 1;
  for (const [i, rows] of source.blocks.entries()) {
    const block = await source.read(i, columnsOf(recipe, wanted));
    for (const [j, [, { column }]] of images.entries())
      columns[j]!.images.push(...(block.values.get(column) as (EncodedImage | null)[]));
    blocks.push(await applyRecipe(recipe, block, { inputs, source: source.name, firstRow }));
    firstRow += rows;
  }
  const others = new Map(inputs.map(input => [input, joined(blocks.map(block => block.get(input)!))]));
  return new ImageSamples(columns, others, { ...options, source: source.name });
}

function joined(parts: readonly Tensor[]): Tensor {
  const [{ dtype, dims }] = parts as [Tensor];
  const rows = parts.reduce((n, part) => n + part.dims[0]!, 0);
  return new Tensor(dtype, [rows, ...dims.slice(1)], Buffer.concat(parts.map(part => part.bytes)));
}

/** The images, or masks, of all samples, and the array that they become. */
export type ImageColumn = {
  array: string;
  spec: ImageSpec | MaskSpec;
  images: readonly (EncodedImage | null)[];
};

/** Does a task, in another thread where there are some. */
export type LoadImages = (task: ImageTask) => Promise<Float32Array | Uint8Array>;

export type ImageSamplesOptions = {
  augment?: readonly Augmentation[];
  load?: LoadImages;
  /** Where the images are from, for messages. */
  source?: string;
};

/** Images that a thread is given at a time: few enough for several threads to share a batch. */
const TASK = 8;

/** Samples whose images are decoded when they are taken; their other arrays are in memory. */
export class ImageSamples implements Samples {
  readonly length: number;
  readonly arrays: Samples['arrays'];

  /** `others` has the other arrays by name, rows first, as many as each column has images. */
  constructor(
    private readonly columns: readonly ImageColumn[],
    private readonly others: ReadonlyMap<string, Tensor> = new Map(),
    private readonly options: ImageSamplesOptions = {},
  ) {
    this.length = columns[0]!.images.length;
    const row = ({ dtype, dims }: Tensor) => ({ dtype, dims: dims.slice(1) });
    this.arrays = new Map([
      ...columns.map(({ array, spec }) => [array, { dtype: dtypeOf(spec), dims: dimsOf(spec) }] as const),
      ...[...others].map(([name, tensor]) => [name, row(tensor)] as const),
    ]);
  }

  async take(rows: Uint32Array, pass?: Pass): Promise<Map<string, Tensor>> {
    const images = await Promise.all(this.columns.map(column => this.#load(column, rows, pass)));
    const others = [...this.others].map(([name, tensor]): [string, Tensor] => {
      const { dtype, dims } = tensor;
      return [name, takeRows(tensor, rows, dtype, [rows.length, ...dims.slice(1)], 1)];
    });
    return new Map([...images, ...others]);
  }

  async #load(
    { array, spec, images }: ImageColumn,
    rows: Uint32Array,
    pass?: Pass,
  ): Promise<[string, Tensor]> {
    const { augment, load = loadImages, source } = this.options;
    const dims = [rows.length, ...dimsOf(spec)];
    const parts = Array.from({ length: Math.ceil(rows.length / TASK) }, (_, i) => [
      ...rows.subarray(i * TASK, (i + 1) * TASK),
    ]);
    const loaded = await Promise.all(
      parts.map(part =>
        load({ images: part.map(row => images[row]!), rows: part, spec, augment, pass, source }),
      ),
    );
    const out = new Uint8Array(loaded.reduce((n, part) => n + part.byteLength, 0));
    let at = 0;
    for (const part of loaded) {
      out.set(new Uint8Array(part.buffer, part.byteOffset, part.byteLength), at);
      at += part.byteLength;
    }
    return [array, new Tensor(dtypeOf(spec), dims, out)];
  }
}

const dtypeOf = (spec: ImageSpec | MaskSpec) => ('dtype' in spec ? spec.dtype : 'uint8');
