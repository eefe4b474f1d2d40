/** What a model of text takes: its tokens and what has an entry for each of them, and a cache of keys and values. */
import { AgdError } from '../../graph/errors.js';
import { type Graph, showShape, type Value } from '../../graph/ir.js';
import { type AdaptedLayer, adaptedLayers, describeLayer } from './adapted-layers.js';

export type TextInputs = {
  /** [batch, sequence] */
  ids: Value;
  /** The lookup of their embeddings. */
  lookup: AdaptedLayer;
  masks: Value[];
  positions: Value[];
  segments: Value[];
  /** Keys and values of each layer, in the order of the layers. */
  cache: Value[];
};

const fail = (message: string) => new AgdError('unsupported-op', `No virtual tokens: ${message}`);

/** Throws `unsupported-op` for a model that has no such inputs, or others that depend on the length of the text. */
export function textInputs(graph: Graph): TextInputs {
  const given = graph.inputs.filter(v => !graph.initializers.has(v));
  const segments = given.filter(v => /token_type|segment/i.test(v.name));
  const positions = given.filter(v => /position/i.test(v.name));
  const masks = given.filter(v => /mask/i.test(v.name));
  const others = new Set([...segments, ...positions, ...masks]);
  const embeddings = adaptedLayers(graph).filter(layer => layer.kind === 'embedding');
  const lookup = embeddings.find(({ input }) => {
    const source = sourceOf(input);
    return given.includes(source) && !others.has(source);
  });
  if (!lookup)
    throw fail(
      `no input is looked up in a table of embeddings; ${embeddings.length ? `the lookups are ${embeddings.map(describeLayer).join(', ')}` : 'the model has no lookup'}.`,
    );
  const ids = sourceOf(lookup.input);
  const cache = given.filter(v => v.shape?.length === 4 && /past|cache/i.test(v.name));
  for (const value of [ids, ...segments, ...positions, ...masks])
    if (value.shape?.length !== 2)
      throw fail(`'${value.name}' has shape ${showShape(value.shape)}, not [batch, sequence].`);
  if (typeof ids.shape![1] === 'number')
    throw fail(
      `the sequence of '${ids.name}' is fixed at ${ids.shape![1]}: export the model with a dynamic sequence.`,
    );
  const known = new Set([ids, ...segments, ...positions, ...masks, ...cache]);
  const strange = given.find(
    v => !known.has(v) && (/seqlens|seq_len|total_seq|past|cache/i.test(v.name) || isAlong(v, ids)),
  );
  if (strange) throw fail(`'${strange.name}' depends on the length of the text in a way that is not known.`);
  return { ids, lookup, masks, positions, segments, cache: cache.sort(byLayer) };
}

/** Whether an output has one entry for each token, as far as its extents tell. */
export const isPerToken = (output: Value, ids: Value) =>
  isAlong(output, ids) || ((output.shape?.length ?? 0) >= 3 && typeof output.shape![1] !== 'number');

const isAlong = (value: Value, ids: Value) =>
  value.shape?.[1] !== undefined && value.shape[1] !== null && value.shape[1] === ids.shape![1];

function sourceOf(value: Value): Value {
  let at = value;
  while (at.producer && /^(Cast|Identity|Reshape)$/.test(at.producer.opType)) at = at.producer.inputs[0]!;
  return at;
}

/** By the number of the layer, keys first. */
function byLayer(a: Value, b: Value): number {
  const rank = ({ name }: Value) => {
    const isValue = /val/i.test(name.replace(/key_values?/i, ''));
    return 2 * Number(/\d+/.exec(name)?.[0] ?? 0) + (isValue ? 1 : 0);
  };
  return rank(a) - rank(b);
}
