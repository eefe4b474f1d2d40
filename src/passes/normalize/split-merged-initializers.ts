import { isFloat } from '../../graph/dtype.js';
import { type Graph, type Model, type Node, Value } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import { record } from '../../graph/record.js';
import type { Tensor } from '../../graph/tensor.js';
import { type Origins, readByCall, signatureOf, sourcesOf } from '../select/read-origins.js';

/**
 * Separates parameters that an exporter merged because they were equal, such as fresh normalization scales, biases
 * and running statistics, all ones or all zeros; trained as one tensor they would stay equal. Uniform tensors are
 * split if an Identity renames them, in which case an initializer of that name is added, or if several layers read
 * them as scale, bias or statistic. Other weights are equal because they are tied, and stay so. In a model with such
 * fresh tensors, however, layers are copies of each other, and an Identity between names that differ only in their
 * numbers (layers.0.weight, layers.1.weight) splits them too.
 *
 * If the file names parameters of the program that it no longer contains, and the call of each node, these decide
 * which parameter a node reads, and nothing else is split. The origins of new initializers are added to `origins`.
 * Returns whether anything was split.
 */
export function splitMergedInitializers(model: Model, origins: Origins = new Map()): boolean {
  const { graph } = model;
  const merged = new Set(
    [...graph.initializers].filter(([, t]) => isFloat(t.dtype) && isFresh(t)).map(([v]) => v),
  );
  if (!merged.size) return false;
  const renamed = splitRenamed(graph, merged, origins);
  // PyTorch's older exporter renames all parameters that it merged.
  if (renamed && model.producerName === 'pytorch') return true;
  const split = signatureOf(graph).kinds.size ? splitByCalls : splitShared;
  return split(graph, merged, Names.of(model), origins) || renamed;
}

/** Larger tensors than the scale of a wide layer are weights, which are not initialized uniformly. */
const MOST = 65_536;

const isFresh = (t: Tensor) => t.size > 0 && t.size <= MOST && t.isUniform;

function splitRenamed(graph: Graph, merged: Set<Value>, origins: Origins): boolean {
  const kept = graph.nodes.filter(node => {
    const [from, to] = [node.inputs[0], node.outputs[0]];
    const tensor = from && graph.initializers.get(from);
    if (node.opType !== 'Identity' || node.domain || !tensor || !to) return true;
    if (!merged.has(from) && !(isFloat(tensor.dtype) && areCopies(from, to))) return true;
    to.type = { kind: 'tensor', dtype: tensor.dtype, shape: tensor.dims };
    graph.initializers.set(to, tensor);
    inheritOrigin(origins, to, from);
    if (merged.has(from)) merged.add(to);
    return false;
  });
  const changed = kept.length < graph.nodes.length;
  if (changed) graph.nodes = kept;
  return changed;
}

function inheritOrigin(origins: Origins, to: Value, from: Value): void {
  const origin = origins.get(from);
  if (origin) origins.set(to, origin);
}

function areCopies(a: { name: string }, b: { name: string }): boolean {
  const [x, y] = [a, b].map(v => v.name.replace(/\d+/g, '#'));
  return x === y;
}

/** Gives each parameter of the program that the file lacks its own initializer, if its calls read a merged one. */
function splitByCalls(graph: Graph, merged: ReadonlySet<Value>, names: Names, origins: Origins): boolean {
  const signature = signatureOf(graph);
  const here = new Set([...graph.initializers.keys()].flatMap(v => [v.name, ...sourcesOf(v)]));
  const missing = new Set([...signature.kinds.keys()].filter(name => !here.has(name)));
  const owned = new Map<string, Value>();
  const give = (node: Node, input: number, value: Value, name: string) => {
    const isTarget = missing.has(name) && signature.kinds.has(value.name);
    let own = owned.get(`${value.name} ${name}`);
    if (!own) {
      own = new Value(isTarget ? names.fresh(name) : names.fresh(value.name), value.type);
      owned.set(`${value.name} ${name}`, own);
      graph.initializers.set(own, graph.initializers.get(value)!);
      const kind = signature.kinds.get(name);
      const why = `the file says: a ${kind ?? 'constant of the program'}`;
      origins.set(own, { kind: kind === 'parameter' ? kind : 'constant', why });
    }
    node.setInput(input, own);
  };
  for (const node of graph.nodes) {
    const read = readByCall(node, signature);
    const floats = node.inputs.flatMap((v, i) => (v && isFloat(graph.initializers.get(v)?.dtype) ? i : []));
    for (const [at, input] of floats.entries()) {
      const value = node.inputs[input]!;
      const sources = signature.kinds.has(value.name) ? [value.name] : sourcesOf(value);
      const source = sources.find(name => signature.kinds.has(name));
      if (source === undefined) continue;
      const named = read?.length === floats.length ? [read[at]!] : (read ?? []);
      if (named.includes(source)) continue;
      const suffix = (name: string) => name.slice(name.lastIndexOf('.') + 1);
      // The call of a node that others were folded into, as batch normalization into a layer, does not match its inputs.
      const isOwn = (name: string) =>
        merged.has(value)
          ? named.length === 1 || suffix(name) === suffix(source)
          : named.length === 1 && areCopies({ name }, { name: source });
      const found = named.filter(name => missing.has(name) && isOwn(name));
      if (found.length === 1) give(node, input, value, found[0]!);
      // The values for a normalization without parameters may be equal to fresh parameters.
      else if (read && !read.length && merged.has(value) && /Normalization$/.test(node.opType))
        give(node, input, value, '');
    }
  }
  return owned.size > 0;
}

