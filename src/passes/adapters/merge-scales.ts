import { AgdError } from '../../graph/errors.js';
import { type Graph, type Model, type Node, Value } from '../../graph/ir.js';
import type { Names } from '../../graph/names.js';
import { Tensor } from '../../graph/tensor.js';
import { eliminateDeadNodes } from '../common/eliminate-dead-nodes.js';
import { type AdaptedLayer, adaptedLayers } from './adapted-layers.js';
import { isMergeable, putWeight } from './put-weight.js';
import { readScales, type ScaleRecord, writeScales } from './scale-record.js';

type Place = { mul: Node; layer: AdaptedLayer };

/**
 * Multiplies the weights in floating point, and biases of scaled outputs, with the vectors of their layers. Those of
 * quantized weights stay. Changes the model; returns the names of the weights that changed and the layers that stay.
 */
export function mergeScales(model: Model, names: Names): { merged: string[]; kept: string[] } {
  const { graph } = model;
  const merged: string[] = [];
  const kept: ScaleRecord[] = [];
  for (const record of readScales(model)) {
    const places = placesOf(graph, record);
    const layers = places.map(p => p.layer);
    const [layer] = layers as [AdaptedLayer];
    if (!layers.every(isMergeable)) {
      kept.push(record);
      continue;
    }
    const scale = [...graph.initializers].find(([v]) => v.name === record.scale)![1].floats();
    for (const { mul, layer } of places) {
      const [x, , y] = [mul.inputs[0]!, mul.inputs[1]!, mul.outputs[0]!];
      mul.graph!.remove([mul]);
      if (record.feedforward) layer.node.setInput(0, x);
      else x.producer!.outputs = x.producer!.outputs.map(v => (v === x ? y : v));
    }
    graph.inputs = graph.inputs.filter(v => v.name !== record.scale);
    eliminateDeadNodes(model);
    merged.push(putWeight(graph, names, layers, scaledWeight(layer, record, scale)));
    if (!record.feedforward) for (const { bias } of layers) if (bias) putBias(graph, names, bias, scale);
  }
  eliminateDeadNodes(model);
  writeScales(model, kept);
  return { merged, kept: kept.map(r => r.module) };
}

/** The products with the vector, and the layers that they scale. */
function placesOf(graph: Graph, { scale, module, feedforward }: ScaleRecord): Place[] {
  const layers = adaptedLayers(graph);
  const value = [...graph.initializers.keys()].find(v => v.name === scale);
  const readers = (value?.readers ?? []).flatMap(n => (n.opType === 'Cast' ? n.outputs[0]!.readers : [n]));
  const places = readers.map(mul => {
    const layer = feedforward
      ? layers.find(l => mul.outputs[0]!.readers.includes(l.node))
      : layerBehind(layers, mul.inputs[0]!);
    return mul.opType === 'Mul' && layer ? { mul, layer } : undefined;
  });
  if (places.length && places.every(p => p !== undefined)) return places;
  throw new AgdError(
    'invalid-model',
    `The IA3 vector of layer '${module}' was changed: '${scale}' scales no layer. Use the file as agd-onnx wrote it.`,
  );
}

/** The layer that writes this value, with the sums that add other adapters to it between. */
function layerBehind(layers: readonly AdaptedLayer[], value: Value): AdaptedLayer | undefined {
  const layer = layers.find(l => l.output === value);
  if (layer || value.producer?.opType !== 'Add') return layer;
  for (const input of value.producer.inputs) {
    const found = input && layerBehind(layers, input);
    if (found) return found;
  }
  return undefined;
}

/** W with its columns, or rows if `feedforward`, times the vector, in the layout that W has in the file. */
function scaledWeight(layer: AdaptedLayer, { feedforward }: ScaleRecord, scale: ArrayLike<number>): Tensor {
  const { weight, outAxis, kind } = layer;
  const { tensor, isTransposed } = weight;
  const out = isTransposed ? 1 - outAxis : outAxis;
  const axis = !feedforward ? out : kind === 'conv' ? 1 : 1 - out;
  const inner = tensor.dims.slice(axis + 1).reduce((n, d) => n * d, 1);
  const result = Float64Array.from(
    tensor.floats(),
    (x, i) => x * scale[Math.floor(i / inner) % scale.length]!,
  );
  return Tensor.ofNumbers(layer.dtype, tensor.dims, result);
}

/** Gives a layer its bias times the vector; others that read the bias go on with what it was. */
function putBias(
  graph: Graph,
  names: Names,
  { value, tensor, node, index, through }: NonNullable<AdaptedLayer['bias']>,
  scale: ArrayLike<number>,
): void {
  const { dims } = tensor;
  const dtype = tensor.dtype as AdaptedLayer['dtype'];
  const numbers = Float64Array.from(tensor.floats(), (x, i) => x * scale[i]!);
  const scaled = Tensor.ofNumbers(dtype, dims, numbers);
  const isOwn = graph.initializers.has(value) && value.readers.length === 1 && !value.outputOf.length;
  if (isOwn && !through.length) {
    graph.initializers.set(value, scaled);
    return;
  }
  const target = new Value(names.fresh(`${value.name}_adapted`), { kind: 'tensor', dtype, shape: dims });
  graph.initializers.set(target, scaled);
  node.setInput(index, target);
}
