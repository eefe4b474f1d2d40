import type { Model } from '../graph/ir.js';
import { type GradientOptions, gradientModel } from '../passes/differentiate.js';
import { readRecipe } from '../passes/recipe/read-recipe.js';
import type { BindOptions } from './data/bind.js';
import { type DataOptions, OpenedData } from './data/data.js';
import { DEFAULT_BATCH_SIZE } from './data/dataset.js';
import { fileOrder } from './data/order.js';
import { inputSpecs } from './input-specs.js';
import type { Feeds } from './session.js';
import { shapesOf } from './train/model-data.js';

export type GradientData = Pick<DataOptions, 'columns' | 'label' | 'recipe' | 'skipMissing'> & {
  /** The samples to take; 32 if not given, or as many as the model takes. */
  batchSize?: number;
  bind?: Omit<BindOptions, 'labels' | 'source'>;
};

/**
 * The first samples of files as `gradients` takes them: encoded by the recipe, and bound to the inputs of the model and the
 * target of the loss. `of` is the number of samples in the files. Throws as `openData` and `bindData` do.
 */
export async function gradientFeeds(
  model: Model,
  options: GradientOptions,
  paths: string | readonly string[],
  { batchSize, bind, ...how }: GradientData = {},
): Promise<{ feeds: Feeds; samples: number; of: number }> {
  const opened = new OpenedData();
  try {
    const { openData } = await import('./data/open.js');
    const data = opened.add(await openData(paths, how));
    data.use(await readRecipe(model));
    const about = { job: { bind, batchSize }, data, model, options: { loss: options.loss } };
    const { model: made, target, cotangents } = await gradientModel(model, options, await shapesOf(about));
    const given = new Set(cotangents.values());
    const inputs = inputSpecs({
      graph: made.graph,
      inputs: made.graph.inputs.filter(v => !given.has(v.name)),
    }).map(input =>
      target?.range && input.name === target.name ? { ...input, range: target.range } : input,
    );
    const dataset = await data.bind(inputs, { ...bind, labels: target ? [target.name] : [] });
    const samples = Math.min(
      dataset.batchSize({ batchSize: batchSize ?? dataset.fixedBatch ?? DEFAULT_BATCH_SIZE }),
      dataset.length,
    );
    const { inputs: feeds } = await dataset.take(fileOrder(0, samples));
    return { feeds, samples, of: dataset.length };
  } finally {
    await opened.close();
  }
}
