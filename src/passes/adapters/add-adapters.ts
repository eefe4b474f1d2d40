import { cloneModel } from '../../graph/clone.js';
import { dtypeCode, type FloatDType } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import { type Model, Node, Value } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import { spellDefaultDomain } from '../../graph/proto/read.js';
import { random } from '../../graph/random.js';
import { Tensor } from '../../graph/tensor.js';
import { float, toAttrs } from '../../ops/core/builder.js';
import { normal, uniformByFanIn } from '../adapt/initial-values.js';
import { globTest } from '../common/match-names.js';
import { inlineFunctions } from '../normalize/inline-functions.js';
import type { LoadedAdapters, LoraSpec } from '../options/adapters.js';
import { isBlockwise, storedAt } from '../select/find-head.js';
import { type AdaptedLayer, adaptedLayers, checkAdaptable, describeLayer } from './adapted-layers.js';
import { type AdapterRecord, scaleOf, writeAdapters } from './adapter-record.js';
import { layersMatching, layersNamed } from './choose-layers.js';
import { checkMagnitudes, columnSquares } from './column-norms.js';
import { type OpenedProduct, openQAttention } from './open-qattention.js';
import { partsOf } from './packed-parts.js';
import { fromPeft } from './peft-layout.js';
import { type Emit, type Magnitudes, rescale } from './rescale.js';

type Rank = Pick<AdapterRecord, 'r' | 'alpha' | 'dropout' | 'rslora'> & { dora: boolean };
type Planned = Rank & { layer: AdaptedLayer; values?: { a: Tensor; b: Tensor; magnitude?: Tensor } };

/**
 * A copy of the model with low-rank adapters: y = layer(x) + dropout(x) A B * scale, as of Hu et al.: «LoRA: Low-Rank
 * Adaptation of Large Language Models» (arXiv:2106.09685). The layers and their weights stay as they are, quantized or
 * not, except for QAttention, whose product becomes a layer (see `open-qattention.ts`). A of a layer is initialized as PEFT
 * does, uniform by its fan-in, and B with zeros; of an embedding the other way round. Adapters are float32 where the layer is
 * of 16 bits. `notes` gets a line on the layers of a pattern that are left out: those narrower than the rank, and those whose weights train
 * themselves: globs of `train` match their names. Throws `no-such-value`, `bad-option`, `unsupported-op`.
 */
export function addAdapters(
  source: Model,
  specs: readonly LoraSpec[],
  loaded: LoadedAdapters | undefined,
  seed = 0,
  notes: string[] = [],
  train: readonly string[] = [],
): Model {
  const model = cloneModel(source);
  spellDefaultDomain(model);
  inlineFunctions(model);
  const layers = adaptedLayers(model.graph).flatMap(layer => [layer, ...partsOf(layer)]);
  const planned = loaded ? planLoaded(layers, loaded) : planSpecs(layers, specs, notes, train);
  for (const { layer, dora, dropout } of planned) {
    checkAdaptable(layer);
    if (dora) checkMagnitudes(layer);
    if (dropout && layer.isInner)
      throw new AgdError(
        'unsupported-op',
        `No dropout for layer ${describeLayer(layer)}: the adapter is added to its weight; leave out dropout.`,
      );
  }
  place(model, withOpenProducts(model, planned), seed);
  return model;
}

/** Gives QAttention its product as a layer of its own. */
function withOpenProducts(model: Model, planned: readonly Planned[]): Planned[] {
  const names = Names.of(model);
  const opened = new Map<Node, OpenedProduct>();
  return planned.map(each => {
    const { node } = each.layer;
    if (node.opType !== 'QAttention') return each;
    const product = opened.get(node) ?? openQAttention(node, names, model.opset);
    opened.set(node, product);
    return { ...each, layer: { ...each.layer, ...product } };
  });
}

