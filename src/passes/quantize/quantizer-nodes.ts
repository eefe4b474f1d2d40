/** Writes the QuantizeLinear and DequantizeLinear nodes of quantizers. */
import { dtypeCode } from '../../graph/dtype.js';
import { type Model, Node, Value } from '../../graph/ir.js';
import { Names } from '../../graph/names.js';
import { Tensor } from '../../graph/tensor.js';
import { type AttrInit, toAttrs } from '../../ops/core/builder.js';
import type { QatSpec } from '../options/quantization.js';
import { FOUR_BITS, type FourBits, type Quantizer, type ScaleKind } from './quantization-record.js';

/** A scale and zero point in the graph, and the type in which what has them is written, if of 4 bits. */
export type Scale = { scale: Value; zero: Value; stored?: FourBits };
export type Method = NonNullable<QatSpec['method']>;

/** Scales of nothing but zeros, so that they can grow. */
export const LEAST = 1e-8;

/** Writes the nodes of quantizers into a model, and lists these. */
export class QuantizerNodes {
  /** Nodes that read initializers and graph inputs only, which go first. */
  readonly first: Node[] = [];
  readonly quantizers: Quantizer[] = [];
  readonly names: Names;

  constructor(
    readonly model: Model,
    readonly method: Method,
  ) {
    this.names = Names.of(model);
  }

  constant(hint: string, tensor: Tensor): Value {
    const { dtype, dims: shape } = tensor;
    const value = new Value(this.names.fresh(hint), { kind: 'tensor', dtype, shape });
    this.model.graph.initializers.set(value, tensor);
    return value;
  }

  emit(
    nodes: Node[],
    opType: string,
    inputs: readonly Value[],
    output: string | Value,
    attrs: AttrInit = {},
  ): Value {
    const value = typeof output === 'string' ? new Value(this.names.fresh(output)) : output;
    const node = new Node(opType, inputs, [value], toAttrs(attrs));
    node.name = this.names.fresh(`${value.name.replace(/_(Deq|Q)uantizeLinear_Output$/, '')}_${opType}`);
    nodes.push(node);
    return value;
  }

