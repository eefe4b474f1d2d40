/** The scaled activations (IA3) of a model as its metadata lists them. */
import type { Model } from '../../graph/ir.js';
import { readList, writeList } from '../common/metadata-list.js';

/** Key of the metadata in which a model with scaled activations says what they are, as a JSON list. */
const SCALES_KEY = 'agd.ia3';

/** A layer whose output, or input if `feedforward`, is multiplied with a trained vector. */
export type ScaleRecord = {
  module: string;
  /** Names of the base weight, of the biases of the layers that have it, and of the initializer with the vector. */
  weight: string;
  biases: string[];
  scale: string;
  feedforward: boolean;
};

/** The scaled layers of a model, none if it has none. Throws `invalid-model` if the metadata hold something else. */
export const readScales = (model: Pick<Model, 'metadata'>): ScaleRecord[] =>
  readList(
    model,
    SCALES_KEY,
    'scales',
    x =>
      [x.module, x.weight, x.scale].every(s => typeof s === 'string') &&
      Array.isArray(x.biases) &&
      x.biases.every(s => typeof s === 'string') &&
      typeof x.feedforward === 'boolean',
  );

export const writeScales = (model: Model, records: readonly ScaleRecord[]): void =>
  writeList(model, SCALES_KEY, records);
