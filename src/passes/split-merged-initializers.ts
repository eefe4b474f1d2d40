import { isFloat } from '../graph/dtype.js';
import { type Graph, type Model, type Node, Value } from '../graph/ir.js';
import { Names } from '../graph/names.js';
import { refill } from '../graph/refill.js';
import type { Tensor } from '../graph/tensor.js';

/**
 * Takes apart parameters that an exporter merged because they were equal: fresh normalization scales, biases and
 * running statistics, all ones or all zeros. Trained as one they would stay equal. Tensors of one repeated number
 * are split where an Identity renames one, which then is an initializer of that name, and where several nodes read
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

const isFresh = (t: Tensor) => t.size > 0 && t.size <= MOST && !t.external && t.isUniform;

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
const OWN: Record<string, readonly number[]> = {
  BatchNormalization: [1, 2, 3, 4],
  InstanceNormalization: [1, 2],
  LayerNormalization: [1, 2],
  GroupNormalization: [1, 2],
  RMSNormalization: [1],
  Conv: [2],
  ConvTranspose: [2],
  Gemm: [2],
};

function splitShared(graph: Graph, merged: ReadonlySet<Value>, names: Names): boolean {
  const owners = new Map<Value, Node>();
  let changed = false;
  for (const node of graph.nodes) {
    for (const input of OWN[node.opType] ?? []) {
      const value = node.inputs[input];
      if (!value || !merged.has(value)) continue;
      if (owners.has(value)) {
        const copy = new Value(names.fresh(value.name), value.type);
        graph.initializers.set(copy, graph.initializers.get(value)!);
        node.inputs[input] = copy;
        changed = true;
      } else owners.set(value, node);
    }
  }
  return changed;
}
