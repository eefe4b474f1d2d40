import { isFloat } from '../../graph/dtype.js';
import { type Model, Node, type Value } from '../../graph/ir.js';
import type { Tensor } from '../../graph/tensor.js';
import { toAttrs } from '../../ops/core/builder.js';

/**
 * Ties weights that an exporter stored twice: if it transposes weights at export, an embedding that is also the last
 * layer appears twice. If one matrix is the transpose of an earlier one, element by element, it becomes a Transpose
 * of that, so that both stay one parameter. Returns whether there were any.
 */
export function tieTransposedInitializers({ graph }: Model): boolean {
  const inputs = new Set(graph.inputs);
  // By the top left corner, which differs for most matrices, as the others do: reading a whole matrix can mean reading a file.
  const firsts = new Map<number, Matrix[]>();
  const ties = new Map<Value, Node>();
  graph.initializers.forEach((tensor, value) => {
    if (!isFloat(tensor.dtype) || tensor.dims.length !== 2 || tensor.size < 2 || inputs.has(value)) return;
    const matrix = { value, tensor, corners: cornersOf(tensor) };
    const [a, b, c, d] = matrix.corners;
    // Uniform matrices are equal by chance.
    if (a === b && a === c && a === d && tensor.isUniform) return;
    const same = firsts.get(a!);
    const first = same?.find(m => mayBeTransposed(m, matrix) && areTransposed(m, matrix));
    if (first) ties.set(value, new Node('Transpose', [first.value], [value], toAttrs({ perm: [1, 0] })));
    else if (same) same.push(matrix);
    else firsts.set(a!, [matrix]);
  });
  for (const value of ties.keys()) graph.initializers.delete(value);
  graph.prepend(...ties.values());
  return ties.size > 0;
}

type Matrix = { value: Value; tensor: Tensor; corners: readonly number[] };

/** Top left, top right, bottom left, bottom right. */
function cornersOf(tensor: Tensor): number[] {
  const { dims, size } = tensor;
  return [0, dims[1]! - 1, size - dims[1]!, size - 1].map(i => tensor.at(i));
}

/** By type, extents and corners. */
function mayBeTransposed({ tensor: a, corners: x }: Matrix, { tensor: b, corners: y }: Matrix): boolean {
  const [rows, columns] = a.dims;
  if (a.dtype !== b.dtype || rows !== b.dims[1] || columns !== b.dims[0]) return false;
  return x[1] === y[2] && x[2] === y[1] && x[3] === y[3];
}

function areTransposed({ tensor: a }: Matrix, { tensor: b }: Matrix): boolean {
  const [rows, columns] = a.dims as [number, number];
  const [x, y] = [a.data, b.data];
  return x.every((v: number | bigint, i: number) => v === y[(i % columns) * rows + Math.floor(i / columns)]);
}