/** Inputs with one number per channel that belong to their node. */
const OWN = record<readonly number[]>({
  BatchNormalization: [1, 2, 3, 4],
  InstanceNormalization: [1, 2],
  LayerNormalization: [1, 2],
  GroupNormalization: [1, 2],
  RMSNormalization: [1],
  SimplifiedLayerNormalization: [1],
  SkipLayerNormalization: [2, 3, 4],
  SkipSimplifiedLayerNormalization: [2, 3],
  EmbedLayerNormalization: [5, 6],
  GroupNorm: [1, 2],
  SkipGroupNorm: [1, 2, 4],
  BiasGelu: [1],
  FastGelu: [1],
  BiasAdd: [1],
  BiasDropout: [1],
  BiasSplitGelu: [1],
  Attention: [2],
  MultiHeadAttention: [3],
  MatMulNBits: [5],
  Conv: [2],
  ConvTranspose: [2],
  FusedConv: [2],
  Gemm: [2],
  FusedGemm: [2],
  PRelu: [1],
  LSTM: [3],
  GRU: [3],
  RNN: [3],
  Add: [0, 1],
  Mul: [0, 1],
});
const COMMUTES = new Set(['Add', 'Mul']);

/** Gives each layer its own. A layer that is used several times has one, like its weight. */
function splitShared(graph: Graph, merged: ReadonlySet<Value>, names: Names, origins: Origins): boolean {
  const sourceOf = nearestWeights(graph, merged);
  const readers = new Map<string, number>();
  const owned = new Map<string, Value>();
  const taken = new Set<Value>();
  for (const node of graph.nodes) {
    for (const input of OWN[node.opType] ?? []) {
      const value = node.inputs[input];
      const tensor = value && merged.has(value) && graph.initializers.get(value);
      const data = node.inputs.find(v => v && !graph.initializers.has(v));
      if (!tensor || !data) continue;
      if (tensor.dims.filter(d => d > 1).length > 1 && !/^(LSTM|GRU|RNN)$/.test(node.opType)) continue;
      const role = `${value.name} ${node.opType} ${COMMUTES.has(node.opType) ? '' : input}`;
      // Several nodes that read the same data are several layers.
      const reader = `${role} ${data.name}`;
      const count = readers.get(reader) ?? 0;
      readers.set(reader, count + 1);
      const layer = `${role} ${(sourceOf(node) ?? node.outputs[0])?.name} ${count}`;
      let own = owned.get(layer);
      if (!own) {
        own = taken.has(value) ? new Value(names.fresh(value.name), value.type) : value;
        graph.initializers.set(own, tensor);
        if (own !== value) inheritOrigin(origins, own, value);
        owned.set(layer, own);
        taken.add(value);
      }
      node.setInput(input, own);
    }
  }
  return owned.size > taken.size;
}

/**
 * The weight that a node reads, or that its data is computed from by nodes that read nothing else. Embeddings do not
 * count, as several parts of a model may start with the same one.
 */
function nearestWeights(graph: Graph, merged: ReadonlySet<Value>): (node: Node) => Value | undefined {
  const isWeight = (v: Value | null) => {
    const tensor = v && !merged.has(v) ? graph.initializers.get(v) : undefined;
    return tensor !== undefined && isFloat(tensor.dtype) && tensor.dims.length > 1 && tensor.size > 1;
  };
  return begin => {
    let node: Node | undefined = begin;
    while (node && node.opType !== 'Gather') {
      const weight = node.inputs.find(isWeight);
      if (weight) return weight;
      const data: (Value | null)[] = node.inputs.filter(v => v && !graph.initializers.has(v));
      node = data.length === 1 ? data[0]!.producer : undefined;
    }
    return undefined;
  };
}
