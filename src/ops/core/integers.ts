/** Evaluates arithmetic on shapes, as far as its results are known before a run. */

import type { Dim, Node, Value } from '../../graph/ir.js';
import { record } from '../../graph/record.js';
import type { Tensor } from '../../graph/tensor.js';

/**
 * A scalar, a vector or a matrix with so many columns, of integers or booleans (0, 1). Unknown elements are the name of an
 * extent, or null.
 */
export type Integers = { scalar: boolean; data: readonly Dim[]; columns?: number };

/** Integers that are all known. */
export type Known = Integers & { data: readonly number[] };
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

const reshape: Evaluate = ([x, to], { outputs }) => {
  const rank = outputs[0]?.shape?.length;
  if (!x || rank === undefined || rank > 2) return undefined;
  if (rank < 2) return { scalar: rank === 0, data: x.data };
  const columns = to?.data[1];
  return typeof columns === 'number' && columns > 0 ? { ...vector(x.data), columns } : undefined;
};

const rowsOf = ({ data, columns = 1 }: Integers) =>
  Array.from({ length: data.length / columns }, (_, i) => data.slice(i * columns, (i + 1) * columns));

/** The range of a list as Slice has it; a step back goes to the beginning. */
function sliced<T>(list: readonly T[], from: number, to: number, step: number): readonly T[] | undefined {
  if (step === 1) return list.slice(from, to);
  return step === -1 && from === -1 && to < -list.length ? list.toReversed() : undefined;
}

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
  Slice: ([x, starts, ends, axes, steps]) => {
    const [from, to, step = 1] = [starts, ends, steps].map(e => e?.data[0]);
    const isFirst = starts?.data.length === 1 && (axes?.data[0] ?? 0) === 0;
    if (!x || typeof from !== 'number' || typeof to !== 'number' || typeof step !== 'number')
      return undefined;
    if (x.columns === undefined) {
      const kept = sliced(x.data, from, to, step);
      return kept && vector(kept);
    }
    const rows = isFirst ? sliced(rowsOf(x), from, to, step) : undefined;
    return rows && { ...vector(rows.flat()), columns: x.columns };
  },
  Transpose: ([x], { attrs }) => {
    const perm = attrs.get('perm');
    if (x?.columns === undefined) return x;
    if (perm?.type === 'ints' && Number(perm.value[0]) === 0) return x;
    const rows = rowsOf(x);
    const data = Array.from({ length: x.columns }, (_, i) => rows.map(row => row[i]!));
    return { ...vector(data.flat()), columns: rows.length };
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

/** Operators that are evaluated of matrices too. */
const OF_MATRICES = new Set(['Identity', 'Cast', 'Reshape', 'Slice', 'Transpose']);

/** The first output of a node, given what is known about its inputs. */
export function evaluate(node: Node, known: ReadonlyMap<Value, Integers>): Integers | undefined {
  if (node.domain !== '') return undefined;
  if (node.opType === 'Constant') {
    const value = node.attrs.get('value');
    return value?.type === 'tensor' ? integersOf(value.value) : undefined;
  }
  const given = node.inputs.map(v => (v ? known.get(v) : undefined));
  if (!OF_MATRICES.has(node.opType) && given.some(x => x?.columns !== undefined)) return undefined;
  const found = EVALUATE[node.opType]?.(given, node);
  return found && found.data.length <= MOST ? found : undefined;
}
