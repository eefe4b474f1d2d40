/**
 * The recipe: how columns of raw records become the arrays that feed a model, with everything fitted on training data
 * (means, tables of categories, class names). Plain JSON, stored in the metadata of states and exported models.
 */
import type { DType } from '../../graph/dtype.js';
import { Model } from '../../graph/ir.js';
import type { ColumnKind, DatePart } from './names.js';

export type { ColumnKind, DatePart };

/** The treatment of missing values and of values that are not in the table: zeros, a separate column, or an error. */
export type Otherwise = 'zeros' | 'column' | 'error';

/** A step on one number per row. NaN is a missing value. */
export type NumberStep =
  | { step: 'none' }
  | { step: 'log1p' }
  | { step: 'standardize'; mean: number; std: number }
  | { step: 'min-max'; min: number; max: number }
  /** `except`: a label that is ignored, which stays. */
  | { step: 'subtract'; by: number; except?: number }
  /** `indicator`: an additional column after the values is 1 where the value was missing, and 0 elsewhere. */
  | { step: 'fill'; with: number; indicator?: boolean };

/**
 * The last step of a column, which converts a value to one or more numbers. Tables list values as text; a value's
 * number is its position. Widths are stored in the column.
 */
export type FinalStep =
  | { step: 'one-hot'; table: string[]; unknown: Otherwise; missing: Otherwise }
  /** `null`: such a value is an error. */
  | { step: 'id'; table: string[]; start: number; unknown: number | null; missing: number | null }
  /** MurmurHash3 (32 bits, seed 0) of the text in UTF-8, modulo `buckets`. */
  | { step: 'hash'; buckets: number }
  /** In UTC. `cyclic`: sine and cosine instead of the number, except for years and days since 1970. */
  | { step: 'date'; parts: DatePart[]; cyclic: boolean }
  /** A class, by its position in `names`; `other` is the class of all values that are not among the names. */
  | { step: 'class'; names: string[]; other?: number }
  /**
   * Tokens of a Hugging Face tokenizer, which the recipe stores under this name. `output` selects one of its arrays.
   */
  | {
      step: 'tokens';
      tokenizer: string;
      length: number | null;
      pad: number;
      output: 'ids' | 'mask' | 'types';
    }
  | ChatStep
  | { step: 'characters'; table: string[]; length: number | null; unknown: number; pad: number }
  | { step: 'bytes'; length: number | null; pad: number }
  /** A list of values: 1 for each entry of the table that is in it, otherwise 0. */
  | { step: 'multi-hot'; table: string[] }
  /**
   * A list of values by their positions in the table or, without a table, of numbers; truncated or padded to a length.
   * `pad` null: a list of another length is an error.
   */
  | { step: 'list'; table: string[] | null; length: number; unknown: number; pad: number | null }
  | { step: 'image'; options: Record<string, string | number | boolean> }
  | { step: 'tensor' };

/**
 * Conversations, written by a model's chat template with its special tokens by name, as tokens of a tokenizer that the
 * recipe stores. `labels`: the tokens of the assistant's turns; in place of others is what fills documents.
 */
export type ChatStep = {
  step: 'chat';
  tokenizer: string;
  template: string;
  special: Record<string, string>;
  pad: number;
  output: 'ids' | 'labels';
};

/** Replaces missing text, before a table. */
export type FillText = { step: 'fill-text'; with: string };

/**
 * A step on arrays. `axes`: as NumPy's transpose has them, with the axes of the stored array; the first is that of the
 * samples. `argmax`: the position of the largest number along the last axis.
 */
export type ArrayStep = { step: 'transpose'; axes: number[] } | { step: 'argmax' };

export type Step = NumberStep | FillText | ArrayStep | FinalStep;

/** `width`: the number of values per row. */
export type ColumnRecipe = { column: string; kind: ColumnKind; width: number; steps: Step[] };

/**
 * The contents of one model input, of type `dtype`: its columns concatenated, with the numbers of a row in shape
 * `dims`. With `windows`, a sample is a window of `length` places, one every `stride` places of a block, shifted by `shift`
 * places. Places are tokens where the column is text, whose rows are joined by line breaks and encoded as one; with
 * `documents`, each row is encoded by itself and its windows are padded. Otherwise places are rows. The numbers of a row are the last axis of a window, or the first one with `channelsFirst`.
 */
export type InputRecipe = {
  input: string;
  dtype: DType;
  dims: number[];
  columns: ColumnRecipe[];
  windows?: Windows;
};

export type Windows = {
  length: number;
  stride: number;
  shift: number;
  channelsFirst?: boolean;
  documents?: Documents;
};

/**
 * Windows that stay within a document. `fill`: what stands where there is no token. `segments`: in place of tokens, the
 * number of the window that each belongs to, from 1, or 0 for padding. An encoding that has these packs several windows
 * into a row.
 */
export type Documents = { fill: number; segments?: true };

/**
 * The scores of the target's classes, or the predicted numbers: the value that the loss reads, its class axis (the last one
 * if not given) and, for a single score of a binary classifier, the threshold above which it is positive.
 */
export type Scores = { output: string; loss?: string; classAxis?: number; threshold?: number };

export type Recipe = {
  version: 1;
  inputs: InputRecipe[];
  /** Set in a trained model. */
  scores?: Scores;
  /** The input that takes the target, if the recipe feeds it. */
  target?: string;
  /** Contents of tokenizer.json files, by name. */
  tokenizers?: Record<string, unknown>;
};

export const isNumberStep = (step: Step): step is NumberStep =>
  ['none', 'log1p', 'standardize', 'min-max', 'subtract', 'fill'].includes(step.step);

/** The metadata key of a model's recipe, as JSON. */
export const RECIPE_KEY = 'agd.recipe';

/** The model with a recipe in its metadata. Graph and tensors are shared. */
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

/** Whether it was fitted on arrays: its columns are arrays' names. */
export const isOfArrays = ({ inputs }: Recipe) =>
  inputs.some(({ columns }) => columns.some(({ kind }) => kind === 'tensor'));

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
