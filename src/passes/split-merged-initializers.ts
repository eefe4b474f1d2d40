import { isFloat } from '../graph/dtype.js';
import { type Graph, type Model, type Node, Value } from '../graph/ir.js';
import { Names } from '../graph/names.js';
import { record } from '../graph/record.js';
import { refill } from '../graph/refill.js';
import type { Tensor } from '../graph/tensor.js';

/**
 * Takes apart parameters that an exporter merged because they were equal: fresh normalization scales, biases and
 * running statistics, all ones or all zeros. Trained as one they would stay equal. Tensors of one repeated number
 * are split where an Identity renames one, which then is an initializer of that name, and where several layers read
 * one as their scale, bias or statistic. Weights of other contents are equal because they are tied, and stay so; but
 * in a model with such fresh tensors layers are copies of each other, and an Identity between names that differ in
 * their numbers alone (layers.0.weight, layers.1.weight) splits them too. Returns whether anything was split.
 */
export function splitMergedInitializers(model: Model): boolean {
  const { graph } = model;
  const merged = new Set(
    [...graph.initializers].filter(([, t]) => isFloat(t.dtype) && isFresh(t)).map(([v]) => v),
  );
  if (!merged.size) return false;
  const renamed = splitRenamed(graph, merged);
  return splitShared(graph, merged, Names.of(model)) || renamed;
}

/** Larger tensors than the scale of a wide layer are weights, which nobody fills with one number. */
const MOST = 65_536;

const isFresh = (t: Tensor) => t.size > 0 && t.size <= MOST && t.isUniform;

function splitRenamed(graph: Graph, merged: Set<Value>): boolean {
  const kept = graph.nodes.filter(node => {
    const [from, to] = [node.inputs[0], node.outputs[0]];
    const tensor = from && graph.initializers.get(from);
    if (node.opType !== 'Identity' || node.domain || !tensor || !to) return true;
    if (!merged.has(from) && !(isFloat(tensor.dtype) && areCopies(from, to))) return true;
    to.type = { kind: 'tensor', dtype: tensor.dtype, shape: tensor.dims };
    graph.initializers.set(to, tensor);
    if (merged.has(from)) merged.add(to);
    return false;
  });
  const changed = kept.length < graph.nodes.length;
  if (changed) refill(graph.nodes, kept);
  return changed;
}

function areCopies(a: Value, b: Value): boolean {
  const [x, y] = [a, b].map(v => v.name.replace(/\d+/g, '#'));
  return x === y;
}

/** Inputs that hold one number per channel, and belong to their node. */
const OWN = record<readonly number[]>({
  BatchNormalization: [1, 2, 3, 4],
  InstanceNormalization: [1, 2],
  LayerNormalization: [1, 2],
  GroupNormalization: [1, 2],
  RMSNormalization: [1],
  Conv: [2],
  ConvTranspose: [2],
  Gemm: [2],
  Add: [0, 1],
  Mul: [0, 1],
});
const COMMUTES = new Set(['Add', 'Mul']);

/** Gives each layer its own. A layer that is used several times is one, as its weight is. */
function splitShared(graph: Graph, merged: ReadonlySet<Value>, names: Names): boolean {
  const sourceOf = nearestWeights(graph, merged);
  const readers = new Map<string, number>();
  const owned = new Map<string, Value>();
  const taken = new Set<Value>();
  for (const node of graph.nodes) {
    for (const input of OWN[node.opType] ?? []) {
      const value = node.inputs[input];
      const tensor = value && merged.has(value) && graph.initializers.get(value);
      const data = node.inputs.find(v => v && !graph.initializers.has(v));
      if (!tensor || !data || tensor.dims.filter(d => d > 1).length > 1) continue;
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
        owned.set(layer, own);
        taken.add(value);
      }
      node.inputs[input] = own;
    }
  }
  return owned.size > taken.size;
}

/**
 * The weight that a node reads, or that its data come from by way of nodes that read nothing else. Embeddings do not
 * count: models begin with the same one in several places.
 */
function nearestWeights(graph: Graph, merged: ReadonlySet<Value>): (node: Node) => Value | undefined {
  const producers = new Map(graph.nodes.flatMap(n => n.outputs.map(out => [out, n] as const)));
  const isWeight = (v: Value | null) => {
    const tensor = v && !merged.has(v) ? graph.initializers.get(v) : undefined;
    return tensor !== undefined && isFloat(tensor.dtype) && tensor.dims.filter(d => d > 1).length > 1;
  };
  return begin => {
    let node: Node | undefined = begin;
    while (node && node.opType !== 'Gather') {
      const weight = node.inputs.find(isWeight);
      if (weight) return weight;
      const data: (Value | null)[] = node.inputs.filter(v => v && !graph.initializers.has(v));
      node = data.length === 1 ? producers.get(data[0]!) : undefined;
    }
    return undefined;
  };
}
