/** Gives layers another weight, as merging adapters does. */
import { isFloat } from '../../graph/dtype.js';
import { type Graph, Node, Value } from '../../graph/ir.js';
import type { Names } from '../../graph/names.js';
import type { Tensor } from '../../graph/tensor.js';
import type { AdaptedLayer } from './adapted-layers.js';

/** Stored as floating-point numbers, which nothing but a transposition comes after. */
export const isMergeable = ({ weight, quantized }: AdaptedLayer) =>
  !quantized && isFloat(weight.tensor.dtype);

/**
 * Gives the layers a weight in the place of theirs, and returns its name. Others that read the weight, or what the nodes between it and these
 * layers make of it, go on with what it was.
 */
export function putWeight(
  graph: Graph,
  names: Names,
  layers: readonly AdaptedLayer[],
  weight: Tensor,
): string {
  const { value } = layers[0]!.weight;
  const readers = new Set(layers.flatMap(({ weight: { through }, node }) => [...through, node]));
  const read = new Set(
    layers.flatMap(({ weight: { through } }) => [value, ...through.map(node => node.outputs[0]!)]),
  );
  const isShared = [...read].some(v => v.readers.some(n => !readers.has(n)) || v.outputOf.length > 0);
  if (!isShared && value.producer) value.producer.setAttr('value', { type: 'tensor', value: weight });
  if (!isShared && value.producer) return value.name;
  const target = isShared ? new Value(names.fresh(`${value.name}_adapted`), value.type) : value;
  graph.initializers.set(target, weight);
  if (isShared) readInstead(names, layers, target);
  return target.name;
}

/** Lets the layers read another weight, through copies of the nodes that lead from the weight to them. */
function readInstead(names: Names, layers: readonly AdaptedLayer[], target: Value): void {
  const instead = new Map([[layers[0]!.weight.value, target]]);
  const replaced = (inputs: Node['inputs']) => inputs.map(v => (v && instead.get(v)) ?? v);
  for (const { weight, node } of layers) {
    for (const each of weight.through) {
      const [output] = each.outputs;
      if (instead.has(output!)) continue;
      const copy = new Value(names.fresh(`${output!.name}_adapted`), output!.type);
      const made = new Node(each.opType, replaced(each.inputs), [copy], each.attrs);
      made.domain = each.domain;
      made.name = names.fresh(`${each.name || output!.name}_adapted`);
      each.graph!.insertBefore(each, made);
      instead.set(output!, copy);
    }
    node.inputs = replaced(node.inputs);
  }
}
