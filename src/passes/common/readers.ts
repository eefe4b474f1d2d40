/** Who reads a value, directly or after its elements were moved. */
import type { Graph, Use, Value } from '../../graph/ir.js';

/** A place where a node reads a value, and what it reads there: a value, or what movement operators made of one. */
export type ValueUse = Use & { value: Value };

/** Initializers and what Constant nodes hold. */
export function constantsOf(graph: Graph): Set<Value> {
  const constants = new Set(graph.initializers.keys());
  for (const { opType, outputs } of graph.nodes)
    if (opType === 'Constant' && outputs[0]) constants.add(outputs[0]);
  return constants;
}

const MOVES = new Set(
  'Cast Expand Flatten Identity Pad Reshape Slice Split Squeeze Tile Transpose Unsqueeze'.split(' '),
);

/** Whether what a node writes is elements of what it reads there, laid out anew; constants may be joined. */
export function isMove({ node, index }: Use, constants: ReadonlySet<Value>): boolean {
  if (MOVES.has(node.opType)) return index === 0;
  if (node.opType === 'Gather') return index === 0 && constants.has(node.inputs[1]!);
  return node.opType === 'Concat' && node.inputs.every(v => v && constants.has(v));
}

/** Where a constant comes to by way of operators that only move its elements. */
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
        // What leaves the graph is read by nobody, but used.
        if (!next.length || next.some(v => outputs.has(v))) uses.push({ ...use, value });
        next.forEach(visit);
      }
    };
    visit(start);
    return uses;
  };
}
