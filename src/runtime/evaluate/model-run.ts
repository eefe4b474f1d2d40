/** What evaluating a model and predicting with it have in common: the model as it is to run, and its data. */
import { cloneModel } from '../../graph/clone.js';
import { AgdError } from '../../graph/errors.js';
import type { Model } from '../../graph/ir.js';
import { openModel } from '../../graph/open-model.js';
import { checkState } from '../../graph/state-file.js';
import { LOSS_NAMES, type LossKind } from '../../ops/losses/index.js';
import { readOriginal } from '../../passes/file/embed-original.js';
import { isInjected, readDescription } from '../../passes/file/step-metadata.js';
import { withAlgorithm } from '../../passes/import/own-step.js';
import type { LossSpec } from '../../passes/options.js';
import { readRecipe } from '../../passes/recipe/read-recipe.js';
import { isOfArrays, type Recipe, withRecipe } from '../../passes/recipe/recipe.js';
import { averagedModel } from '../../passes/update/average-weights.js';
import type { BindOptions } from '../data/bind.js';
import type { Data, DataOptions } from '../data/data.js';
import type { Batch, Dataset } from '../data/dataset.js';
import { arePaths, dataFrom, type FitData } from '../data/from-values.js';
import type { SessionOptions } from '../session.js';

export type ModelRunOptions = SessionOptions &
  Pick<DataOptions, 'columns' | 'label' | 'recipe' | 'skipMissing'> & {
    batchSize?: number;
    bind?: Omit<BindOptions, 'labels' | 'source'>;
    /** Of an injected model the moving averages of the weights, not the weights. */
    ema?: boolean;
    /** Called after each batch, with the samples done and those of the data. */
    onProgress?: (done: number, all: number) => void;
  };

/** The data. Columns of tables become inputs as the recipe of the model says, if it has one and no columns are given. */
export async function dataFor(
  given: FitData,
  model: Model,
  {
    columns,
    label,
    skipMissing,
    bind,
  }: Pick<ModelRunOptions, 'columns' | 'label' | 'skipMissing' | 'bind'> = {},
): Promise<Data> {
  const recipe = columns || label !== undefined ? undefined : await readRecipe(model);
  // Arrays feed the inputs of their names, unless arrays were trained on. How columns are read depends on the recipe.
  const isKnown = recipe && isOfArrays(recipe) && !bind?.map;
  const areArrays = async (paths: string | readonly string[]) =>
    (await import('../data/open.js')).areArrays(paths);
  const isTable = recipe && arePaths(given) && (isKnown || !(await areArrays(given)));
  const data = await dataFrom(given, undefined, {
    columns,
    label,
    skipMissing,
    ...(isTable ? { recipe } : {}),
  });
  data.use(recipe);
  return data;
}

/** The batches in the order of the data, none left out. */
export async function* watchedBatches(
  dataset: Dataset,
  { batchSize, onProgress }: Pick<ModelRunOptions, 'batchSize' | 'onProgress'>,
): AsyncGenerator<Batch> {
  let done = 0;
  for await (const batch of dataset.batches({ batchSize, pad: true })) {
    yield batch;
    done += batch.size;
    onProgress?.(done, dataset.length);
  }
}

/** A model in the form that it has without its training step, with the values of its state. */
export type PlainModel = {
  model: Model;
  /** Of an injected model, or one that has a recipe, what it was trained on. */
  loss?: LossSpec & { output: string };
  /** The outputs that the model had before it computed a loss. */
  outputs: readonly string[];
  /** Whether it was trained with a head that reads all tokens, where that of the file reads the last only. */
  allPositions?: boolean;
  /** Whether it was taken out of an injected one. */
  isInjected?: true;
};

/** A model whose inputs are those without a default: data do not feed the adapters of a file, or weights of an old one. */
function withDefaults(model: Model): Model {
  const { initializers } = model.graph;
  if (!model.graph.inputs.some(v => initializers.has(v))) return model;
  const copy = cloneModel(model);
  copy.graph.inputs = copy.graph.inputs.filter(v => !copy.graph.initializers.has(v));
  return copy;
}

/** What a trained model was trained on, as its recipe says. */
async function lossOf(model: Model): Promise<PlainModel['loss']> {
  const recipe = await readRecipe(model);
  const { loss: kind, output } = recipe?.scores ?? {};
  if (output === undefined || !LOSS_NAMES.some(name => name === kind)) return undefined;
  const padded = recipe!.inputs.find(({ input }) => input === recipe!.target)?.windows?.documents;
  return {
    kind: kind as LossKind,
    output,
    ...(padded ? { ignoreIndex: padded.fill } : {}),
  } as PlainModel['loss'];
}

/**
 * With another recipe than its own where one is given. Throws `bad-option` for averages of a model that has none, and as
 * `openModel` does.
 */
export async function plainModel(
  source: Model | string,
  { ema, recipe }: { ema?: boolean; recipe?: Recipe } = {},
): Promise<PlainModel> {
  const model = typeof source === 'string' ? await openModel(source) : source;
  if (typeof source === 'string') await checkState(model, source);
  if (!isInjected(model)) {
    if (ema) throw new AgdError('bad-option', 'Only a training state keeps an average of the weights.');
    const plain = withRecipe(withDefaults(model), recipe);
    const loss = await lossOf(plain);
    return { model: plain, ...(loss ? { loss } : {}), outputs: model.graph.outputs.map(v => v.name) };
  }
  const { loss, outputs, allPositions } = readDescription(model);
  const { name: _, ...spec } = loss;
  return {
    model: withRecipe(
      withAlgorithm(readOriginal(ema ? averagedModel(model) : model)),
      recipe ?? (await readRecipe(model)),
    ),
    loss: spec as LossSpec & { output: string },
    outputs,
    allPositions,
    isInjected: true,
  };
}
