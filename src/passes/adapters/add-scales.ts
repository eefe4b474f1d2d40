import { cloneModel } from '../../graph/clone.js';
import { dtypeCode } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import { type Model, Node, Value } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import { spellDefaultDomain } from '../../graph/proto/read.js';
import { Tensor } from '../../graph/tensor.js';
import { type AttrInit, toAttrs } from '../../ops/core/builder.js';
import { inlineFunctions } from '../normalize/inline-functions.js';
import type { Ia3Spec, LoadedAdapters, PeftScale } from '../options/adapters.js';
import { type AdaptedLayer, adaptedLayers, checkAdaptable, describeLayer } from './adapted-layers.js';
import { layersMatching, layersNamed } from './choose-layers.js';
import { partsOf } from './packed-parts.js';
import { type ScaleRecord, writeScales } from './scale-record.js';

type Planned = { layer: AdaptedLayer; feedforward: boolean; value?: Tensor };

/**
 * A copy of the model that multiplies the outputs of layers, or the inputs of feed-forward ones, with trained vectors, which
 * start as ones: Liu et al.: «Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning»
 * (arXiv:2205.05638), IA3. The vectors are float32 where the layer is of 16 bits. Throws `no-such-value`, `bad-shape`,
 * `unsupported-op`.
 */
export function addScales(
  source: Model,
  specs: readonly Ia3Spec[],
  loaded: LoadedAdapters | undefined,
): Model {
  const model = cloneModel(source);
  spellDefaultDomain(model);
  inlineFunctions(model);
  const layers = adaptedLayers(model.graph).flatMap(layer => [layer, ...partsOf(layer)]);
  const planned = loaded?.scales ? planLoaded(layers, loaded, loaded.scales) : planSpecs(layers, specs);
  for (const each of planned) check(each);
  place(model, planned);
  return model;
}

function planSpecs(layers: readonly AdaptedLayer[], specs: readonly Ia3Spec[]): Planned[] {
  const planned = new Map<AdaptedLayer, Planned>();
  for (const { match, feedforward = false } of specs)
    for (const glob of [match].flat())
      for (const layer of layersMatching(layers, glob, '--ia3')) planned.set(layer, { layer, feedforward });
  return layers.flatMap(layer => planned.get(layer) ?? []);
}

function planLoaded(
  layers: readonly AdaptedLayer[],
  { name }: LoadedAdapters,
  scales: readonly PeftScale[],
): Planned[] {
  const kinds = layers.filter(l => l.kind !== 'embedding');
  const found = layersNamed(kinds, scales, name);
  return [...found].map(([layer, { feedforward, value }]) => {
    const count = feedforward ? layer.inputs : layer.outputs;
    if (value.size !== count)
      throw new AgdError(
        'bad-shape',
        `${name} is an adapter of another model: its ia3_l for layer ${describeLayer(layer)} has ${value.size} numbers, not ${count}.`,
      );
    return { layer, feedforward, value };
  });
}

/** Throws `unsupported-op` for a layer without activations to scale. */
function check({ layer, feedforward }: Planned): void {
  checkAdaptable(layer);
  const why =
    layer.kind === 'embedding'
      ? 'an embedding'
      : layer.isInner || layer.part || layer.node.opType === 'QAttention'
        ? 'it is part of an operator that computes more'
        : feedforward && layer.quantized === 'MatMulInteger'
          ? 'its input is quantized; leave out feedforward'
          : undefined;
  if (why) throw new AgdError('unsupported-op', `No IA3 vector for layer ${describeLayer(layer)}: ${why}.`);
}

function place(model: Model, planned: readonly Planned[]): void {
  const { graph } = model;
  const names = Names.of(model);
  const records: ScaleRecord[] = [];
  /** Layers with one weight have one vector. */
  const shared = new Map<string, { scale: Value; record: ScaleRecord }>();
  for (const { layer, feedforward, value } of planned) {
    const { node, module, name, weight, bias, kind, kernel } = layer;
    const compute = layer.dtype === 'float64' ? 'float64' : 'float32';
    const count = feedforward ? layer.inputs : layer.outputs;
    const key = JSON.stringify([weight.value.name, layer.outAxis, weight.isTransposed, feedforward]);
    let own = shared.get(key);
    if (!own) {
      const dims = kind === 'conv' ? [1, count, ...kernel.map(() => 1)] : [count];
      const tensor = value
        ? Tensor.ofNumbers(compute, dims, value.floats())
        : Tensor.filled(compute, dims, 1);
      const scale = new Value(names.fresh(`${name}.ia3_l`), { kind: 'tensor', dtype: compute, shape: dims });
      graph.initializers.set(scale, tensor);
      const record = { module, weight: weight.value.name, biases: [], scale: scale.name, feedforward };
      own = { scale, record };
      shared.set(key, own);
      records.push(record);
    }
    const { scale, record } = own;
    if (bias && !record.biases.includes(bias.value.name)) record.biases.push(bias.value.name);
    const make = (opType: string, inputs: readonly Value[], output: Value, attrs: AttrInit = {}) => {
      const made = new Node(opType, inputs, [output], toAttrs(attrs));
      made.name = names.fresh(`${module}.ia3.${opType}`);
      return made;
    };
    const added: Node[] = [];
    let factor = scale;
    if (layer.dtype !== compute) {
      factor = new Value(names.fresh(`${module}.ia3_cast`));
      added.push(make('Cast', [scale], factor, { to: dtypeCode(layer.dtype) }));
    }
    if (feedforward) {
      const scaled = new Value(names.fresh(`${module}.ia3_input`));
      added.push(make('Mul', [layer.input, factor], scaled));
      for (const each of added) node.graph!.insertBefore(node, each);
      node.setInput(0, scaled);
    } else {
      const { output } = layer;
      const last = output.producer!;
      const base = new Value(names.fresh(`${output.name}_base`), output.type);
      last.setOutput(0, base);
      added.push(make('Mul', [base, factor], output));
      const own = last.graph!;
      const at = own.nodes.indexOf(last) + 1;
      own.nodes = [...own.nodes.slice(0, at), ...added, ...own.nodes.slice(at)];
    }
  }
  writeScales(model, records);
}
