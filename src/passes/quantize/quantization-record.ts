/** The quantizers of a model as its metadata lists them, and which values belong to them. */
import type { Graph, Model, Value } from '../../graph/ir.js';
import { readList, writeList } from '../common/metadata-list.js';

/** Key of the metadata in which a model in quantization-aware training lists its quantizers, as JSON. */
const KEY = 'agd.quantizers';

/** The largest whole number of 7-bit weights, whose products with activations of 8 bits add up in 16 bits two by two. */
export const REDUCED = 63;

/**
 * Where a scale comes from: `learned`, an initializer that trains, of which the magnitude counts; `fixed`, one that does
 * not; `averaged`, a range that each step moves towards that of its batch; `largest`, the largest weights of the moment.
 */
export type ScaleKind = 'learned' | 'fixed' | 'averaged' | 'largest';

/** A scale and zero point with which a model in quantization-aware training rounds. All are names of values. */
export type Quantizer = {
  kind: ScaleKind;
  scale: string;
  zero: string;
  /** The initializer that the scale is computed from. */
  source: string;
  /** The constant that is rounded, if it is one, and the axis of its scales, if it has several. */
  weight?: string;
  axis?: number;
  /** The largest whole number that a constant is rounded to, where scales are chosen for it; the least is its negative. */
  most?: number;
  /**
   * The type in which a constant of 4 bits is written. The graph computes its levels in 8 bits: the runtime gives the
   * memory of a 4-bit value, half a byte an element, to later values of one byte an element with the same shape.
   */
  stored?: FourBits;
};

/** Types of 4 bits, and the least and the largest of their numbers. */
export const FOUR_BITS = { int4: [-8, 7], uint4: [0, 15] } as const;
export type FourBits = keyof typeof FOUR_BITS;

/** The quantizers of a model, none if it is not in quantization-aware training. Throws `invalid-model`. */
export const readQuantizers = (model: Pick<Model, 'metadata'>): Quantizer[] =>
  readList(
    model,
    KEY,
    'quantizers',
    x =>
      ['learned', 'fixed', 'averaged', 'largest'].includes(x.kind as string) &&
      [x.scale, x.zero, x.source].every(s => typeof s === 'string') &&
      typeof (x.weight ?? '') === 'string' &&
      [x.axis, x.most].every(n => typeof (n ?? 0) === 'number') &&
      Object.hasOwn(FOUR_BITS, (x.stored ?? 'int4') as string),
  );

export const writeQuantizers = (model: Model, quantizers: readonly Quantizer[]): void =>
  writeList(model, KEY, quantizers);

/** Names of the initializers that `storeIntegers` replaces. */
export const roundedNames = (model: Model): Set<string> =>
  new Set(readQuantizers(model).flatMap(q => [q.source, q.weight ?? q.source]));

/** The scales that train, and what else rounding is computed from that does not: sources of scales, and numbers. */
export function scalesOf({ metadata, graph }: Pick<Model, 'metadata' | 'graph'>): {
  learned: ReadonlySet<string>;
  constant: ReadonlySet<string>;
} {
  const quantizers = readQuantizers({ metadata });
  const of = (...kinds: ScaleKind[]) => quantizers.flatMap(q => (kinds.includes(q.kind) ? [q.source] : []));
  const learned = new Set(of('learned'));
  const trained = new Set([...learned, ...quantizers.flatMap(q => q.weight ?? [])]);
  const scales = new Set(quantizers.map(q => q.scale));
  // Only a constant is rounded with nothing but constants before it.
  const rounding = graph.nodes.filter(n => n.opType === 'QuantizeLinear' && scales.has(n.inputs[1]!.name));
  const weights = new Set(quantizers.flatMap(q => (q.weight === undefined ? [] : [q.scale])));
  const read = rounding.flatMap(({ inputs }) => (weights.has(inputs[1]!.name) ? inputs : inputs.slice(1)));
  const constant = new Set(of('averaged', 'fixed'));
  const seen = new Set<Value>();
  for (const value of read) collect(value);
  return { learned, constant };

  function collect(value: Value | null): void {
    if (!value || seen.has(value)) return;
    seen.add(value);
    if (graph.initializers.has(value) && !trained.has(value.name)) constant.add(value.name);
    value.producer?.inputs.forEach(collect);
  }
}

/** The scales and zero points that are computed anew in each step, through which no gradient passes. */
export function followingScales(model: Pick<Model, 'metadata' | 'graph'>): Set<Value> {
  const computed = readQuantizers(model).filter(q => q.kind === 'averaged' || q.kind === 'largest');
  const names = new Set(computed.flatMap(q => [q.scale, q.zero]));
  return new Set(namedIn(model.graph, names).values());
}

/** The values of a graph that have one of these names. */
export function namedIn(graph: Graph, names: ReadonlySet<string>): Map<string, Value> {
  if (!names.size) return new Map();
  const all = [...graph.initializers.keys(), ...graph.nodes.flatMap(node => node.outputs)];
  return new Map(all.flatMap(v => (v && names.has(v.name) ? [[v.name, v] as const] : [])));
}
