import type { Node } from './ir.js';

/**
 * The order in which ONNX Runtime runs the nodes of a graph that lists them in this one: depth first from the nodes that no
 * other one reads, the last one first, and from each to the last one listed of those that it reads (`Graph::ReverseDFSFrom`).
 * Of a list that is such an order itself, the list that the runtime runs in that order.
 */
export function runOrder(nodes: readonly Node[]): Node[] {
  // Computed from the list, as its nodes may not be in a graph yet.
  const producers = new Map(nodes.flatMap(node => node.outputs.map(value => [value, node] as const)));
  const places = new Map(nodes.map((node, i) => [node, i]));
  const read = new Set<Node>();
  const sourcesOf = new Map<Node, Node[]>();
  for (const node of nodes) {
    const sources = new Set(node.inputs.flatMap(value => (value && producers.get(value)) ?? []));
    for (const source of sources) read.add(source);
    sourcesOf.set(
      node,
      [...sources].sort((a, b) => places.get(a)! - places.get(b)!),
    );
  }
  const order = new Set<Node>();
  const open = new Set<Node>();
  const stack = nodes.filter(node => !read.has(node));
  for (let node = stack.at(-1); node; node = stack.at(-1)) {
    if (open.has(node) || order.has(node)) {
      stack.pop();
      order.add(node);
      continue;
    }
    open.add(node);
    for (const source of sourcesOf.get(node)!) if (!open.has(source)) stack.push(source);
  }
  return [...order];
}
