import { cloneModel } from '../../graph/clone.js';
import { type DType, dtypeCode } from '../../graph/dtype.js';
import { AgdError } from '../../graph/errors.js';
import { type Model, Node, Value } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import { spellDefaultDomain } from '../../graph/proto/read.js';
import { Tensor } from '../../graph/tensor.js';
import { type AttrInit, toAttrs } from '../../ops/core/builder.js';
import { adapterNames } from '../adapters/apply-adapters.js';
import { inlineFunctions } from '../normalize/inline-functions.js';
import { liftConstants } from '../normalize/lift-constants.js';
import { upgradeOpset } from '../normalize/upgrade-opset.js';
import type { QatSpec, Ranges } from '../options/quantization.js';
import { foldBatchNorm } from './fold-batch-norm.js';
import { activationsOf, methodOf, planQuantization } from './plan-quantization.js';
import {
  type Quantizer,
  REDUCED,
  readQuantizers,
  type ScaleKind,
  writeQuantizers,
} from './quantization-record.js';

/** A copy of the model as it is quantized, and the names of the values whose ranges that takes. */
export function valuesToCalibrate(source: Model, spec: QatSpec): { model: Model; values: string[] } {
  const model = prepared(source, spec);
  const { observed } = planQuantization(model.graph, spec);
  return { model, values: [...observed].map(v => v.name) };
}

/**
 * A copy of the model for quantization-aware training: QuantizeLinear and DequantizeLinear are where ONNX Runtime's
 * quantizer would put them, weights stay as floating-point numbers before theirs, and BatchNormalization is merged into
 * the layer before it. `ranges` are those of `valuesToCalibrate`. Scales train (`lsq`), follow the data and weights
 * (`ema`), or stay (`fixed`).
 *
 * Throws as `planQuantization`; `missing-data` without ranges, `unsupported-op` for a model that is quantized already.
 */
export function quantizeModel(source: Model, spec: QatSpec, ranges: Ranges | undefined): Model {
  const model = prepared(source, spec);
  const isAsIs = activationsOf(spec) === 'none';
  if (!ranges && !isAsIs)
    throw new AgdError(
      'missing-data',
      '--qat needs data that give activations their initial ranges: with inject, --calibrate FILE.',
    );
  insert(model, spec, ranges ?? new Map());
  return model;
}

