/** Prepares a model for quantization-aware training: quantizers where ONNX Runtime's quantizer would put them. */
import { cloneModel } from '../../graph/clone.js';
import { AgdError } from '../../graph/errors.js';
import { type Model, type Node, Value } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import { spellDefaultDomain } from '../../graph/proto/read.js';
import { Tensor } from '../../graph/tensor.js';
import { adapterNames } from '../adapters/adapter-names.js';
import { isAttachedNode } from '../normalize/attached.js';
import { inlineFunctions } from '../normalize/inline-functions.js';
import { liftConstants } from '../normalize/lift-constants.js';
import { upgradeOpset } from '../normalize/upgrade-opset.js';
import type { QatSpec, Ranges } from '../options/quantization.js';
import type { LossSpec } from '../options.js';
import { foldBatchNorm } from './fold-batch-norm.js';
import { isQuantized, liftQuantized } from './lift-quantized.js';
import { activationsOf, methodOf, planQuantization } from './plan-quantization.js';
import { REDUCED, readQuantizers, writeQuantizers } from './quantization-record.js';
import { eightBits, LEAST, QuantizerNodes, type Scale } from './quantizer-nodes.js';
import { transposeWeights } from './transpose-weights.js';

/** A copy of the model as it is quantized, and the names of the values whose ranges that takes. */
export function valuesToCalibrate(
  source: Model,
  spec: QatSpec,
  loss?: LossSpec,
): { model: Model; values: string[] } {
  const model = prepared(source, spec);
  if (isQuantized(model.graph)) return { model, values: [] };
  const { observed } = planQuantization(model.graph, spec, { loss });
  return { model, values: [...observed].map(v => v.name) };
}

/**
 * A copy of the model for quantization-aware training: QuantizeLinear and DequantizeLinear are where ONNX Runtime's
 * quantizer would put them, weights stay as floating-point numbers before theirs, and BatchNormalization is merged into
 * the layer before it. `ranges` are those of `valuesToCalibrate`. Scales train (`lsq`), follow the data and weights
 * (`ema`), or stay (`fixed`).
 *
 * A model that is quantized already keeps its scales and what it rounds: see `liftQuantized`. Throws as that and as
 * `planQuantization`, and `missing-data` without ranges.
 */
export function quantizeModel(
  source: Model,
  spec: QatSpec,
  ranges: Ranges | undefined,
  loss?: LossSpec,
): Model {
  const model = prepared(source, spec);
  if (isQuantized(model.graph)) {
    liftQuantized(model, spec);
    return model;
  }
  const isAsIs = activationsOf(spec) === 'none';
  if (!ranges && !isAsIs)
    throw new AgdError(
      'missing-data',
      '--qat needs data that give activations their initial ranges: with inject, --calibrate FILE.',
    );
  insert(model, spec, ranges ?? new Map(), loss);
  return model;
}

function prepared(source: Model, { weights }: QatSpec): Model {
  if (readQuantizers(source).length)
    throw new AgdError(
      'bad-option',
      'The model already contains quantization-aware training: leave out --qat.',
    );
  if (adapterNames(source).size)
    throw new AgdError('bad-option', '--qat: the model has adapters; merge them first with agd-onnx export.');
  const model = cloneModel(source);
  spellDefaultDomain(model);
  inlineFunctions(model);
  // The first version in which a tensor may have several scales.
  upgradeOpset(model, 13);
  if (weights === 'int4' && !isQuantized(model.graph)) raiseOpset(model);
  liftConstants(model);
  transposeWeights(model);
  foldBatchNorm(model, Names.of(model));
  return model;
}

/** Operators that mean something else in opset 21, the first with 4-bit integers, than in opset 18. */
const CHANGED = /^(DFT|GridSample|GroupNormalization)$/;

function raiseOpset(model: Model): void {
  upgradeOpset(model);
  const opset = model.opsetImports.get('') ?? 0;
  if (opset >= 21) return;
  const changed = model.graph.nodes.find(node => CHANGED.test(node.opType) && node.domain === '');
  if (changed)
    throw new AgdError(
      'unsupported-op',
      `--qat int4 needs opset 21, in which ${changed.label} means something else: export the model with opset 21.`,
    );
  model.opsetImports.set('', 21);
  model.irVersion = Math.max(model.irVersion, 10);
}

/** The whole numbers of each type that scales are chosen for: weights are symmetric. */
const LARGEST = { int8: 127, uint8: 127, int4: 7 } as const;
type Rounded = keyof typeof LARGEST;

