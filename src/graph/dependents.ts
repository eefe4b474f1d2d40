import type { Node, Value } from './ir.js';

/** Inputs of a node, including the outer values that its subgraphs read. */
export function reads(node: Node): readonly Value[] {
  const { inputs } = node;
  const own = inputs.includes(null) ? inputs.filter(v => v !== null) : (inputs as readonly Value[]);
  const subgraphs = node.subgraphs();
  return subgraphs.length ? [...own, ...subgraphs.flatMap(s => s.captures())] : own;
}

/**
 * The nodes that depend on `sources`, in order, except those that write one of `except`. Walks the list of nodes
 * rather than `readers`, since a list may be part of a graph, and links are not in graph order.
 */
export function dependents(
  nodes: readonly Node[],
  sources: readonly Value[],
  except: ReadonlySet<Value | null> = new Set(),
): Node[] {
  const found = new Set<Value | null>(sources);
  return nodes.filter(node => {
    const depends = !node.outputs.some(o => except.has(o)) && reads(node).some(v => found.has(v));
    if (depends) for (const o of node.outputs) found.add(o);
    return depends;
  });
}

/** `sources` and the values that depend on them, without outputs of nodes that write one of `except`. */
export function dependentValues(...of: Parameters<typeof dependents>): Set<Value | null> {
  return new Set([...of[1], ...dependents(...of).flatMap(n => n.outputs.filter(o => o !== null))]);
}
