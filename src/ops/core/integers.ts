/** Evaluates arithmetic on shapes, as far as its results are known before a run. */

import type { Dim, Node, Value } from '../../graph/ir.js';
import { record } from '../../graph/record.js';
import type { Tensor } from '../../graph/tensor.js';

/** A scalar or a vector of integers or booleans (0, 1). Unknown elements are the name of an extent, or null. */
export type Integers = { scalar: boolean; data: readonly Dim[] };

/** Integers that are all known. */
export type Known = { scalar: boolean; data: readonly number[] };
export const isKnown = (x: Integers): x is Known => x.data.every(d => typeof d === 'number');

const INTEGER = new Set(['int64', 'int32', 'bool']);
/** Longer vectors are data. */
const MOST = 64;

/** The elements of a constant, if shapes can be computed with constants of its type and size. */
export function integersOf(tensor: Tensor): Integers | undefined {
  const { dtype, dims, size } = tensor;
  if (!INTEGER.has(dtype) || dims.length > 1 || size > MOST) return undefined;
  return { scalar: dims.length === 0, data: tensor.numbers() };
}

type Evaluate = (inputs: readonly (Integers | undefined)[], node: Node) => Integers | undefined;

const scalar = (x: Dim): Integers => ({ scalar: true, data: [x] });
const vector = (data: readonly Dim[]): Integers => ({ scalar: false, data });
const int = (node: Node, name: string, otherwise: number) => {
  const attr = node.attrs.get(name);
  return attr?.type === 'int' ? Number(attr.value) : otherwise;
};

/** Elementwise, with scalars and vectors of one element broadcast. */
const elementwise =
  (f: (...x: number[]) => number): Evaluate =>
  inputs => {
    if (!inputs.every(x => x !== undefined)) return undefined;
    const length = Math.max(...inputs.map(x => x.data.length));
    if (inputs.some(x => x.data.length !== length && x.data.length !== 1)) return undefined;
    const data = Array.from({ length }, (_, i) => {
      const at = inputs.map(x => x.data[x.data.length === 1 ? 0 : i]!);
      return at.every(d => typeof d === 'number') ? f(...at) : null;
    });
    return { scalar: inputs.every(x => x.scalar), data };
  };

const reshape: Evaluate = ([x], { outputs }) => {
  const rank = outputs[0]?.shape?.length;
  return x && rank !== undefined && rank < 2 ? { scalar: rank === 0, data: x.data } : undefined;
};

const EVALUATE = record<Evaluate>({
  Shape: ([x], node) => {
    const [value] = node.inputs;
    const shape = value?.shape ?? (x && (x.scalar ? [] : [x.data.length]));
    if (!shape) return undefined;
    const end = node.attrs.has('end') ? int(node, 'end', 0) : undefined;
    return vector(shape.slice(int(node, 'start', 0), end));
  },
  Size: ([x], { inputs }) => {
    const extents = inputs[0]?.shape ?? (x && [x.data.length]);
    return extents?.every(d => typeof d === 'number')
      ? scalar(extents.reduce((n, d) => n * d, 1))
      : undefined;
  },
  Identity: ([x]) => x,
  Cast: ([x], { outputs }) => (INTEGER.has(outputs[0]?.dtype ?? '') ? x : undefined),
  Squeeze: ([x]) => x && scalar(x.data[0]!),
  Unsqueeze: ([x]) => (x?.scalar ? vector(x.data) : undefined),
  Reshape: reshape,
  Concat: inputs =>
    inputs.every(x => x !== undefined && !x.scalar) ? vector(inputs.flatMap(x => x!.data)) : undefined,
  Gather: ([x, at]) => {
    if (!x || !at) return undefined;
    const data = at.data.map(i => (typeof i === 'number' ? (x.data.at(i) ?? null) : null));
    return { scalar: at.scalar, data };
  },
  Slice: ([x, starts, ends, , steps]) => {
    const [from, to, step = 1] = [starts, ends, steps].map(e => e?.data[0]);
    if (!x || typeof from !== 'number' || typeof to !== 'number' || step !== 1) return undefined;
    return vector(x.data.slice(from, to));
  },
  Range: ([from, to, step]) => {
    const [a, b, by] = [from, to, step].map(e => e?.data[0]);
    if (typeof a !== 'number' || typeof b !== 'number' || typeof by !== 'number' || by === 0)
      return undefined;
    const length = Math.max(0, Math.ceil((b - a) / by));
    return length > MOST ? undefined : vector(Array.from({ length }, (_, i) => a + i * by));
  },
  ConstantOfShape: ([shape], node) => {
    const value = node.attrs.get('value');
    const filled = value?.type === 'tensor' ? integersOf(value.value) : undefined;
    const length = shape?.data.length === 0 ? 1 : shape?.data[0];
    if (!filled || !shape || shape.data.length > 1 || typeof length !== 'number' || length > MOST)
      return undefined;
    return { scalar: shape.data.length === 0, data: Array(length).fill(filled.data[0]) };
  },
  Add: elementwise((a, b) => a + b),
  Sub: elementwise((a, b) => a - b),
  Mul: elementwise((a, b) => a * b),
  Div: elementwise((a, b) => Math.trunc(a / b)),
  Mod: elementwise((a, b) => ((a % b) + b) % b),
  Neg: elementwise(a => -a),
  Abs: elementwise(Math.abs),
  Max: elementwise(Math.max),
  Min: elementwise(Math.min),
  Equal: elementwise((a, b) => Number(a === b)),
  Less: elementwise((a, b) => Number(a < b)),
  LessOrEqual: elementwise((a, b) => Number(a <= b)),
  Greater: elementwise((a, b) => Number(a > b)),
  GreaterOrEqual: elementwise((a, b) => Number(a >= b)),
  And: elementwise((a, b) => a * b),
  Or: elementwise((a, b) => Math.max(a, b)),
  Not: elementwise(a => 1 - a),
  Where: elementwise((c, a, b) => (c ? a : b)),
});

/** The first output of a node, given what is known about its inputs. */
export function evaluate(node: Node, known: ReadonlyMap<Value, Integers>): Integers | undefined {
  if (node.domain !== '') return undefined;
  if (node.opType === 'Constant') {
    const value = node.attrs.get('value');
    return value?.type === 'tensor' ? integersOf(value.value) : undefined;
  }
  const found = EVALUATE[node.opType]?.(
    node.inputs.map(v => (v ? known.get(v) : undefined)),
    node,
  );
  return found && found.data.length <= MOST ? found : undefined;
}
