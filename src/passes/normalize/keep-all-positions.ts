import { constantOf } from '../../graph/constants.js';
import { AgdError } from '../../graph/errors.js';
import type { Graph, Model, Node, Value } from '../../graph/ir.js';
import type { Tensor } from '../../graph/tensor.js';

/**
 * Lets a head that reads the last token only read all of them: what takes the last position along axis 1, of a kind that
 * keeps the axis, becomes what it was taken from. Throws `bad-option` if nothing does.
 */
export function keepAllPositions({ graph }: Model): void {
  const taken = graph.nodes.flatMap(node => lastOf(graph, node) ?? []);
  if (!taken.length)
    throw new AgdError(
      'bad-option',
      '--all-positions: nothing in the model takes the last position of a sequence, as a Gather with index -1 or a Slice from -1 along axis 1.',
    );
  for (const { from, to } of taken) to.replaceAllUses(from);
}

/** Whether a head reads the last token only; what a training step adds to the graph may read that token too. */
export const readsLastToken = (graph: Graph): boolean => graph.nodes.some(node => lastOf(graph, node));

/** All tokens, and the value that holds the last of them: [batch, 1, ...]. */
function lastOf(graph: Graph, node: Node): { from: Value; to: Value } | undefined {
  const [from, start, , axes] = node.inputs;
  const [to] = node.outputs;
  if (!from || !to || node.domain !== '') return undefined;
  if (node.opType === 'Slice')
    return isOne(graph, start, -1) && isOne(graph, axes, 1) && isOpenEnd(graph, node)
      ? { from, to }
      : undefined;
  const axis = node.attrs.get('axis');
  const index = node.opType === 'Gather' ? tensorOf(graph, start) : undefined;
  if (axis?.type !== 'int' || Number(axis.value) !== 1 || !isOne(graph, start, -1)) return undefined;
  if (index?.dims.length === 1) return { from, to };
  const reader = to.readers.find(n => n.opType === 'Unsqueeze' && isOne(graph, n.inputs[1], 1));
  return reader && { from, to: reader.outputs[0]! };
}

const isOne = (graph: Graph, value: Value | null | undefined, wanted: number) => {
  const tensor = tensorOf(graph, value);
  return tensor?.size === 1 && tensor.numbers()[0] === wanted;
};

const isOpenEnd = (graph: Graph, { inputs: [, , end, , step] }: Node) =>
  (tensorOf(graph, end)?.numbers()[0] ?? 0) >= 2 ** 31 - 1 && (!step || isOne(graph, step, 1));

const tensorOf = (graph: Graph, value: Value | null | undefined): Tensor | undefined =>
  value
    ? (graph.initializers.get(value) ?? (value.producer && constantOf(value.producer)?.tensor))
    : undefined;
