/**
 * The recipe: how columns of raw records become the arrays that feed a model, with all that was fitted on training data
 * (means, tables of categories, class names). Plain JSON, kept in the metadata of states and exported models.
 */
import type { DType } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import { Model } from '../../graph/ir.js';
import { checkRecipe } from './check-recipe.js';
import type { ColumnKind, DatePart } from './names.js';

export type { ColumnKind, DatePart };

/** What becomes of a value that the table does not have, or of a missing one: zeros, a column of its own, an error. */
export type Otherwise = 'zeros' | 'column' | 'error';

/** A step on one number per row; NaN is a missing value. */
export type NumberStep =
  | { step: 'none' }
  | { step: 'log1p' }
  | { step: 'standardize'; mean: number; std: number }
  | { step: 'min-max'; min: number; max: number }
  /** `indicator`: a further column after the values has 1 where the value was missing, else 0. */
  | { step: 'fill'; with: number; indicator?: boolean };

/**
 * The last step of a column, which makes numbers of what is not one, or several of one value. Tables hold values as text,
 * in order; the number of a value is its position. Widths are in the column.
 */
export type FinalStep =
  | { step: 'one-hot'; table: string[]; unknown: Otherwise; missing: Otherwise }
  /** `null`: such a value is an error. */
  | { step: 'id'; table: string[]; start: number; unknown: number | null; missing: number | null }
  /** MurmurHash3 (32 bits, seed 0) of the text in UTF-8, modulo `buckets`. */
  | { step: 'hash'; buckets: number }
  /** In UTC. `cyclic`: sine and cosine instead of the number, but for years and days since 1970. */
  | { step: 'date'; parts: DatePart[]; cyclic: boolean }
  /** A class, by its position in `names`. */
  | { step: 'class'; names: string[] }
  /** Tokens of a Hugging Face tokenizer, which the recipe holds under this name; `output`: which of its arrays. */
  | {
      step: 'tokens';
      tokenizer: string;
      length: number | null;
      pad: number;
      output: 'ids' | 'mask' | 'types';
    }
  | { step: 'characters'; table: string[]; length: number | null; unknown: number; pad: number }
  | { step: 'bytes'; length: number | null; pad: number }
  /** A list of values: 1 for each that is in it, else 0. */
  | { step: 'multi-hot'; table: string[] }
  /** A list of values by their positions in the table, or, without one, of numbers: cut or padded to a length. */
  | { step: 'list'; table: string[] | null; length: number; unknown: number; pad: number }
  | { step: 'image'; options: Record<string, string | number | boolean> }
  | { step: 'tensor' };

/** A text in place of a missing one, before a table. */
export type FillText = { step: 'fill-text'; with: string };

export type Step = NumberStep | FillText | FinalStep;

/** `width`: how many numbers the column gives per row. */
export type ColumnRecipe = { column: string; kind: ColumnKind; width: number; steps: Step[] };

/**
 * What feeds one input of the model, as `dtype`: its columns side by side, a row's numbers in shape `dims`. With `windows`,
 * the texts of a block are joined by line breaks and encoded as one; the rows are then windows of `length` tokens, which
 * start every `stride` tokens, `shift` tokens on.
 */
export type InputRecipe = {
  input: string;
  dtype: DType;
  dims: number[];
  columns: ColumnRecipe[];
  windows?: { length: number; stride: number; shift: 0 | 1 };
};

/**
 * Where the scores of the target's classes are: the value that the loss reads, the axis of its classes, the last one if not
 * given, and, for one score that says yes or no, the number above which it says yes.
 */
export type Scores = { output: string; loss?: string; classAxis?: number; threshold?: number };

export type Recipe = {
  version: 1;
  inputs: InputRecipe[];
  /** Of a trained model. */
  scores?: Scores;
  /** The input that takes the target, if the recipe feeds it. */
  target?: string;
  /** Contents of tokenizer.json files, by name. */
  tokenizers?: Record<string, unknown>;
};

export const isNumberStep = (step: Step): step is NumberStep =>
  ['none', 'log1p', 'standardize', 'min-max', 'fill'].includes(step.step);

/** The entry of a model's metadata that holds its recipe as JSON. */
export const RECIPE_KEY = 'agd.recipe';

/** The recipe that a model carries. Throws `invalid-model` where it is damaged. */
export function readRecipe({ metadata }: Model): Recipe | undefined {
  const text = metadata.get(RECIPE_KEY);
  return text === undefined
    ? undefined
    : parseRecipe(text, `The metadata entry '${RECIPE_KEY}'`, 'invalid-model');
}

/** The model with a recipe in its metadata; graph and tensors are shared. */
export function withRecipe(model: Model, recipe: Recipe | undefined): Model {
  if (!recipe) return model;
  const metadata = new Map(model.metadata).set(RECIPE_KEY, JSON.stringify(recipe));
  return Object.assign(new Model(model.graph), model, { metadata });
}

/** The model without a recipe: it takes raw columns itself. */
export function withoutRecipe(model: Model): Model {
  const metadata = new Map(model.metadata);
  metadata.delete(RECIPE_KEY);
  return Object.assign(new Model(model.graph), model, { metadata });
}

/** Throws an error of this code where the text is not a recipe; `what` begins its sentence. */
export function parseRecipe(
  text: string,
  what: string,
  code: 'invalid-model' | 'bad-data' = 'bad-data',
): Recipe {
  let recipe: unknown;
  try {
    recipe = JSON.parse(text);
  } catch {
    throw new AgdError(code, `${what} is not JSON: it is damaged.`);
  }
  const { version } = (recipe ?? {}) as { version?: unknown };
  if (typeof version === 'number' && version !== 1)
    throw new AgdError(
      'unsupported-version',
      `${what} is a recipe of version ${version}; this release reads version 1.`,
    );
  const wrong = checkRecipe(recipe);
  if (wrong !== undefined) throw new AgdError(code, `${what} is not a valid recipe: ${wrong}.`);
  return recipe as Recipe;
}

/** The names of the target's classes, or of the labels of a multi-label target, if the recipe has them. */
export function classNames(recipe: Recipe): readonly string[] | undefined {
  const last = targetColumn(recipe)?.steps.at(-1);
  if (last?.step === 'class') return last.names;
  return last?.step === 'multi-hot' || last?.step === 'one-hot' ? last.table : undefined;
}

/** The only column of the target. */
export function targetColumn({ inputs, target }: Recipe): ColumnRecipe | undefined {
  const columns = inputs.find(({ input }) => input === target)?.columns;
  return columns?.length === 1 ? columns[0] : undefined;
}
