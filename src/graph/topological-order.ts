import { reads } from './dependents.js';
import { AgdError } from './errors.js';
import type { Node, Value } from './ir.js';

/**
 * The nodes of one graph sorted so that each follows those that it reads from (including captures of subgraphs). A list
 * that is in order already is returned in that order. Throws `invalid-model` on a cycle. Linear in nodes and edges.
 */
export function topologicalOrder(nodes: readonly Node[]): Node[] {
  if (isOrdered(nodes)) return [...nodes];
  // Computed from the list, as its nodes may not be in a graph yet.
  const producers = new Map<Value, Node>();
  for (const node of nodes) for (const output of node.outputs) if (output) producers.set(output, node);
  const done = new Set<Node>();
  const open = new Set<Node>();
  const stack: { node: Node; needs: Iterator<Node> }[] = [];

  const enter = (node: Node) => {
    open.add(node);
    stack.push({ node, needs: sources(node, producers).values() });
  };
  for (const root of nodes) {
    if (!done.has(root)) enter(root);
    for (let top = stack.at(-1); top; top = stack.at(-1)) {
      const next = top.needs.next();
      if (next.done) {
        done.add(top.node);
        stack.pop();
      } else if (!done.has(next.value)) {
        if (open.has(next.value))
          throw new AgdError('invalid-model', `${next.value.label} is part of a cycle.`);
        enter(next.value);
      }
    }
  }
  return [...done];
}

function isOrdered(nodes: readonly Node[]): boolean {
  const later = new Set<Value | null>();
  const isLater = (value: Value) => later.has(value);
  for (let i = nodes.length - 1; i >= 0; i--) {
    for (const output of nodes[i]!.outputs) later.add(output);
    if (reads(nodes[i]!).some(isLater)) return false;
  }
  return true;
}

function sources(node: Node, producers: ReadonlyMap<Value, Node>): Node[] {
  return reads(node).flatMap(value => producers.get(value) ?? []);
}
