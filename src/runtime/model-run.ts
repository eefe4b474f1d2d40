/** What evaluating a model and predicting with it have in common: the model as it is to run, and its data. */
import { AgdError } from '../graph/errors.js';
import { loadModel } from '../graph/files.js';
import type { Model } from '../graph/ir.js';
import { checkState } from '../graph/state-file.js';
import type { Tensor } from '../graph/tensor.js';
import { readOriginal } from '../passes/file/embed-original.js';
import { isInjected, readDescription } from '../passes/file/step-metadata.js';
import { withAlgorithm } from '../passes/import/adopt-step.js';
import type { LossSpec } from '../passes/options.js';
import { readRecipe, withRecipe } from '../passes/recipe/recipe.js';
import { averagedModel } from '../passes/update/average-weights.js';
import type { BindOptions } from './data/bind.js';
import { Dataset } from './data/dataset.js';
import { areArrays, type Data, type DataOptions, dataOf, openData } from './data/open.js';
import type { SessionOptions } from './session.js';

/** Files by name, arrays by name, or data that are open or bound already. */
export type DataInput =
  | string
  | readonly string[]
  | Data
  | Dataset
  | ReadonlyMap<string, Tensor>
  | Readonly<Record<string, Tensor>>;

export type ModelRunOptions = SessionOptions &
  Pick<DataOptions, 'columns' | 'label'> & {
    batchSize?: number;
    bind?: Omit<BindOptions, 'labels' | 'source'>;
    /** Of an injected model the moving averages of the weights, not the weights. */
    ema?: boolean;
  };

/**
 * The data, and whether they were opened here and are to be closed. Columns of tables become inputs as the recipe of the
 * model says, if it has one and no columns are given.
 */
export async function asData(
  given: DataInput,
  model: Model,
  { columns, label }: Pick<DataOptions, 'columns' | 'label'> = {},
): Promise<{ data: Data; isOwn: boolean }> {
  if (typeof given === 'string' || Array.isArray(given)) {
    const recipe = columns || label !== undefined ? undefined : readRecipe(model);
    const isArrays = await areArrays(given as string | readonly string[]);
    const options = { columns, label, ...(isArrays ? {} : { recipe }) };
    return { data: await openData(given as string | readonly string[], options), isOwn: true };
  }
  if (given instanceof Dataset) {
    const same = async () => given;
    const data: Data = {
      ...{ name: 'the data', recipe: undefined, use() {}, bind: same, preview: same },
      ...{ validation: async () => undefined, fingerprint: async () => 0, close: async () => {} },
    };
    return { data, isOwn: false };
  }
  if (typeof (given as Data).bind === 'function') {
    (given as Data).use(readRecipe(model));
    return { data: given as Data, isOwn: false };
  }
  const arrays = given instanceof Map ? given : new Map(Object.entries(given as Record<string, Tensor>));
  return { data: dataOf(arrays, 'the data'), isOwn: false };
}

/** A model in the form that it has without its training step, with the values of its state. */
export type PlainModel = {
  model: Model;
  /** Of an injected model what it was trained on. */
  loss?: LossSpec & { output: string };
  /** The outputs that the model had before it computed a loss. */
  outputs: readonly string[];
};

/** Throws `bad-option` for averages of a model that has none, and as `loadModel` does. */
export async function plainModel(source: Model | string, ema = false): Promise<PlainModel> {
  const model = typeof source === 'string' ? await loadModel(source) : source;
  if (typeof source === 'string') await checkState(model, source);
  if (!isInjected(model)) {
    if (ema) throw new AgdError('bad-option', 'Only a training state keeps an average of the weights.');
    return { model, outputs: model.graph.outputs.map(v => v.name) };
  }
  const { loss, outputs } = readDescription(model);
  const { name: _, ...spec } = loss;
  return {
    model: withRecipe(withAlgorithm(readOriginal(ema ? averagedModel(model) : model)), readRecipe(model)),
    loss: spec as LossSpec & { output: string },
    outputs,
  };
}
