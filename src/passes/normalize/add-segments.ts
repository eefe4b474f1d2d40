/** Packed sequences: the input that says to which document each token of a row belongs, and positions that follow from it. */
import { AgdError } from '../../graph/errors.js';
import { type Graph, type Model, type Node, Value } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import { Builder } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import { derivableInputs, tokensOf } from './derivable-inputs.js';

/** The input with the number of the document that each token belongs to, int64 [batch, length]; 0 is padding. */
export const SEGMENTS = 'segment_ids';

/** That input, as `addSegments` adds it. Throws `bad-option` for a model without one sequence of tokens. */
export function segmentsInput(graph: Graph): Value {
  const named = tokensOf(graph);
  const open = graph.inputs.filter(v => !graph.initializers.has(v) && !derivableInputs(graph).has(v));
  const [tokens, ...others] = named.length
    ? named
    : open.filter(v => v.shape?.length === 2 && (v.dtype === 'int64' || v.dtype === 'int32'));
  if (!tokens || others.length || tokens.shape!.length < 2)
    throw new AgdError(
      'bad-option',
      `--pack needs a model of one sequence of tokens: ${tokens ? `'${tokens.name}' and '${others[0]?.name}' are sequences` : 'no input is [batch, length] of whole numbers'}.`,
    );
  const taken = graph.inputs.find(v => v.name === SEGMENTS);
  if (taken) throw new AgdError('bad-option', `--pack: the model has an input '${SEGMENTS}' of its own.`);
  return new Value(SEGMENTS, { kind: 'tensor', dtype: 'int64', shape: tokens.shape!.slice(0, 2) });
}

/** The inputs that follow from the segments: positions, which start at 0 in each document. */
export const inputsOfSegments = (graph: Graph): Value[] =>
  [...derivableInputs(graph)]
    .filter(([{ shape }, derived]) => derived === 'positions in order' && shape!.length === 2)
    .map(([value]) => value);

/** Adds the input that tells documents in a row apart, and computes positions from it. */
export function addSegments(model: Model): void {
  const { graph } = model;
  const input = segmentsInput(graph);
  const positions = inputsOfSegments(graph);
  graph.inputs = [...graph.inputs.filter(v => !positions.includes(v)), input];
  if (!positions.length) return;
  const g = new Builder(graph, { names: Names.of(model), opsets: model.opsetImports });
  const segments = g.of(input);
  const front: Node[] = [];
  for (const value of positions)
    value.replaceAllUses(g.into(front, () => positionsIn(segments).cast(value.dtype!)).value);
  graph.prepend(...front);
}

/** Whether two places of a row belong to the same document: [batch, length, length]. */
export const sameSegment = (segments: Expr): Expr => segments.unsqueeze([2]).equal(segments.unsqueeze([1]));

/** The distance of each token from the first one of its document. */
function positionsIn(segments: Expr): Expr {
  const [first] = segments.g.emit('ArgMax', [sameSegment(segments).cast('int32')], { axis: 2, keepdims: 0 });
  return segments.dims(1, 2).iota().sub(first!);
}
