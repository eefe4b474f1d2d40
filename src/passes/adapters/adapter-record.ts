import { AgdError } from '../../graph/errors.js';
import type { Model } from '../../graph/ir.js';
import { isObject } from '../options/option.js';
import type { AdapterKind } from './adapted-layers.js';

/** Key of the metadata in which a model with adapters says what they are, as a JSON list. */
export const ADAPTERS_KEY = 'agd.adapters';

/** An adapter in a model: y = layer(x) + scale * dropout(x) A B. */
export type AdapterRecord = {
  module: string;
  kind: AdapterKind;
  /** Names of the base weight, and of the initializers A and B. */
  weight: string;
  a: string;
  b: string;
  r: number;
  alpha: number;
  dropout: number;
  rslora: boolean;
};

/** What the product with A B is multiplied with; rsLoRA's is that of arXiv:2312.03732. */
export const scaleOf = ({ alpha, r, rslora }: Pick<AdapterRecord, 'alpha' | 'r' | 'rslora'>) =>
  alpha / (rslora ? Math.sqrt(r) : r);

/** The adapters of a model, none if it has none. Throws `invalid-model` if the metadata hold something else. */
export function readAdapters({ metadata }: Pick<Model, 'metadata'>): AdapterRecord[] {
  const text = metadata.get(ADAPTERS_KEY);
  if (text === undefined) return [];
  const damaged = new AgdError('invalid-model', `The metadata '${ADAPTERS_KEY}' is not a list of adapters.`);
  let list: unknown;
  try {
    list = JSON.parse(text);
  } catch {
    throw damaged;
  }
  const isRecord = (x: unknown) =>
    isObject(x) &&
    [x.module, x.weight, x.a, x.b].every(s => typeof s === 'string') &&
    [x.r, x.alpha, x.dropout].every(n => typeof n === 'number') &&
    ['linear', 'conv', 'embedding'].includes(x.kind as string);
  if (!Array.isArray(list) || !list.every(isRecord)) throw damaged;
  return list as AdapterRecord[];
}

export function writeAdapters(model: Model, records: readonly AdapterRecord[]): void {
  if (records.length) model.metadata.set(ADAPTERS_KEY, JSON.stringify(records));
  else model.metadata.delete(ADAPTERS_KEY);
}

/** Names of the initializers of a model's adapters. */
export const adapterNames = (model: Pick<Model, 'metadata'>): ReadonlySet<string> =>
  new Set(readAdapters(model).flatMap(({ a, b }) => [a, b]));