function planSpecs(
  layers: readonly AdaptedLayer[],
  specs: readonly LoraSpec[],
  notes: string[],
  train: readonly string[],
): Planned[] {
  const trained = train.map(globTest);
  const planned = new Map<AdaptedLayer, Planned>();
  const byPattern = new Set<AdaptedLayer>();
  for (const { match, r = 8, alpha = r, dropout = 0, rslora = false, dora = false } of specs) {
    for (const glob of [match].flat()) {
      for (const layer of layersMatching(layers, glob, '--lora')) {
        for (const other of planned.keys())
          if (other.node === layer.node && !other.part !== !layer.part) planned.delete(other);
        if (/[*?]/.test(glob)) byPattern.add(layer);
        else byPattern.delete(layer);
        planned.set(layer, { layer, r, alpha, dropout, rslora, dora });
      }
    }
  }
  const whole = [...byPattern].filter(
    layer => planned.has(layer) && trained.some(test => test(layer.weight.value.name)),
  );
  if (whole.length === planned.size)
    throw new AgdError(
      'bad-option',
      `--lora has no layer left: --train or a new head already trains ${whole.map(describeLayer).join(', ')} in full. Choose other layers.`,
    );
  for (const layer of whole) planned.delete(layer);
  if (whole.length)
    notes.push(`--lora leaves out ${whole.map(describeLayer).join(', ')}: the weight itself trains.`);
  const narrow = [...planned.values()].filter(({ layer, r }) => r > highestRank(layer));
  const refused = narrow.length === planned.size ? narrow[0] : narrow.find(p => !byPattern.has(p.layer));
  if (refused)
    throw new AgdError(
      'bad-option',
      `--lora: rank ${refused.r} is above that of layer ${describeLayer(refused.layer)}, which is at most ${highestRank(refused.layer)}.`,
    );
  for (const { layer } of narrow) planned.delete(layer);
  if (narrow.length)
    notes.push(
      `--lora leaves out ${narrow.map(p => describeLayer(p.layer)).join(', ')}: the rank ${narrow[0]!.r} is above that of the layer.`,
    );
  return layers.flatMap(layer => planned.get(layer) ?? []);
}

const highestRank = ({ inputs, kernel, outputs }: AdaptedLayer): number =>
  Math.min(inputs * kernel.reduce((n, d) => n * d, 1), outputs);

/** The layers that adapters of a file are for. */
function planLoaded(layers: readonly AdaptedLayer[], { adapters, name }: LoadedAdapters): Planned[] {
  return [...layersNamed(layers, adapters, name)].map(([layer, adapter]) => {
    const values = fromPeft(adapter, name, layer);
    const { r, alpha, rslora } = adapter;
    const dropout = layer.isInner ? 0 : adapter.dropout;
    return { r, alpha, dropout, rslora, dora: values.magnitude !== undefined, layer, values };
  });
}

/** The values of an adapter, and the names of the norms that DoRA takes as constants. */
type Shared = { a: Value; b: Value; magnitudes?: Magnitudes; norms?: string[] };