function insert(model: Model, spec: QatSpec, ranges: Ranges, loss: LossSpec | undefined): void {
  const { graph } = model;
  const { weights, reduceRange } = spec;
  const method = methodOf(spec);
  const { constants, activations } = planQuantization(graph, spec, { ranges, loss });
  const write = new QuantizerNodes(model, method);
  const { first, names } = write;

  const done = new Map<string, Value>();
  for (const { node, index, value, axis, isWeight } of constants) {
    const dtype = (isWeight ? weights : activationsOf(spec)) as Rounded;
    const key = JSON.stringify([value.name, axis, dtype]);
    let rounded = done.get(key);
    if (!rounded) {
      const { name } = value;
      const tensor = graph.initializers.get(value)!;
      const stored = dtype === 'int4' ? dtype : undefined;
      const dims = axis === undefined ? [] : [tensor.dims[axis]!];
      const zeros = Tensor.filled(stored ? eightBits(stored) : dtype, dims, dtype === 'uint8' ? 128 : 0);
      const zero = write.constant(`${name}_zero_point`, zeros);
      const isReduced = isWeight && dtype === 'int8' && reduceRange;
      const most = isReduced ? REDUCED : LARGEST[dtype];
      const more = { axis, most, stored };
      const initial = () => write.constant(`${name}_scale`, scalesOfConstant(tensor, most, axis));
      const scale =
        method === 'ema'
          ? write.largest(value, tensor, zero, more)
          : write.stored(initial(), zero, { ...more, weight: name });
      rounded = new Value(names.fresh(`${name}_DequantizeLinear_Output`));
      const isBounded = isReduced && method !== 'ema';
      const x = isBounded ? write.clipped(value, tensor, scale.scale, most, axis) : value;
      write.round(first, x, scale, rounded, axis);
      done.set(key, rounded);
    }
    node.setInput(index, rounded);
  }

  const dtype = activationsOf(spec) as 'uint8' | 'int8';
  const scales = new Map<Value, Scale>();
  const scaleOf = (value: Value): Scale => {
    const known = scales.get(value);
    if (known) return known;
    // The integer kernel returns probabilities in steps of 1 / 255.
    const isProbability = value.producer?.opType === 'Softmax';
    const range = isProbability ? ([0, 1] as const) : withZero(ranges.get(value.name)!);
    const made =
      method === 'ema' && !isProbability
        ? write.averaged(value.name, range, dtype)
        : fromRange(write, value.name, range, dtype, isProbability);
    scales.set(value, made);
    return made;
  };
  const after = new Map<Node, Node[]>();
  for (const [value, shared] of activations) {
    const scale = scaleOf(shared);
    const { producer } = value;
    const nodes: Node[] = [];
    if (value.outputOf.length && producer) {
      // The output keeps its name.
      const raw = new Value(names.fresh(`${value.name}_QuantizeLinear_Input`), value.type);
      producer.outputs = producer.outputs.map(v => (v === value ? raw : v));
      write.round(nodes, raw, scale, value);
    } else {
      const rounded = new Value(names.fresh(`${value.name}_DequantizeLinear_Output`), value.type);
      // A teacher and a graph of the loss read numbers that are not rounded.
      const unrounded = value.uses.filter(({ node }) => isAttachedNode(node));
      value.replaceAllUses(rounded);
      for (const { node, index } of unrounded) node.setInput(index, value);
      write.round(nodes, value, scale, rounded);
    }
    if (producer) after.set(producer, [...(after.get(producer) ?? []), ...nodes]);
    else first.push(...nodes);
  }
  graph.nodes = [...first, ...graph.nodes.flatMap(node => [node, ...(after.get(node) ?? [])])];
  writeQuantizers(model, write.quantizers);
}

function fromRange(
  write: QuantizerNodes,
  name: string,
  [low, high]: readonly [number, number],
  dtype: 'uint8' | 'int8',
  isFixed: boolean,
): Scale {
  const scale = Math.max(Math.fround((high - low) / 255), LEAST);
  const least = dtype === 'int8' ? -128 : 0;
  const zero = write.constant(
    `${name}_zero_point`,
    Tensor.filled(dtype, [], Math.round(least - low / scale)),
  );
  const source = write.constant(`${name}_scale`, Tensor.filled('float32', [], scale));
  return isFixed ? write.stored(source, zero, {}, true) : write.stored(source, zero);
}

/** A range that contains zero, which padding and rectified values need exactly. */
const withZero = ([low, high]: readonly [number, number]): [number, number] => [
  Math.fround(Math.min(low, 0)),
  Math.fround(Math.max(high, 0)),
];

/** The scales with which the largest magnitude of each channel is the largest whole number. */
function scalesOfConstant(tensor: Tensor, largest: number, axis: number | undefined): Tensor {
  const { dims } = tensor;
  const channels = axis === undefined ? 1 : dims[axis]!;
  const inner = axis === undefined ? tensor.size : dims.slice(axis + 1).reduce((n, d) => n * d, 1);
  const most = new Float64Array(channels);
  tensor.floats().forEach((x: number, i: number) => {
    const channel = Math.floor(i / inner) % channels;
    most[channel] = Math.max(most[channel]!, Math.abs(x));
  });
  const scales = most.map(x => (x || 1) / largest);
  return Tensor.ofNumbers('float32', axis === undefined ? [] : [channels], scales);
}