function prepared(source: Model, { weights }: QatSpec): Model {
  const rounded = source.graph.nodes.find(node => /^(De|Dynamic)?[Qq]uantize|^QLinear/.test(node.opType));
  if (rounded || readQuantizers(source).length)
    throw new AgdError(
      'unsupported-op',
      `--qat: the model is quantized already${rounded ? `, as ${rounded.label} shows` : ''}.`,
    );
  if (adapterNames(source).size)
    throw new AgdError('bad-option', '--qat: the model has adapters; merge them first with agd-onnx export.');
  const model = cloneModel(source);
  spellDefaultDomain(model);
  inlineFunctions(model);
  // The first version in which a tensor may have several scales.
  upgradeOpset(model, 13);
  if (weights === 'int4') raiseOpset(model);
  liftConstants(model);
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

/** Scales of nothing but zeros, so that they can grow. */
const LEAST = 1e-8;

function insert(model: Model, spec: QatSpec, ranges: Ranges): void {
  const { graph } = model;
  const { weights, reduceRange } = spec;
  const method = methodOf(spec);
  const names = Names.of(model);
  const { constants, activations } = planQuantization(graph, spec, ranges);
  const quantizers: Quantizer[] = [];
  const first: Node[] = [];
  const after = new Map<Node, Node[]>();

  const constant = (hint: string, tensor: Tensor) => {
    const { dtype, dims: shape } = tensor;
    const value = new Value(names.fresh(hint), { kind: 'tensor', dtype, shape });
    graph.initializers.set(value, tensor);
    return value;
  };
  const emit = (
    nodes: Node[],
    opType: string,
    inputs: readonly Value[],
    output: string | Value,
    attrs: AttrInit = {},
  ) => {
    const value = typeof output === 'string' ? new Value(names.fresh(output)) : output;
    const node = new Node(opType, inputs, [value], toAttrs(attrs));
    node.name = names.fresh(`${value.name.replace(/_(Deq|Q)uantizeLinear_Output$/, '')}_${opType}`);
    nodes.push(node);
    return value;
  };
  const float = (number: number) => constant('quantization', Tensor.filled('float32', [], number));
  type Scale = { scale: Value; zero: Value };
  const keep = (kind: ScaleKind, source: Value, { scale, zero }: Scale, more: Partial<Quantizer> = {}) => {
    quantizers.push({ kind, scale: scale.name, zero: zero.name, source: source.name, ...more });
    return { scale, zero };
  };
  /** A scale that is stored; one that trains may not change its sign. */
  const stored = (
    name: string,
    tensor: Tensor,
    zero: Value,
    more: Partial<Quantizer> = {},
    isFixed = method === 'fixed',
  ) => {
    const source = constant(`${name}_scale`, tensor);
    if (isFixed) return keep('fixed', source, { scale: source, zero }, more);
    return keep('learned', source, { scale: emit(first, 'Abs', [source], `${name}_magnitude`), zero }, more);
  };
  const round = (nodes: Node[], x: Value, { scale, zero }: Scale, output: Value, axis?: number) => {
    const attrs = axis === undefined ? {} : { axis };
    const name = x.name.replace(/_(QuantizeLinear_Input|within)(_\d+)?$/, '');
    const levels = emit(nodes, 'QuantizeLinear', [x, scale, zero], `${name}_QuantizeLinear_Output`, attrs);
    emit(nodes, 'DequantizeLinear', [levels, scale, zero], output, attrs);
  };

  // Constants
  const done = new Map<string, Value>();
  for (const { node, index, value, axis, isWeight } of constants) {
    const dtype = (isWeight ? weights : activationsOf(spec)) as Rounded;
    const key = JSON.stringify([value.name, axis, dtype]);
    let rounded = done.get(key);
    if (!rounded) {
      const tensor = graph.initializers.get(value)!;
      const zeros = filled(
        dtype,
        axis === undefined ? [] : [tensor.dims[axis]!],
        dtype === 'uint8' ? 128 : 0,
      );
      const zero = constant(`${value.name}_zero_point`, zeros);
      const isReduced = isWeight && dtype === 'int8' && reduceRange;
      const most = isReduced ? REDUCED : LARGEST[dtype];
      const more = { weight: value.name, axis, most };
      const scale =
        method === 'ema'
          ? keep('largest', value, { scale: largest(value, tensor, most, axis), zero }, more)
          : stored(value.name, scalesOfConstant(tensor, most, axis), zero, more);
      rounded = new Value(names.fresh(`${value.name}_DequantizeLinear_Output`));
      const bounded = isReduced && method !== 'ema' ? clipped(value, tensor, scale.scale, most, axis) : value;
      round(first, bounded, scale, rounded, axis);
      done.set(key, rounded);
    }
    node.setInput(index, rounded);
  }

  /** The scale that the largest magnitude of each channel gives. */
  function largest(value: Value, { dims }: Tensor, level: number, axis?: number): Value {
    const { name } = value;
    const reduced = dims.map((_, i) => i).filter(i => i !== axis);
    const sizes = emit(first, 'Abs', [value], `${name}_magnitudes`);
    const axes = constant(`${name}_axes`, Tensor.ints(reduced));
    const most =
      model.opset >= 18
        ? emit(first, 'ReduceMax', [sizes, axes], `${name}_largest`, { keepdims: 0 })
        : emit(first, 'ReduceMax', [sizes], `${name}_largest`, { axes: reduced, keepdims: 0 });
    const scale = emit(first, 'Div', [most, float(level)], `${name}_quotient`);
    return emit(first, 'Max', [scale, float(LEAST)], `${name}_scale`);
  }

  /** A constant within fewer whole numbers than its type has. */
  function clipped(value: Value, { dims }: Tensor, scale: Value, level: number, axis?: number) {
    const { name } = value;
    const after = axis === undefined ? [] : dims.slice(axis + 1).map((_, i) => i + 1);
    const axes = () => constant(`${name}_axes`, Tensor.ints(after));
    const spread = after.length ? emit(first, 'Unsqueeze', [scale, axes()], `${name}_steps`) : scale;
    const [high, low] = [level, -level].map(n => emit(first, 'Mul', [spread, float(n)], `${name}_bound`));
    return emit(first, 'Max', [emit(first, 'Min', [value, high!], `${name}_below`), low!], `${name}_within`);
  }

  // Activations
  const dtype = activationsOf(spec) as 'uint8' | 'int8';
  const least = dtype === 'int8' ? -128 : 0;
  const scales = new Map<Value, Scale>();
  const scaleOf = (value: Value): Scale => {
    const known = scales.get(value);
    if (known) return known;
    const { name } = value;
    // The integer kernel returns probabilities in steps of 1 / 255.
    const isProbability = value.producer?.opType === 'Softmax';
    const range = isProbability ? ([0, 1] as const) : withZero(ranges.get(name)!);
    const made =
      method === 'ema' && !isProbability ? averaged(name, range) : fromRange(name, range, isProbability);
    scales.set(value, made);
    return made;
  };
  const fromRange = (name: string, [low, high]: readonly [number, number], isFixed: boolean) => {
    const scale = Math.max(Math.fround((high - low) / 255), LEAST);
    const zero = constant(`${name}_zero_point`, filled(dtype, [], Math.round(least - low / scale)));
    return stored(name, Tensor.filled('float32', [], scale), zero, {}, isFixed || method === 'fixed');
  };
  const averaged = (name: string, range: readonly [number, number]) => {
    const source = constant(`${name}_range`, Tensor.ofNumbers('float32', [2], range));
    const signs = constant('quantization', Tensor.ofNumbers('float32', [2], [-1, 1]));
    const index = constant('quantization', Tensor.filled('int64', [], 0));
    const width = emit(
      first,
      'ReduceSum',
      [emit(first, 'Mul', [source, signs], `${name}_signed`)],
      `${name}_width`,
      { keepdims: 0 },
    );
    const step = emit(first, 'Div', [width, float(255)], `${name}_quotient`);
    const scale = emit(first, 'Max', [step, float(LEAST)], `${name}_scale`);
    const low = emit(first, 'Gather', [source, index], `${name}_least`);
    const steps = emit(first, 'Div', [low, scale], `${name}_steps`);
    const level = emit(
      first,
      'Round',
      [emit(first, 'Sub', [float(least), steps], `${name}_level`)],
      `${name}_rounded`,
    );
    const zero = emit(first, 'Cast', [level], `${name}_zero_point`, { to: dtypeCode(dtype) });
    return keep('averaged', source, { scale, zero });
  };
  for (const [value, shared] of activations) {
    const scale = scaleOf(shared);
    const { producer } = value;
    const nodes: Node[] = [];
    if (value.outputOf.length && producer) {
      // The output keeps its name.
      const raw = new Value(names.fresh(`${value.name}_QuantizeLinear_Input`), value.type);
      producer.outputs = producer.outputs.map(v => (v === value ? raw : v));
      round(nodes, raw, scale, value);
    } else {
      const rounded = new Value(names.fresh(`${value.name}_DequantizeLinear_Output`), value.type);
      value.replaceAllUses(rounded);
      round(nodes, value, scale, rounded);
    }
    if (producer) after.set(producer, [...(after.get(producer) ?? []), ...nodes]);
    else first.push(...nodes);
  }
  graph.nodes = [...first, ...graph.nodes.flatMap(node => [node, ...(after.get(node) ?? [])])];
  writeQuantizers(model, quantizers);
}

/** A range that contains zero, which padding and rectified values need exactly. */
const withZero = ([low, high]: readonly [number, number]): [number, number] => [
  Math.fround(Math.min(low, 0)),
  Math.fround(Math.max(high, 0)),
];

function filled(dtype: DType, dims: readonly number[], value: number): Tensor {
  return dtype === 'int4' ? Tensor.zeros(dtype, dims) : Tensor.filled(dtype, dims, value);
}

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
