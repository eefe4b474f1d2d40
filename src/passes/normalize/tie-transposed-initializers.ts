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
  const matrices = [...graph.initializers]
    .filter(([v, t]) => isFloat(t.dtype) && t.dims.length === 2 && t.size > 1 && !graph.inputs.includes(v))
    .map(([value, tensor]) => ({ value, tensor }));
  // Keyed by type, extents and corners, which differ for most matrices: reading a whole matrix can mean reading a
  // file.
  const firsts = new Map<string, Matrix[]>();
  const ties = new Map<Value, Node>();
  for (const matrix of matrices) {
    const { dtype, dims } = matrix.tensor;
    const [a, b, c, d] = cornersOf(matrix.tensor);
    // Uniform matrices are equal by chance.
    if (a === b && a === c && a === d && matrix.tensor.isUniform) continue;
    const first = firsts.get(`${[dtype, dims[1], dims[0], a, c, b, d]}`)?.find(m => areTransposed(m, matrix));
    if (first) {
      const tie = new Node('Transpose', [first.value], [matrix.value], toAttrs({ perm: [1, 0] }));
      ties.set(matrix.value, tie);
      continue;
    }
    const key = `${[dtype, ...dims, a, b, c, d]}`;
    const same = firsts.get(key);
    if (same) same.push(matrix);
    else firsts.set(key, [matrix]);
  }
  for (const value of ties.keys()) graph.initializers.delete(value);
  graph.prepend(...ties.values());
  return ties.size > 0;
}

type Matrix = { value: Value; tensor: Tensor };

/** Top left, top right, bottom left, bottom right. */
function cornersOf(tensor: Tensor): number[] {
  const { dims, size } = tensor;
  return [0, dims[1]! - 1, size - dims[1]!, size - 1].map(i => tensor.at(i));
}

function areTransposed({ tensor: a }: Matrix, { tensor: b }: Matrix): boolean {
  const [rows, columns] = a.dims as [number, number];
  const [x, y] = [a.data, b.data];
  return x.every((v: number | bigint, i: number) => v === y[(i % columns) * rows + Math.floor(i / columns)]);
}
