/** Initial values of new weights, as PyTorch initializes them, and rows of tensors to derive others from. */
import type { FloatDType } from '../../graph/dtype.js';
import { Tensor } from '../../graph/tensor.js';

/** Draws the next integer of [0, 2^32). */
export type Draw = () => number;

/** The generator of one stream of numbers of a seed. */
export type Generator = (seed: number, stream: number) => Draw;

/**
 * Values of a new weight or bias of a linear layer or convolution, as PyTorch's `reset_parameters`: uniform in
 * (-1 / sqrt(n), 1 / sqrt(n)) with n the number of inputs of one output (`fan_in`).
 */
export function uniformByFanIn(count: number, fanIn: number, draw: Draw): Float64Array {
  const bound = 1 / Math.sqrt(fanIn);
  return Float64Array.from({ length: count }, () => ((draw() + 0.5) / 2 ** 31 - 1) * bound);
}

/** Two uniform numbers make a normal one: Box and Muller's transform. */
export function normal(draw: Draw): number {
  const [u, v] = [(draw() + 0.5) / 2 ** 32, (draw() + 0.5) / 2 ** 32];
  return Math.sqrt(-2 * Math.log(u)) * Math.cos(2 * Math.PI * v);
}

/** A tensor seen as rows along one axis: what is before the axis, the axis, and what is after it. */
type Rows = { outer: number; rows: number; inner: number };

function rowsOf(dims: readonly number[], axis: number): Rows {
  const product = (list: readonly number[]) => list.reduce((n, d) => n * d, 1);
  return { outer: product(dims.slice(0, axis)), rows: dims[axis]!, inner: product(dims.slice(axis + 1)) };
}

/** The numbers of the row `index` along `axis`. */
export function readRow(
  values: ArrayLike<number>,
  dims: readonly number[],
  axis: number,
  index: number,
): number[] {
  const { outer, rows, inner } = rowsOf(dims, axis);
  return Array.from({ length: outer * inner }, (_, k) => {
    const [o, i] = [Math.floor(k / inner), k % inner];
    return values[(o * rows + index) * inner + i]!;
  });
}

/** A tensor of the same type and shape but for `axis`, whose rows `row` gives. */
export function fromRows(
  dtype: FloatDType,
  dims: readonly number[],
  axis: number,
  count: number,
  row: (index: number) => ArrayLike<number>,
): Tensor {
  const shape = dims.map((d, i) => (i === axis ? count : d));
  const { outer, inner } = rowsOf(shape, axis);
  const values = new Float64Array(outer * count * inner);
  for (let r = 0; r < count; r++) {
    const numbers = row(r);
    for (let o = 0; o < outer; o++)
      for (let i = 0; i < inner; i++) values[(o * count + r) * inner + i] = numbers[o * inner + i]!;
  }
  return Tensor.ofNumbers(dtype, shape, values);
}
