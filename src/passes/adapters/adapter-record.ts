/** The adapters of a model as its metadata lists them, and what follows from the list: scales, norms taken as constants. */
import { AgdError } from '../../graph/errors.js';
import type { Model, Value } from '../../graph/ir.js';
import { readList, writeList } from '../common/metadata-list.js';
import type { AdapterKind } from './adapted-layers.js';

/** Key of the metadata in which a model with adapters says what they are, as a JSON list. */
const ADAPTERS_KEY = 'agd.adapters';

/** An adapter in a model: y = layer(x) + scale * dropout(x) A B, of DoRA times magnitude / norm. */
export type AdapterRecord = {
  module: string;
  kind: AdapterKind;
  /** Names of the base weight, and of the initializers A and B. */
  weight: string;
  a: string;
  b: string;
  /** Of queries, keys or values in a packed weight: the first of their outputs. */
  from?: number;
  r: number;
  alpha: number;
  dropout: number;
  rslora: boolean;
  /** Of DoRA, the name of the magnitudes, and of the norms that they are divided by, one for each place of the layer. */
  magnitude?: string;
  norms?: string[];
  /** Of DoRA, the names of the scales and zero points that the base weight is dequantized with. */
  scaledBy?: string[];
};

/** What the product with A B is multiplied with; rsLoRA's is that of arXiv:2312.03732. */
export const scaleOf = ({ alpha, r, rslora }: Pick<AdapterRecord, 'alpha' | 'r' | 'rslora'>) =>
  alpha / (rslora ? Math.sqrt(r) : r);

/** The adapters of a model, none if it has none. Throws `invalid-model` if the metadata hold something else. */
export const readAdapters = (model: Pick<Model, 'metadata'>): AdapterRecord[] =>
  readList(
    model,
    ADAPTERS_KEY,
    'adapters',
    x =>
      [x.module, x.weight, x.a, x.b].every(s => typeof s === 'string') &&
      [x.r, x.alpha, x.dropout].every(n => typeof n === 'number') &&
      ['linear', 'conv', 'embedding'].includes(x.kind as string) &&
      (x.from === undefined || typeof x.from === 'number') &&
      (x.magnitude === undefined || (typeof x.magnitude === 'string' && isTexts(x.norms))) &&
      (x.scaledBy === undefined || isTexts(x.scaledBy)),
  );

const isTexts = (x: unknown) => Array.isArray(x) && x.every(text => typeof text === 'string');

export const writeAdapters = (model: Model, records: readonly AdapterRecord[]): void =>
  writeList(model, ADAPTERS_KEY, records);

/** Names of the initializers of an adapter, in the order of its file. */
export const namesIn = ({ a, b, magnitude }: AdapterRecord): string[] =>
  magnitude === undefined ? [a, b] : [a, b, magnitude];

/**
 * The values that a training step takes as constants: DoRA's norms, as in section 4.3 of arXiv:2402.09353. Throws
 * `invalid-model` where the graph has lost one.
 */
export function detachedValues(model: Pick<Model, 'metadata' | 'graph'>): ReadonlySet<Value> {
  const wanted = new Set(readAdapters(model).flatMap(({ norms = [] }) => norms));
  const found = new Set(
    wanted.size ? model.graph.nodes.flatMap(n => n.outputs.filter(v => v && wanted.has(v.name))) : [],
  ) as Set<Value>;
  if (found.size === wanted.size) return found;
  const names = new Set([...found].map(v => v.name));
  throw new AgdError(
    'invalid-model',
    `The graph has no '${[...wanted].find(name => !names.has(name))}', a norm of its DoRA adapters: use the file as agd-onnx wrote it.`,
  );
}

/** Throws `bad-option` where a weight trains, or its scale, whose norm a DoRA adapter takes as constant. */
export function checkFixedBases(model: Pick<Model, 'metadata'>, trained: readonly Value[]): void {
  const names = new Set(trained.map(v => v.name));
  for (const { magnitude, module, weight, scaledBy = [] } of readAdapters(model)) {
    const fixed = [weight, ...scaledBy].find(name => names.has(name));
    if (magnitude === undefined || fixed === undefined) continue;
    throw new AgdError(
      'bad-option',
      `'${fixed}' cannot train: the DoRA adapter of '${module}' keeps the norm that it had. Leave it out of --train.`,
    );
  }
}
