/** Which inputs of a decoder follow from its tokens: apart from what computes them, which few models need. */
import { isFloat } from '../../graph/dtype.js';
import type { Graph, Node, Value } from '../../graph/ir.js';

/** What an input is when nothing precedes the tokens that are fed. */
export type Derived = 'an empty cache' | 'false' | 'zero' | 'zeros' | 'positions in order' | 'ones';

const isInteger = ({ dtype }: Value) => dtype === 'int64' || dtype === 'int32';

/** Tokens, or their embeddings: [batch, length, ...]. Of a model of both, first those of its encoder, then of its decoder. */
export function tokensOf(graph: Graph): Value[] {
  const named = (...names: string[]) => graph.inputs.find(v => names.includes(v.name) && v.shape);
  const own = named('input_ids') ?? named('inputs_embeds');
  const decoded = named('decoder_input_ids') ?? named('decoder_inputs_embeds');
  return [own, decoded].filter(v => v !== undefined);
}

/**
 * The inputs of a decoder that follow from its tokens where these are all there is: caches, which are then empty, the
 * switch of a merged file to its branch without a cache, the mask, positions and segments of tokens, and the number of
 * logits to keep, of which 0 means all.
 */
export function derivableInputs(graph: Graph): Map<Value, Derived> {
  const found = new Map<Value, Derived>();
  const tokens = tokensOf(graph);
  if (!tokens.length) return found;
  const isMerged = graph.inputs.some(v => v.name === 'use_cache_branch');
  for (const value of graph.inputs) {
    if (graph.initializers.has(value) || tokens.includes(value)) continue;
    const derived = derivedFrom(value, isMerged);
    if (derived) found.set(value, derived);
  }
  return found;
}

function derivedFrom(value: Value, isMerged: boolean): Derived | undefined {
  const { name, shape, dtype } = value;
  if (!shape) return undefined;
  const rank = shape.length;
  if (dtype === 'bool' && name === 'use_cache_branch') return 'false';
  if (isFloat(dtype) && rank >= 3 && /^past|cache/.test(name)) {
    // A decoder has the keys of its encoder there, which are not empty.
    if (!isMerged && /encoder\b/.test(name.replace('decoder', ''))) return undefined;
    return neededReader(value) || !cacheExtents(value).includes(null) ? 'an empty cache' : undefined;
  }
  if (!isInteger(value)) return undefined;
  if (/^(num_)?logits_to_keep$/.test(name) && rank < 2) return 'zero';
  if (name === 'cache_position' && rank === 1) return 'positions in order';
  if (rank !== 2) return undefined;
  if (name === 'position_ids') return 'positions in order';
  if (name === 'token_type_ids') return 'zeros';
  return /^(decoder_)?attention_mask$/.test(name) ? 'ones' : undefined;
}

/** Those of the globs that match an input which follows from the tokens: a part of a model may not have them all. */
export async function derivedHere(graph: Graph, globs: readonly string[] = []): Promise<string[]> {
  if (!globs.length) return [];
  const { globTest } = await import('../common/match-names.js');
  const names = [...derivableInputs(graph).keys()].map(v => v.name);
  return globs.filter(glob => {
    const test = globTest(glob);
    return names.some(name => test(name));
  });
}

/** Extents of an empty cache: of [batch, heads, length, size], or of a state without a length; null if its reader tells. */
export function cacheExtents({ shape = [] }: Value): (number | 'batch' | null)[] {
  // Of keys and values together, the first axis is these.
  const batch = shape.length === 5 && shape[0] === 2 ? 1 : 0;
  const length = shape.length >= 4 ? shape.length - 2 : undefined;
  return shape.map((d, i) => (typeof d === 'number' ? d : i === batch ? 'batch' : i === length ? 0 : null));
}

/** The attention of whose keys or values this is the past, if the file leaves extents to it. */
export const neededReader = (value: Value): Node | undefined =>
  cacheExtents(value).includes(null)
    ? value.readers.find(n => n.domain === 'com.microsoft' && /^(GroupQuery|Sparse)Attention$/.test(n.opType))
    : undefined;
