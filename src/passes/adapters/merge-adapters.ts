import { cloneModel } from '../../graph/clone.js';
import { isFloat } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import type { Model, Node } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import { Tensor } from '../../graph/tensor.js';
import { eliminateDeadNodes } from '../common/eliminate-dead-nodes.js';
import { type AdaptedLayer, adaptedLayers } from './adapted-layers.js';
import { type AdapterRecord, namesIn, readAdapters, scaleOf, writeAdapters } from './adapter-record.js';
import { mergeScales } from './merge-scales.js';
import { isMergeable, putWeight } from './put-weight.js';

export type MergedAdapters = {
  model: Model;
  /** Names of the weights that have changed. */
  merged: string[];
  /** Names of the layers whose weights are quantized: their adapters stay. */
  kept: string[];
};

/**
 * A copy of the model in which the adapters of floating-point weights are added to these: W + scale * A B, computed in
 * float64. Those of quantized weights stay as they are, and so do prompts.
 */
export function mergeAdapters(source: Model): MergedAdapters {
  const model = cloneModel(source);
  const { graph } = model;
  const names = Names.of(model);
  const layersByNode = () => new Map(adaptedLayers(graph).map(layer => [layer.node, layer]));
  let layers = layersByNode();
  const merged: string[] = [];
  const kept: AdapterRecord[] = [];
  for (const record of readAdapters(model)) {
    const places = placesOf(model, record, layers);
    if (places.some(({ layer }) => !isMergeable(layer))) {
      kept.push(record);
      continue;
    }
    for (const { add, layer } of places) {
      const [base, output] = [add.inputs[0]!, add.outputs[0]!];
      add.graph!.remove([add]);
      if (layer.isInner) output.replaceAllUses(base);
      // The layer writes what the sum did, or the sum with another adapter.
      else base.producer!.outputs = base.producer!.outputs.map(v => (v === base ? output : v));
    }
    const own = namesIn(record);
    graph.inputs = graph.inputs.filter(v => !own.includes(v.name));
    eliminateDeadNodes(model);
    // A packed weight may have changed by the adapter of another part.
    if (record.from !== undefined || places.some(p => p.layer.isInner)) layers = layersByNode();
    const changed = places.map(p => layers.get(p.layer.node)!);
    merged.push(putWeight(graph, names, changed, withProduct(record, source, changed[0]!)));
  }
  eliminateDeadNodes(model);
  writeAdapters(model, kept);
  const scaled = mergeScales(model, names);
  return {
    model,
    merged: [...merged, ...scaled.merged],
    kept: [...kept.map(r => r.module), ...scaled.kept],
  };
}

/** The sums that add an adapter to its layers. */
function placesOf({ graph }: Model, record: AdapterRecord, layers: ReadonlyMap<Node, AdaptedLayer>) {
  const { a, b, module } = record;
  const start = [...graph.initializers.keys()].find(v => v.name === b);
  const seen = new Set<Node>();
  const places: ({ add: Node; layer: AdaptedLayer } | undefined)[] = [];
  for (const pending = [...(start?.readers ?? [])]; pending.length; ) {
    const node = pending.pop()!;
    if (seen.has(node)) continue;
    seen.add(node);
    const layer = node.opType === 'Add' ? layerOf(node, layers, record.from !== undefined) : undefined;
    const next = node.outputs[0]?.readers ?? [];
    if (layer && !seen.has(layer.node)) places.push({ add: node, layer });
    else if (next.length) pending.push(...next);
    else places.push(undefined);
  }
  if (places.length && places.every(p => p !== undefined)) return places;
  throw new AgdError(
    'invalid-model',
    `The adapter of layer '${module}' was changed: '${a}' and '${b}' are not added to a layer. Use the file as agd-onnx wrote it.`,
  );
}

/** The layer whose output, or inner weight, this sum changes; with the sums of other adapters between if it has parts. */
function layerOf(add: Node, layers: ReadonlyMap<Node, AdaptedLayer>, hasParts: boolean) {
  const before = (node: Node) => node.inputs[0]?.producer;
  let at = before(add);
  while (hasParts && at?.opType === 'Add') at = before(at);
  const layer = at && layers.get(at);
  if (layer) return layer;
  let sum = add.outputs[0]!;
  while (hasParts && sum.readers[0]?.opType === 'Add') sum = sum.readers[0].outputs[0]!;
  const inner = sum.readers[0] && layers.get(sum.readers[0]);
  return inner?.isInner && inner.node.inputs[1] === sum ? inner : undefined;
}

type Floats = ReturnType<Tensor['floats']>;

/** W + scale * A B, of DoRA with its magnitudes, in the layout and type that W has in the file. */
function withProduct(record: AdapterRecord, source: Model, layer: AdaptedLayer): Tensor {
  const stored = (name: string) => {
    const found = [...source.graph.initializers].find(([v]) => v.name === name)?.[1];
    if (!found)
      throw new AgdError(
        'invalid-model',
        `The model lacks '${name}' of the adapter of '${record.module}': use the file as agd-onnx wrote it.`,
      );
    return found.floats();
  };
  const { weight, kind, outAxis, inputs, outputs, kernel, node } = layer;
  const { tensor, isTransposed } = weight;
  if (!isFloat(tensor.dtype)) throw new Error(`'${record.weight}' is not a floating-point tensor.`);
  const { r, from = 0 } = record;
  const [a, b, magnitude] = namesIn(record).map(stored) as [Floats, Floats, Floats?];
  const alpha = node.attrs.get('alpha');
  const factor = alpha?.type === 'float' ? alpha.value : 1;
  const scale = scaleOf(record) / factor;
  const count = record.from === undefined ? outputs : b.length / r;
  const columns = inputs * kernel.reduce((n, d) => n * d, 1);
  const result = Float64Array.from(tensor.floats());
  const isConv = kind === 'conv';
  // A convolution's A is [r, columns] and its B is [outputs, r]; of others A is [columns, r] and B [r, outputs].
  const outFirst = isConv || (isTransposed ? 1 - outAxis : outAxis) === 0;
  const at = (o: number, c: number) => (outFirst ? (from + o) * columns + c : c * outputs + from + o);
  for (let o = 0; o < count; o++) {
    let squares = 0;
    for (let c = 0; c < columns; c++) {
      let sum = 0;
      for (let k = 0; k < r; k++)
        sum += isConv ? b[o * r + k]! * a[k * columns + c]! : a[c * r + k]! * b[k * count + o]!;
      result[at(o, c)]! += scale * sum;
      squares += result[at(o, c)]! ** 2;
    }
    if (!magnitude || !squares) continue;
    const stretch = magnitude[o]! / (Math.abs(factor) * Math.sqrt(squares));
    for (let c = 0; c < columns; c++) result[at(o, c)]! *= stretch;
  }
  return Tensor.ofNumbers(tensor.dtype, tensor.dims, result);
}
