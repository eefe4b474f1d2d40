import { allGraphs, type Graph, type Node, type Value } from './ir.js';

/**
 * Verifies the invariants of a main graph and its subgraphs (see `ir.ts`), and that each node follows the nodes that
 * it reads from. A violation is a bug of a pass, not of a file: throws a plain Error that lists all of them. Linear
 * in nodes and edges; for tests, and between passes during debugging.
 */
export function checkGraph(main: Graph): void {
  const problems: string[] = [];
  const graphs = [...allGraphs(main)];
  const found = survey(graphs);
  for (const graph of graphs) {
    if (graph.isView) problems.push(`graph '${graph.name}' is a view.`);
    for (const node of graph.nodes) {
      if (node.graph !== graph)
        problems.push(
          `${node.label} is listed in graph '${graph.name}', and in fact in '${node.graph?.name}'.`,
        );
      for (const sub of node.subgraphs())
        if (sub.owner !== node)
          problems.push(
            `subgraph '${sub.name}' of ${node.label} belongs to ${sub.owner?.label ?? 'no node'}.`,
          );
    }
  }
  for (const value of found.values) checkLinks(value, found, problems);
  checkOrder(main, new Set(), problems);
  if (problems.length)
    throw new Error(`Graph '${main.name}' is inconsistent:\n  ${[...new Set(problems)].join('\n  ')}`);
}

type Links = {
  values: ReadonlySet<Value>;
  producers: ReadonlyMap<Value, Node>;
  readers: ReadonlyMap<Value, ReadonlySet<Node>>;
  returning: ReadonlyMap<Value, ReadonlySet<Graph>>;
};

/** The links that should exist, derived from the lists. */
function survey(graphs: readonly Graph[]): Links {
  const producers = new Map<Value, Node>();
  const readers = new Map<Value, Set<Node>>();
  const returning = new Map<Value, Set<Graph>>();
  for (const graph of graphs) {
    for (const node of graph.nodes) {
      for (const v of node.inputs) if (v) add(readers, v, node);
      for (const v of node.outputs) if (v) producers.set(v, node);
    }
    for (const v of graph.outputs) add(returning, v, graph);
  }
  const given = graphs.flatMap(g => [...g.inputs, ...g.initializers.keys()]);
  const values = new Set([...given, ...producers.keys(), ...readers.keys(), ...returning.keys()]);
  return { values, producers, readers, returning };
}

function add<K, T>(sets: Map<K, Set<T>>, key: K, item: T): void {
  const set = sets.get(key);
  if (set) set.add(item);
  else sets.set(key, new Set([item]));
}

function checkLinks(value: Value, { producers, readers, returning }: Links, problems: string[]): void {
  const producer = producers.get(value);
  if (value.producer !== producer)
    problems.push(`'${value.name}' is written by ${labelOf(producer)}, and says ${labelOf(value.producer)}.`);
  compare(value, 'read by', value.readers, readers.get(value), n => n.label, problems);
  compare(value, 'returned by', value.outputOf, returning.get(value), g => `graph '${g.name}'`, problems);
}

const labelOf = (node: Node | undefined) => node?.label ?? 'nothing';

function compare<T>(
  { name }: Value,
  what: string,
  told: readonly T[],
  there: ReadonlySet<T> = new Set(),
  label: (item: T) => string,
  problems: string[],
): void {
  const list = new Set(told);
  for (const item of there)
    if (!list.has(item)) problems.push(`'${name}' is ${what} ${label(item)}, and does not say so.`);
  for (const item of list)
    if (!there.has(item)) problems.push(`'${name}' is not ${what} ${label(item)}, and says so.`);
}

/** Every value is defined before it is read: as an input or initializer, by an earlier node, or in an outer graph. */
function checkOrder(graph: Graph, outer: ReadonlySet<Value>, problems: string[]): void {
  const known = new Set([...outer, ...graph.inputs, ...graph.initializers.keys()]);
  const require = (value: Value | null, reader: string) => {
    if (value && !known.has(value)) problems.push(`${reader} reads '${value.name}' before it is there.`);
  };
  for (const node of graph.nodes) {
    for (const v of node.inputs) require(v, node.label);
    for (const sub of node.subgraphs()) checkOrder(sub, known, problems);
    for (const v of node.outputs) if (v) known.add(v);
  }
  for (const v of graph.outputs) require(v, `graph '${graph.name}'`);
}
