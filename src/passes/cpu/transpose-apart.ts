import type { Model, Node, Value } from '../../graph/ir.js';
import type { Builder } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import { Attributes } from '../../ops/core/rule.js';
import { rewriteNodes } from '../common/rewrite-nodes.js';

/** Results with fewer rows or columns gain nothing. */
const LEAST = 192;
/** From so many rows on, a result with at least four times as many columns is computed sooner as its transposed form. */
const LEAST_OF_WIDE = 128;
/** Fewer rows than these cost less than a product that has to be transposed. */
const FEW = 256;

/**
 * Transposes the smaller operand of aᵀ b, the gradient of a weight, on its own: ONNX Runtime's CPU kernel reads a transposed
 * left operand in a slower way than it transposes it, once for each 128 columns. Its optimizer, which would join the two
 * again, does not see that both axes are swapped, as a third one is there. Returns whether there was anything to
 * change.
 */
export function transposeApart(model: Model): boolean {
  return rewriteNodes(model, node => {
    const found = operandsOf(node);
    return found ? [[node, g => productOf(g, found)]] : [];
  });
}

type Operands = { a: Value; b: Value; rows: number; columns: number; depth: number };

function productOf(g: Builder, { a, b, rows, columns, depth }: Operands): Value {
  if (rows < LEAST) {
    const form = g.of(b).op('Gemm', [g.of(a)], { transA: 1 });
    return form.reshape([1, columns, rows]).transpose([0, 2, 1]).reshape([rows, columns]).value;
  }
  const isTall = rows >= 2 * columns && depth >= FEW;
  const product = isTall
    ? transposed(g.of(b), columns).matmul(g.of(a)).transpose([1, 0])
    : transposed(g.of(a), rows).matmul(g.of(b));
  return product.value;
}

/**
 * Those of a product aᵀ b of two large matrices in float32, with the extents of the result and of the axis that is summed. A Transpose of
 * such a product alone is the product bᵀ a, as which the optimizer would compute it.
 */
function operandsOf(node: Node): Operands | undefined {
  const product = isTurn(node) && node.inputs[0]!.producer;
  if (product && isTurned(product)) return largeOperands(product.inputs[1], turnedIn(product));
  return isTurned(node) ? undefined : largeOperands(turnedIn(node), node.inputs[1]);
}

const isTurned = ({ outputs: [result] }: Node) =>
  result!.readers.length === 1 && isTurn(result!.readers[0]) && !result!.outputOf.length;

function largeOperands(a: Value | null | undefined, b: Value | null | undefined): Operands | undefined {
  if (a?.dtype !== 'float32' || a.shape?.length !== 2 || b?.shape?.length !== 2) return undefined;
  const [columns, rows] = [b, a].map(v => v.shape?.[1]);
  if (typeof rows !== 'number' || typeof columns !== 'number') return undefined;
  const least = columns >= 4 * rows ? LEAST_OF_WIDE : LEAST;
  if (Math.min(rows, columns) < least) return undefined;
  const known = [a, b].map(v => v.shape![0]).find(d => typeof d === 'number');
  // A batch of vectors may be small, one of sequences is not.
  const depth = Number(known ?? (unflattened(a) && unflattened(b) ? Number.POSITIVE_INFINITY : 0));
  return depth >= LEAST ? { a, b, rows, columns, depth } : undefined;
}

/** The matrix that a product takes transposed as its left operand: of a Transpose, or of a Gemm as `MatMul`'s rule writes it. */
function turnedIn(node: Node): Value | null | undefined {
  const [a, ...others] = node.inputs;
  if (node.domain) return undefined;
  if (node.opType === 'Gemm')
    return node.attrs.size + others.length === 2 && new Attributes(node).int('transA', 0) ? a : undefined;
  return node.opType === 'MatMul' && isTurn(a?.producer) ? a!.producer!.inputs[0] : undefined;
}

const isTurn = (node: Node | undefined) =>
  node?.opType === 'Transpose' && !node.domain && `${new Attributes(node).ints('perm') ?? '1,0'}` === '1,0';

/** What was reshaped to this matrix, where only leading axes were flattened. */
function unflattened(matrix: Value): Value | undefined {
  const node = matrix.producer;
  const from = node?.opType === 'Reshape' && node.domain === '' ? node.inputs[0]! : undefined;
  return from?.shape && from.shape.length > 2 && from.shape.at(-1) === matrix.shape![1] ? from : undefined;
}

function transposed(matrix: Expr, columns: number): Expr {
  const from = unflattened(matrix.value);
  const e = from ? matrix.g.of(from) : matrix.reshape([1, -1, columns]);
  const last = e.rank - 1;
  return e.transpose([last, ...Array(last).keys()]).reshape([columns, -1]);
}
