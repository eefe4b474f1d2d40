import { AgdError } from '../../graph/errors.js';
import type { Model } from '../../graph/ir.js';
import { isObject } from '../options/option.js';

/** Key of the metadata in which a model with scaled activations says what they are, as a JSON list. */
const SCALES_KEY = 'agd.ia3';

/** A layer whose output, or input if `feedforward`, is multiplied with a trained vector. */
export type ScaleRecord = {
  module: string;
  /** Names of the base weight, of its bias if it has one, and of the initializer with the vector. */
  weight: string;
  bias?: string;
  scale: string;
  feedforward: boolean;
};

/** The scaled layers of a model, none if it has none. Throws `invalid-model` if the metadata hold something else. */
export function readScales({ metadata }: Pick<Model, 'metadata'>): ScaleRecord[] {
  const text = metadata.get(SCALES_KEY);
  if (text === undefined) return [];
  const damaged = new AgdError('invalid-model', `The metadata '${SCALES_KEY}' is not a list of scales.`);
  let list: unknown;
  try {
    list = JSON.parse(text);
  } catch {
    throw damaged;
  }
  const isRecord = (x: unknown) =>
    isObject(x) &&
    [x.module, x.weight, x.scale, x.bias ?? ''].every(s => typeof s === 'string') &&
    typeof x.feedforward === 'boolean';
  if (!Array.isArray(list) || !list.every(isRecord)) throw damaged;
  return list as ScaleRecord[];
}

export function writeScales(model: Model, records: readonly ScaleRecord[]): void {
  if (records.length) model.metadata.set(SCALES_KEY, JSON.stringify(records));
  else model.metadata.delete(SCALES_KEY);
}
