import { equalBytes } from '../graph/bytes.js';
import { withInitializers } from '../graph/clone.js';
import { AgdError } from '../graph/errors.js';
import { saveModel } from '../graph/files.js';
import type { Model } from '../graph/ir.js';
import { openModel } from '../graph/open-model.js';
import { writePatched } from '../graph/patch-file.js';
import { withEntry } from '../graph/patch-metadata.js';
import type { Tensor } from '../graph/tensor.js';
import { takesClasses } from '../ops/losses/index.js';
import { adaptedWeights, adapterNames } from '../passes/adapters/adapter-names.js';
import { partOfModel } from '../passes/common/part-of-model.js';
import { asStored, readOriginal, type TrainedFile, trainedFile } from '../passes/file/embed-original.js';
import { readDescription, readStep } from '../passes/file/step-metadata.js';
import { roundedNames } from '../passes/quantize/quantization-record.js';
import { readRecipe } from '../passes/recipe/read-recipe.js';
import { classNames, RECIPE_KEY, type Recipe, withRecipe } from '../passes/recipe/recipe.js';
import { averagedModel } from '../passes/update/average-weights.js';
import { writeSafetensors } from './data/safetensors.js';
import { toPytorch } from './formats/pytorch-state.js';

/** What is written beside the trained numbers. */
export type ExportOptions = {
  /** The moving averages of the weights in their place. */
  ema?: boolean;
  /** How raw data become inputs; that of the injected model where not given. */
  recipe?: Recipe;
  /** Adapters stay apart, as inputs with a default, where they would be merged into floating-point weights. */
  adaptersOnly?: boolean;
  /** The recipe becomes a part of the graph, which then takes raw columns: see `bakePreprocessing`. */
  bakePreprocessing?: boolean;
};

/**
 * Writes the original model with the injected model's current values to `path`: byte for byte the original file
 * but for the trained numbers, and the recipe in its metadata, if there is one. Where the original kept its tensors in files of their own, they go into one beside `path`,
 * whose name the model then has. Of a model that computed its gradients itself, only the part for its other outputs is
 * written, if it has any. With `ema`, the moving averages of the weights take their place; throws `bad-option` where the
 * model keeps none. Throws `invalid-model` where a trained tensor is not found in the file as written.
 */
export async function exportFile(injected: Model, path: string, options: ExportOptions = {}): Promise<void> {
  const { ema = false } = options;
  const recipe = withScores(options.recipe ?? (await readRecipe(injected)), injected);
  const trained = ema ? averagedModel(injected) : injected;
  const { exports, parameters, statistics } = readStep(injected);
  const names = [...parameters.map(p => p.name), ...statistics];
  const rounded = roundedNames(injected);
  if (exports?.length || options.bakePreprocessing || adapterNames(injected).size || rounded.size) {
    const values = new Map([...trained.graph.initializers].map(([value, tensor]) => [value.name, tensor]));
    const weights = options.adaptersOnly ? new Set() : adaptedWeights(injected);
    const learned = new Map(
      names.flatMap(name =>
        weights.has(name) || rounded.has(name) ? [] : [[name, values.get(name)!] as const],
      ),
    );
    return saveTrained(await trainedModel(injected, options), path, learned);
  }
  const { bytes: original, tensors, placeOf } = placesFor(names, trained);
  const bytes = recipe ? withEntry(original, RECIPE_KEY, JSON.stringify(recipe)) : original;
  await writePatched(bytes, path, tensors, new Set(names.map(name => placeOf.get(name)!)));
}

/** Writes a model with a recipe: in its metadata, or in its graph. Throws `bad-option` where there is no recipe. */
export async function exportPlain(
  model: Model,
  path: string,
  recipe: Recipe | undefined,
  isBaked = false,
): Promise<void> {
  const known = neededRecipe(recipe);
  const { bakePreprocessing } = await import('../passes/on-demand.js');
  await saveModel(isBaked ? bakePreprocessing(model, known) : withRecipe(model, known), path);
}

/** Throws `bad-option` where there is no recipe. */
export function neededRecipe(recipe: Recipe | undefined): Recipe {
  if (recipe) return recipe;
  throw new AgdError(
    'bad-option',
    'There is no recipe: the model was not trained on columns of a table. --recipe FILE gives one.',
  );
}

/** The recipe that says, too, which value of the trained model the loss reads, and where its classes are. */
function withScores(recipe: Recipe | undefined, injected: Model): Recipe | undefined {
  const spec = readDescription(injected).loss;
  const { kind: loss, output } = spec;
  const isBinary = loss === 'bce' || loss === 'bce-with-logits';
  if (!recipe || spec.kind === 'output') return recipe;
  if (isBinary) return { ...recipe, scores: { output, loss, threshold: loss === 'bce' ? 0.5 : 0 } };
  if (!takesClasses(spec.kind)) return classNames(recipe) ? recipe : { ...recipe, scores: { output, loss } };
  const rank = injected.graph.outputs.find(v => v.name === output)?.shape?.length ?? 2;
  return { ...recipe, scores: { output, loss, classAxis: spec.classAxis ?? (rank >= 4 ? 1 : -1) } };
}

