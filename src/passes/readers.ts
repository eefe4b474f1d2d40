/** Who reads a value, directly or after its elements were moved. */
import type { Graph, Node, Value } from '../graph/ir.js';

export type Reader = { node: Node; input: number };
export type Readers = ReadonlyMap<Value, readonly Reader[]>;
/** A reader, and what it reads there: a value, or what movement operators made of one. */
export type Use = Reader & { value: Value };

/** The nodes that read a value, those in subgraphs included, and at which input. */
export function readersOf(graph: Graph): Map<Value, Reader[]> {
  const readers = new Map<Value, Reader[]>();
  const visit = (nodes: readonly Node[]) => {
    for (const node of nodes) {
      node.inputs.forEach((value, input) => {
        if (!value) return;
        const known = readers.get(value);
        if (known) known.push({ node, input });
        else readers.set(value, [{ node, input }]);
      });
      for (const sub of node.subgraphs()) visit(sub.nodes);
    }
  };
  visit(graph.nodes);
  return readers;
}

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
export function isMove({ node, input }: Reader, constants: ReadonlySet<Value>): boolean {
  if (MOVES.has(node.opType)) return input === 0;
  if (node.opType === 'Gather') return input === 0 && constants.has(node.inputs[1]!);
  return node.opType === 'Concat' && node.inputs.every(v => v && constants.has(v));
}

/** Where a constant comes to by way of operators that only move its elements. */
export function usesIn(graph: Graph, readers: Readers): (value: Value) => Use[] {
  const constants = constantsOf(graph);
  const outputs = new Set(graph.outputs);
  return start => {
    const uses: Use[] = [];
    const seen = new Set<Value>();
    const visit = (value: Value) => {
      if (seen.has(value)) return;
      seen.add(value);
      for (const reader of readers.get(value) ?? []) {
        const next = isMove(reader, constants) ? reader.node.outputs.flatMap(v => v ?? []) : [];
        // What leaves the graph is read by nobody, but used.
        if (!next.length || next.some(v => outputs.has(v))) uses.push({ ...reader, value });
        next.forEach(visit);
      }
    };
    visit(start);
    return uses;
  };
}
