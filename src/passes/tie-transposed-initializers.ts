import { isFloat } from '../graph/dtype.js';
import { type Model, Node, type Value } from '../graph/ir.js';
import type { Tensor } from '../graph/tensor.js';
import { toAttrs } from '../ops/core/builder.js';

/**
 * Ties weights again that an exporter untied: where it transposes weights beforehand, an embedding that is also the
 * last layer is there twice. Of two matrices of which one is the other's transpose, element by element, the second one
 * becomes a Transpose of the first, so that both stay one parameter. Returns whether there were any.
 */
export function tieTransposedInitializers({ graph }: Model): boolean {
  const matrices = [...graph.initializers]
    .filter(([v, t]) => isFloat(t.dtype) && t.dims.length === 2 && t.size > 1 && !graph.inputs.includes(v))
    .map(([value, tensor]) => ({ value, tensor, corners: cornersOf(tensor) }));
  const ties = new Map<Value, Node>();
  matrices.forEach((first, i) => {
    if (ties.has(first.value)) return;
    for (const second of matrices.slice(i + 1)) {
      if (ties.has(second.value) || !areTransposed(first, second)) continue;
      const tie = new Node('Transpose', [first.value], [second.value], toAttrs({ perm: [1, 0] }));
      ties.set(second.value, tie);
    }
  });
  for (const value of ties.keys()) graph.initializers.delete(value);
  graph.nodes.unshift(...ties.values());
  return ties.size > 0;
}

type Matrix = { tensor: Tensor; corners: readonly (number | bigint)[] };

/** Tell most matrices apart; reading a whole one can mean reading a file. */
function cornersOf({ data, dims: [, columns], size }: Tensor): (number | bigint)[] {
  return [0, columns! - 1, size - columns!, size - 1].map(i => data[i]!);
}

/** Matrices of one repeated number are equal by chance. */
function areTransposed({ tensor: a, corners }: Matrix, { tensor: b, corners: other }: Matrix): boolean {
  const [rows, columns] = a.dims as [number, number];
  if (a.dtype !== b.dtype || b.dims[0] !== columns || b.dims[1] !== rows) return false;
  if ([0, 2, 1, 3].some((at, i) => corners[i] !== other[at])) return false;
  const [x, y] = [a.data, b.data];
  const isSame = x.every(
    (v: number | bigint, i: number) => v === y[(i % columns) * rows + Math.floor(i / columns)],
  );
  return isSame && !a.isUniform;
}