/** What `exportFile` writes, as a model in memory. Throws as it does. */
export async function trainedModel(injected: Model, options: ExportOptions = {}): Promise<Model> {
  const recipe = withScores(options.recipe ?? (await readRecipe(injected)), injected);
  const original = readOriginal(options.ema ? averagedModel(injected) : injected);
  const { exports } = readStep(injected);
  const part = exports?.length ? partOfModel(original, exports) : original;
  const isPlain = !adapterNames(part).size && !roundedNames(part).size;
  const stored = isPlain ? part : await withoutTraining(part, options);
  if (!options.bakePreprocessing) return withRecipe(stored, recipe);
  const { bakePreprocessing } = await import('../passes/on-demand.js');
  return bakePreprocessing(stored, neededRecipe(recipe));
}

/** The model without what only training needs: adapters apart from weights, and weights that are rounded in each step. */
async function withoutTraining(model: Model, { adaptersOnly }: ExportOptions): Promise<Model> {
  const { mergeAdapters, storeIntegers, withAdapterInputs } = await import('../passes/on-demand.js');
  return storeIntegers(adaptersOnly ? withAdapterInputs(model) : mergeAdapters(model).model);
}

/** The original file of a model, in which each of these tensors has a place. Throws `invalid-model`. */
function placesFor(names: readonly string[], trained: Model): TrainedFile {
  const file = trainedFile(trained);
  const lost = names.find(name => !file.placeOf.has(name));
  if (lost === undefined) return file;
  throw new AgdError(
    'invalid-model',
    `The original file has no tensor for the trained values of '${lost}': inject the original model again.`,
  );
}

/** Throws `invalid-model`, `bad-option` and `unsupported-op` where `exportFile` would: better before a run than after it. */
export async function checkExport(
  injected: Model,
  { recipe, ...options }: ExportOptions = {},
): Promise<void> {
  if (options.bakePreprocessing) {
    const known = neededRecipe(withScores(recipe ?? (await readRecipe(injected)), injected));
    const { bakePreprocessing } = await import('../passes/on-demand.js');
    bakePreprocessing(readOriginal(injected), known);
  }
  const { exports, parameters, statistics } = readStep(injected);
  if (exports?.length) partOfModel(readOriginal(injected), exports);
  else placesFor([...parameters.map(p => p.name), ...statistics], injected);
  if (roundedNames(injected).size) await trainedModel(injected, { ...options, recipe });
}

/** Saves a model that has these values. Throws `invalid-model` where one of them is not in the file as written. */
export async function saveTrained(
  model: Model,
  path: string,
  values: ReadonlyMap<string, Tensor>,
): Promise<void> {
  const wanted = [...model.graph.initializers.keys()].filter(v => values.has(v.name)).map(v => v.name);
  await saveModel(model, path);
  const { initializers } = (await openModel(path)).graph;
  const found = new Map([...initializers].map(([value, tensor]) => [value.name, tensor]));
  for (const name of wanted) {
    const written = found.get(name);
    if (!written || !equalBytes(written.bytes, asStored(values.get(name)!, written.dtype).bytes))
      throw new AgdError('invalid-model', `${path} does not have the trained values of '${name}'.`);
  }
}

/**
 * An injected model with other values for its parameters, and for what else of its state `values` has. Throws
 * `no-such-value` where a parameter is missing, `bad-shape` or `bad-dtype` where one is of another type.
 */
export function withParameters(injected: Model, values: ReadonlyMap<string, Tensor>): Model {
  const names = readStep(injected).parameters.map(p => p.name);
  const missing = names.find(name => !values.has(name));
  if (missing !== undefined)
    throw new AgdError(
      'no-such-value',
      `There is no value for parameter '${missing}' in the file of parameters.`,
    );
  for (const [{ name }, { dtype, dims }] of injected.graph.initializers) {
    const given = values.get(name);
    if (given && given.dtype !== dtype)
      throw new AgdError('bad-dtype', `The value for '${name}' is ${given.dtype}, not ${dtype}.`);
    if (given && `${given.dims}` !== `${dims}`)
      throw new AgdError('bad-shape', `The value for '${name}' has shape [${given.dims}], not [${dims}].`);
  }
  return withInitializers(injected, name => values.get(name));
}

/** Writes an injected model's state as .safetensors in PyTorch's terms; see `pytorch-state.ts` for the names. */
export async function exportPytorchState(injected: Model, path: string): Promise<void> {
  const state = new Map([...injected.graph.initializers].map(([v, tensor]) => [v.name, tensor]));
  await writeSafetensors(path, toPytorch(readStep(injected), state));
}
