/** Data before it is known what they feed, whatever they come from. */
import type { Augmentation } from '../../passes/recipe/augmentation.js';
import type { ColumnsOption } from '../../passes/recipe/columns.js';
import type { Recipe } from '../../passes/recipe/recipe.js';
import type { BindOptions, InputSpec } from './bind.js';
import type { Dataset } from './dataset.js';
import type { Progress } from './progress.js';
import type { Fold } from './split.js';

export type DataBinding = Omit<BindOptions, 'source' | 'columns'>;

/** What is made of the files. */
export type DataOptions = {
  /** Columns of tables by the input that they feed, and the column of the target. */
  columns?: ColumnsOption;
  label?: string;
  /** A recipe that was fitted before, for data that are not to be trained on. */
  recipe?: Recipe;
  /** The share of the samples that is kept for validation, of each class where the target is classes. */
  valSplit?: number;
  /** The fold that is kept for validation, of so many, in place of a share. */
  fold?: Fold;
  /** Seed of that choice. */
  seed?: number;
  /**
   * `weighted`: each class is as likely as the others, or samples as their `sampleWeights` are. `poisson`: each sample is in
   * a batch with the same probability, whatever the others are.
   */
  sampler?: 'shuffle' | 'weighted' | 'poisson';
  /** The column, or array, of the samples' weights. */
  sampleWeights?: string;
  /** Most samples that are shuffled at a time where data are read in blocks. */
  shuffleBuffer?: number;
  /** What is done to images in training. */
  augment?: readonly Augmentation[];
  /** Columns of tables: leave out rows in which one of them has no value. */
  skipMissing?: readonly string[];
  /** Leave out rows with images that cannot be decoded. */
  skipDamaged?: boolean;
  /** Is told where the passes over records stand that come before the first sample. */
  progress?: Progress;
};

/** Files of data, before it is known what they feed. */
export interface Data {
  /** For messages. */
  readonly name: string;
  /** How columns became inputs, of tables: known once they were bound. */
  readonly recipe: Recipe | undefined;
  /** Whether there is an array, a column or a part of the recipe of this name. */
  has(name: string): boolean;
  /** What they feed these inputs. Throws as `bindData` and `fitRecipe` do. */
  bind(inputs: readonly InputSpec[], options?: DataBinding): Promise<Dataset>;
  /** Takes a recipe that was fitted before, unless columns or a recipe were given. */
  use(recipe: Recipe | undefined): void;
  /** Whether a part is kept for validation, which `preview` may hold too. */
  readonly isSplit: boolean;
  /** The part that was kept for validation; undefined where none is. */
  validation(inputs: readonly InputSpec[], options?: DataBinding): Promise<Dataset | undefined>;
  /** The same as `bind` from the first samples alone where not all are in memory: for shapes and trials. */
  preview(inputs: readonly InputSpec[], options?: DataBinding): Promise<Dataset>;
  /** CRC-32 of what a run depends on: other data have another one. */
  fingerprint(): Promise<number>;
  close(): Promise<void>;
}

/** Keeps what is opened, to close all of it. */
export class OpenedData {
  readonly #all: Data[] = [];

  add<T extends Data>(data: T): T {
    this.#all.push(data);
    return data;
  }

  async close(): Promise<void> {
    for (const data of this.#all.splice(0)) await data.close();
  }
}

/** The options of data among those of a job. */
export function dataOptionsOf({
  columns,
  label,
  valSplit,
  fold,
  seed,
  sampler,
  sampleWeights,
  shuffleBuffer,
  augment,
  skipMissing,
  skipDamaged,
}: Omit<DataOptions, 'recipe' | 'progress'>): DataOptions {
  const rows = { skipMissing, skipDamaged };
  return { columns, label, valSplit, fold, seed, sampler, sampleWeights, shuffleBuffer, augment, ...rows };
}
