/** The uses of a value, direct or after operators that only move elements. */
import type { Graph, Use, Value } from '../../graph/ir.js';

/** A use of a value, or of the result of movement operators applied to it. */
export type ValueUse = Use & { value: Value };

/** Initializers and outputs of Constant nodes. */
export function constantsOf(graph: Graph): Set<Value> {
  const constants = new Set(graph.initializers.keys());
  for (const { opType, outputs } of graph.nodes)
    if (opType === 'Constant' && outputs[0]) constants.add(outputs[0]);
  return constants;
}

const MOVES = new Set(
  'Cast Expand Flatten Identity Pad Reshape Slice Split Squeeze Tile Transpose Unsqueeze'.split(' '),
);

/** Whether the outputs of a node are elements of this input in another layout; constants may be concatenated. */
export function isMove({ node, index }: Use, constants: ReadonlySet<Value>): boolean {
  if (MOVES.has(node.opType)) return index === 0;
  if (node.opType === 'Gather') return index === 0 && constants.has(node.inputs[1]!);
  return node.opType === 'Concat' && node.inputs.every(v => v && constants.has(v));
}

/** Finds the uses of a constant, following operators that only move elements. */
export function usesIn(graph: Graph): (value: Value) => ValueUse[] {
  const constants = constantsOf(graph);
  const outputs = new Set(graph.outputs);
  return start => {
    const uses: ValueUse[] = [];
    const seen = new Set<Value>();
    const visit = (value: Value) => {
      if (seen.has(value)) return;
      seen.add(value);
      for (const use of value.uses) {
        const next = isMove(use, constants) ? use.node.outputs.flatMap(v => v ?? []) : [];
        // A graph output counts as a use.
        if (!next.length || next.some(v => outputs.has(v))) uses.push({ ...use, value });
        next.forEach(visit);
      }
    };
    visit(start);
    return uses;
  };
}
