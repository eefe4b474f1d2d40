/** Key-value metadata (`metadata_props`) of graphs, nodes and values. */
import type { Graph, Node, Value } from '../ir.js';
import { readEntries } from './message.js';
import type { GraphExtra } from './read.js';
import type { NodeProto } from './schema.js';
import { declarationsOf } from './type.js';

const NOTHING: ReadonlyMap<string, string> = new Map();

export function graphMetadata(graph: Graph): ReadonlyMap<string, string> {
  return readEntries((graph.extra as GraphExtra | undefined)?.rest?.metadataProps);
}

export function nodeMetadata(node: Node): ReadonlyMap<string, string> {
  return readEntries((node.extra as NodeProto | undefined)?.metadataProps);
}

/** The metadata in a value's entries among the graph's inputs, outputs and value_info. */
export function valueMetadata(value: Value): ReadonlyMap<string, string> {
  const declared = declarationsOf(value);
  // Asked for each value of a graph.
  if (!declared.some(info => info.metadataProps)) return NOTHING;
  return readEntries(declared.flatMap(info => info.metadataProps ?? []));
}