function place(model: Model, planned: readonly Planned[], seed: number): void {
  const { graph } = model;
  const names = Names.of(model);
  const around = new Map<Node, { before: Node[]; after: Node[] }>();
  const records: AdapterRecord[] = [];
  /** Layers with one weight have one adapter. */
  const shared = new Map<string, Shared>();
  const constant = (hint: string, tensor: Tensor) => {
    const { dtype, dims: shape } = tensor;
    const value = new Value(names.fresh(hint), { kind: 'tensor', dtype, shape });
    graph.initializers.set(value, tensor);
    return value;
  };
  planned.forEach(({ layer, values, ...rank }, stream) => {
    const { node, kind, module, name, part, isInner } = layer;
    const weight = layer.weight.value.name;
    const key = JSON.stringify([weight, kind, layer.outAxis, layer.weight.isTransposed, part, rank]);
    let pair = shared.get(key);
    const compute: FloatDType = layer.dtype === 'float64' ? 'float64' : 'float32';
    if (!pair) {
      const { a, b } = values ?? initialValues(layer, rank.r, compute, random(seed, stream));
      pair = { a: constant(`${name}.lora_A`, a), b: constant(`${name}.lora_B`, b) };
      const record: AdapterRecord = {
        ...{ module, kind, weight, a: pair.a.name, b: pair.b.name, from: part?.from, ...rankOf(rank) },
      };
      if (rank.dora) {
        const [of, squares] = [[layer.outputs], columnSquares(layer)];
        const norms = Tensor.ofNumbers(compute, of, squares.map(Math.sqrt));
        pair.magnitudes = {
          magnitude: constant(`${name}.lora_magnitude_vector`, values?.magnitude ?? norms),
          squares: constant('lora_squares', Tensor.ofNumbers(compute, of, squares)),
        };
        record.magnitude = pair.magnitudes.magnitude.name;
        record.norms = pair.norms = [];
        const scaledBy = scalesOf(layer);
        if (scaledBy.length) record.scaledBy = scaledBy;
      }
      shared.set(key, pair);
      records.push(record);
    }
    const added: Node[] = [];
    const emit: Emit = (opType, inputs, attrs = {}, { output, domain = '' } = {}) => {
      const value = output ?? new Value(names.fresh(`${module}.lora_${opType.toLowerCase()}`));
      const made = new Node(opType, inputs, [value], toAttrs(attrs));
      made.name = names.fresh(`${module}.lora.${opType}`);
      made.domain = domain;
      added.push(made);
      return value;
    };
    const to = (x: Value, dtype: FloatDType) => emit('Cast', [x], { to: dtypeCode(dtype) });
    const isCast = layer.dtype !== compute;
    const place = around.get(node) ?? { before: [], after: [] };
    around.set(node, place);
    const y = node.outputs[0]!;
    const base = isInner ? node.inputs[1]! : new Value(names.fresh(`${y.name}_base`), y.type);
    let x = isCast && kind !== 'embedding' && !isInner ? to(layer.input, compute) : layer.input;
    if (rank.dropout && kind !== 'embedding') {
      const ratio = () => constant('lora_dropout', Tensor.ofNumbers('float32', [], [rank.dropout]));
      x =
        model.opset >= 12
          ? emit('Dropout', [x, ratio()])
          : emit('Dropout', [x], { ratio: float(rank.dropout) });
    }
    let b = pair.b;
    if (part) {
      const pads = [0, part.from, 0, part.all - part.from - layer.outputs];
      b =
        model.opset >= 11
          ? emit('Pad', [b, constant('lora_pads', Tensor.ints(pads))])
          : emit('Pad', [b], { pads });
    }
    let low: Value;
    if (kind === 'conv') {
      const { kernel_shape: _, ...attrs } = Object.fromEntries(node.attrs);
      low = emit('Conv', [emit('Conv', [x, pair.a], attrs), pair.b]);
    } else if (kind === 'embedding') low = emit('MatMul', [emit('Gather', [pair.a, x]), pair.b]);
    else if (isInner) low = emit('MatMul', [pair.a, b]);
    else low = emit('MatMul', [emit('MatMul', [x, pair.a]), b]);
    const scale = constant('lora_scale', Tensor.ofNumbers(compute, [], [scaleOf(rank)]));
    let delta = emit('Mul', [low, scale]);
    if (pair.magnitudes) {
      const dropped = rank.dropout && kind !== 'embedding' ? x : undefined;
      const from = { layer, base, dropped, delta, a: pair.a, b: pair.b, scale, compute };
      const rescaled = rescale(from, pair.magnitudes, { emit, constant, opset: model.opset });
      delta = rescaled.delta;
      pair.norms!.push(rescaled.norm.name);
    }
    if (isCast) delta = to(delta, layer.dtype);
    if (isInner) {
      node.setInput(1, emit('Add', [base, delta]));
      place.before.push(...added);
      return;
    }
    node.setOutput(0, base);
    emit('Add', [base, delta], {}, { output: y });
    // The first to be added writes the result, and reads the sum with the next.
    place.after.unshift(...added);
  });
  for (const each of new Set([...around.keys()].map(node => node.graph!)))
    each.nodes = each.nodes.flatMap(node => {
      const { before = [], after = [] } = around.get(node) ?? {};
      return [...before, node, ...after];
    });
  writeAdapters(model, records);
}

/** Names of the scales and zero points that a layer's weight is dequantized with. */
function scalesOf({ node, weight }: AdaptedLayer): string[] {
  const read = [
    ...weight.through.flatMap(n => n.inputs.slice(1)),
    ...(isBlockwise(node.opType) ? node.inputs.slice(2, 4) : []),
  ];
  return read.flatMap(value => (value && storedAt(node.graph!, value)?.value.name) ?? []);
}

const rankOf = ({ r, alpha, dropout, rslora }: Rank) => ({ r, alpha, dropout, rslora });

/** A and B in the form that the graph multiplies with: [inputs, r] and [r, outputs], of a convolution its kernels. */
function initialValues(layer: AdaptedLayer, r: number, dtype: FloatDType, draw: () => number) {
  const { kind, inputs, outputs, kernel } = layer;
  const count = (dims: readonly number[]) => dims.reduce((n, d) => n * d, 1);
  if (kind === 'embedding') {
    const b = Float64Array.from({ length: r * outputs }, () => normal(draw));
    return { a: Tensor.zeros(dtype, [inputs, r]), b: Tensor.ofNumbers(dtype, [r, outputs], b) };
  }
  const isConv = kind === 'conv';
  const dims = isConv ? [r, inputs, ...kernel] : [inputs, r];
  const a = uniformByFanIn(count(dims), inputs * count(kernel), draw);
  const zeros = isConv ? [outputs, r, ...kernel.map(() => 1)] : [r, outputs];
  return { a: Tensor.ofNumbers(dtype, dims, a), b: Tensor.zeros(dtype, zeros) };
}
