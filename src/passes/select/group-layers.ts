/** Groups the parameters of a model into layers, from its inputs to its head. */
import { reads } from '../../graph/dependents.js';
import type { Graph, Node, Value } from '../../graph/ir.js';
import { usesIn, type ValueUse } from '../common/readers.js';
import { sourcesOf } from './read-origins.js';

export type Layer = { name: string; parameters: Value[] };

/** The number of layers from that of each parameter to the last one, 0 for the last. */
export function distancesFromHead(graph: Graph, parameters: readonly Value[]): number[] {
  const layers = groupLayers(graph, parameters);
  const distance = new Map(
    layers.flatMap((layer, i) => layer.parameters.map(p => [p, layers.length - 1 - i] as const)),
  );
  return parameters.map(p => distance.get(p)!);
}

type Placed = { value: Value; uses: ValueUse[]; depth: number; module: string | undefined };

/**
 * Groups parameters into layers, in order of depth: the longest path from the model's inputs to the first node that
 * uses one of the layer's parameters. Layers follow from names:
 *
 * 1. everything under one number is a layer, such as `encoder.layer.3` or `layer1.0`; of nested numbers, the first
 *    counts;
 * 2. otherwise a module is a layer: the name without its last part, `fc` of `fc.weight`. If the exporter renamed a
 *    parameter, the module is that of the parameters that it was folded from, or of the node that reads it;
 * 3. a parameter without a module belongs to the layer of the next parameter by depth, or else of the previous one; if
 *    none has a module, each matrix starts a layer;
 * 4. a module that consists of vectors, such as a normalization, belongs to the layer before it;
 * 5. lookup tables, such as embeddings of words and positions, are one layer.
 */
export function groupLayers(graph: Graph, parameters: readonly Value[]): Layer[] {
  const depth = depths(graph);
  const follow = usesIn(graph);
  const placed = parameters
    .map((value): Placed => {
      const uses = follow(value);
      const first = Math.min(...uses.map(u => depth.get(u.node) ?? Number.POSITIVE_INFINITY));
      return { value, uses, depth: first, module: moduleOf(value, uses) };
    })
    .sort((a, b) => a.depth - b.depth);
  const keys = layerKeys(placed);
  const layers = new Map<string, Placed[]>();
  for (const [i, p] of placed.entries()) layers.set(keys[i]!, [...(layers.get(keys[i]!) ?? []), p]);
  const grouped: { name: string; members: Placed[] }[] = [];
  const tables = [...layers.values()].flat().filter(isTable);
  for (const [name, members] of layers) {
    const previous = grouped.at(-1);
    const isLookup = members.every(isTable);
    const other = isLookup ? grouped.find(l => l.members.every(isTable)) : undefined;
    if (other) other.members.push(...members);
    else if (previous && members.every(isVector)) previous.members.push(...members);
    else grouped.push({ name: isLookup && tables.length > 1 ? 'embeddings' : name, members });
  }
  return grouped.map(({ name, members }) => ({ name, parameters: members.map(m => m.value) }));
}

const isVector = ({ value }: Placed) => (value.shape?.filter(d => d !== 1).length ?? 0) <= 1;
const isTable = ({ uses }: Placed) =>
  uses.length > 0 && uses.every(u => u.node.opType === 'Gather' && u.index === 0);

/** The number of nodes on the longest path from the inputs of the graph to each node. */
function depths(graph: Graph): Map<Node, number> {
  const found = new Map<Node, number>();
  for (const node of graph.nodes) {
    const before = reads(node).map(v => (v.producer ? (found.get(v.producer) ?? 0) : 0));
    const depth = 1 + Math.max(0, ...before);
    found.set(node, depth);
    for (const inner of innerNodes(node)) found.set(inner, depth);
  }
  return found;
}

const innerNodes = (node: Node): Node[] =>
  node.subgraphs().flatMap(body => body.nodes.flatMap(n => [n, ...innerNodes(n)]));

/** The key of the layer of each parameter; parameters are in order of depth. */
function layerKeys(placed: readonly Placed[]): string[] {
  if (placed.every(p => p.module === undefined)) {
    let key = '';
    return placed.map(p => {
      if (!key || !isVector(p)) key = p.value.name;
      return key;
    });
  }
  const keys = placed.map(p => p.module && blockOf(p.module));
  const next = keys.map((key, i) => key || keys.slice(i).find(k => k));
  return next.map((key, i) => key ?? next.slice(0, i).findLast(k => k)!);
}

/** `encoder.layer.3` for `encoder.layer.3.attention.query`; a module without a number is its own block. */
function blockOf(module: string): string {
  const parts = module.split('.');
  const at = parts.findIndex(part => /^\d+$/.test(part));
  return at < 0 ? module : parts.slice(0, at + 1).join('.');
}

/** The dotted path of the module that a parameter belongs to. */
function moduleOf(value: Value, uses: readonly ValueUse[]): string | undefined {
  for (const name of [value.name, ...sourcesOf(value)]) {
    const module = withoutLast(name);
    if (module) return module;
  }
  for (const { node } of uses) {
    const module = moduleOfNode(node.name);
    if (module) return module;
  }
  return undefined;
}

/** The last part is the parameter's own name; TensorFlow's is that of the operation that reads it. */
function withoutLast(name: string): string | undefined {
  if (/^(onnx::|\/)/.test(name)) return undefined;
  const parts = name.replace(/(\/[A-Z]\w*)?\/ReadVariableOp[\w.:/]*$/, '/variable').split(/[./]/);
  return parts.length > 1 ? parts.slice(0, -1).join('.') : undefined;
}

/** PyTorch's older exporter includes modules in names of nodes: /layer1/layer1.0/conv1/Conv. */
function moduleOfNode(name: string): string | undefined {
  if (!name.startsWith('/')) return undefined;
  const parts: string[] = [];
  for (const part of name.split('/').slice(1, -1)) {
    if (parts.length && part.startsWith(`${parts.at(-1)}.`)) parts.pop();
    parts.push(part);
  }
  return parts.join('.') || undefined;
}