  #first(opType: string, inputs: readonly Value[], output: string, attrs?: AttrInit): Value {
    return this.emit(this.first, opType, inputs, output, attrs);
  }

  #float(number: number): Value {
    return this.constant('quantization', Tensor.filled('float32', [], number));
  }

  #keep(kind: ScaleKind, source: Value, { scale, zero }: Scale, more: Partial<Quantizer>): Scale {
    this.quantizers.push({ kind, scale: scale.name, zero: zero.name, source: source.name, ...more });
    return { scale, zero, ...(more.stored ? { stored: more.stored } : {}) };
  }

  /** A scale that is stored; one that trains may not change its sign. */
  stored(source: Value, zero: Value, more: Partial<Quantizer> = {}, isFixed = this.method !== 'lsq'): Scale {
    if (isFixed) return this.#keep('fixed', source, { scale: source, zero }, more);
    const magnitude = this.#first('Abs', [source], `${source.name}_magnitude`);
    return this.#keep('learned', source, { scale: magnitude, zero }, more);
  }

  /** The scale that the largest magnitude of each channel of a constant gives, for which `most` is the level. */
  largest(value: Value, { dims }: Tensor, zero: Value, more: Partial<Quantizer> & { most: number }): Scale {
    const { name } = value;
    const { axis, most } = more;
    const reduced = dims.map((_, i) => i).filter(i => i !== axis);
    const sizes = this.#first('Abs', [value], `${name}_magnitudes`);
    const largest =
      this.model.opset >= 18
        ? this.#first(
            'ReduceMax',
            [sizes, this.constant(`${name}_axes`, Tensor.ints(reduced))],
            `${name}_largest`,
            { keepdims: 0 },
          )
        : this.#first('ReduceMax', [sizes], `${name}_largest`, { axes: reduced, keepdims: 0 });
    const quotient = this.#first('Div', [largest, this.#float(most)], `${name}_quotient`);
    const scale = this.#first('Max', [quotient, this.#float(LEAST)], `${name}_scale`);
    return this.#keep('largest', value, { scale, zero }, { ...more, weight: name });
  }

  /** A constant within fewer levels than its type has. */
  clipped(value: Value, { dims }: Tensor, scale: Value, most: number, axis: number | undefined): Value {
    const { name } = value;
    const after = axis === undefined ? [] : dims.slice(axis + 1).map((_, i) => i + 1);
    const axes = () => this.constant(`${name}_axes`, Tensor.ints(after));
    const spread = after.length ? this.#first('Unsqueeze', [scale, axes()], `${name}_steps`) : scale;
    const [high, low] = [most, -most].map(n => this.#first('Mul', [spread, this.#float(n)], `${name}_bound`));
    return this.#first('Max', [this.#first('Min', [value, high!], `${name}_below`), low!], `${name}_within`);
  }

  /** Scale and zero point of a range that follows the data, of a type of 8 bits whose least number is `least`. */
  averaged(name: string, range: readonly [number, number], dtype: 'uint8' | 'int8'): Scale {
    const least = dtype === 'int8' ? -128 : 0;
    const source = this.constant(`${name}_range`, Tensor.ofNumbers('float32', [2], range));
    const [low, high] = ([0, 1] as const).map(end => {
      const index = this.constant('quantization', Tensor.filled('int64', [], end));
      return this.#first('Gather', [source, index], `${name}_${end ? 'most' : 'least'}`);
    });
    const width = this.#first('Sub', [high!, low!], `${name}_width`);
    const step = this.#first('Div', [width, this.#float(255)], `${name}_quotient`);
    const scale = this.#first('Max', [step, this.#float(LEAST)], `${name}_scale`);
    const steps = this.#first('Div', [low!, scale], `${name}_steps`);
    const level = this.#first('Sub', [this.#float(least), steps], `${name}_level`);
    const rounded = this.#first('Round', [level], `${name}_rounded`);
    const zero = this.#first('Cast', [rounded], `${name}_zero_point`, { to: dtypeCode(dtype) });
    return this.#keep('averaged', source, { scale, zero }, {});
  }

  /** QuantizeLinear and DequantizeLinear of a value. */
  round(nodes: Node[], x: Value, scale: Scale, output: Value, axis?: number): void {
    const attrs = axis === undefined ? {} : { axis };
    const name = x.name.replace(/_(QuantizeLinear_Input|within)(_\d+)?$/, '');
    const levels = this.levels(nodes, x, scale, `${name}_QuantizeLinear_Output`, attrs);
    this.emit(nodes, 'DequantizeLinear', [levels, scale.scale, scale.zero], output, attrs);
  }

  /** QuantizeLinear of a value, within the numbers of the type that it is written in. */
  levels(
    nodes: Node[],
    x: Value,
    { scale, zero, stored }: Scale,
    output: string | Value,
    attrs: AttrInit,
  ): Value {
    const inputs = [x, scale, zero];
    if (!stored) return this.emit(nodes, 'QuantizeLinear', inputs, output, attrs);
    const wide = this.emit(nodes, 'QuantizeLinear', inputs, `${x.name}_levels`, attrs);
    const bounds = FOUR_BITS[stored].map(n =>
      this.constant('quantization', Tensor.filled(eightBits(stored), [], n)),
    );
    return this.emit(nodes, 'Clip', [wide, ...bounds], output);
  }
}

/** Types of levels. */
export type Level = 'int8' | 'uint8' | FourBits;

/** A tensor of levels, of which those of 4 bits are packed two by two. */
export function integers(dtype: Level, dims: readonly number[], numbers: readonly number[]): Tensor {
  if (dtype === 'int8') return Tensor.from(dtype, dims, Int8Array.from(numbers));
  if (dtype === 'uint8') return Tensor.from(dtype, dims, Uint8Array.from(numbers));
  const packed = new Uint8Array(Math.ceil(numbers.length / 2));
  numbers.forEach((n, i) => {
    packed[i >> 1]! |= (n & 15) << (i % 2 ? 4 : 0);
  });
  return Tensor.from(dtype, dims, packed);
}

/** The type of 8 bits that has the numbers of one of 4 bits. */
export const eightBits = (dtype: FourBits) => (dtype === 'int4' ? 'int8' : 'uint8');
