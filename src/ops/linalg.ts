/** Products of matrices. */
import { isHalf } from '../graph/dtype.js';
import { float } from './core/builder.js';
import type { Expr } from './core/expr.js';
import { type Binary, type Rule, range, type Unary } from './core/rule.js';

/**
 * y = a @ b  =>  da = dy @ b^T, db = a^T @ dy, summed over the axes that were broadcast.
 * A vector operand is a matrix with one row (a) or one column (b), whose axis y lacks.
 */
export const MatMul: Binary = ([dy], { inputs: [a, b] }) => {
  const A = a.rank === 1 ? a.unsqueeze([0]) : a;
  const B = b.rank === 1 ? b.unsqueeze([1]) : b;
  const dY = () => {
    const rows = a.rank === 1 ? dy.unsqueeze([b.rank === 1 ? -1 : -2]) : dy;
    return b.rank === 1 ? rows.unsqueeze([-1]) : rows;
  };
  return [
    () => timesTransposed(dY(), B).sumTo(A).reshapeLike(a),
    () =>
      (b.rank !== 2 || a.rank < 2
        ? transposedTimes(A, dY()).sumTo(B)
        : isWide(b)
          ? transposedTimes(flatRows(dY()), flatRows(a)).mT
          : transposedTimes(flatRows(a), flatRows(dY()))
      ).reshapeLike(b),
  ];
};

/** a b^T. */
const timesTransposed = (a: Expr, b: Expr) =>
  takesGemm(a, b, b) ? a.op('Gemm', [b], { transB: 1 }) : a.matmul(b.mT);

/** a^T b. */
const transposedTimes = (a: Expr, b: Expr) =>
  takesGemm(a, b, a) ? a.op('Gemm', [b], { transA: 1 }) : a.mT.matmul(b);

/**
 * Whether a Gemm, which transposes as it reads and is a node less, takes the place of a product: of matrices, not of what is a
 * Transpose itself, before which it is read, nor of 16-bit floats, for which the CPU has no kernel of it.
 */
const takesGemm = (a: Expr, b: Expr, turned: Expr) =>
  a.rank === 2 && b.rank === 2 && turned.value.producer?.opType !== 'Transpose' && !isHalf(turned.dtype);

/**
 * Whether `b` is the transpose of a weight, as exporters write it, with at least twice as many rows as columns: the product that
 * gives the weight's gradient in its own layout is then faster on the CPU than that of its transpose.
 */
function isWide(b: Expr): boolean {
  const [rows, columns] = [0, 1].map(i => Number(b.extent(i)));
  return (
    b.value.producer?.opType === 'Transpose' &&
    rows! > 0 &&
    rows! <= 512 &&
    columns! >= 2 * rows! &&
    columns! <= 4096
  );
}

/** Flattens the leading axes, so that the weight gradient is a single product instead of a batched one and a sum. */
function flatRows(x: Expr): Expr {
  if (x.rank === 2) return x;
  const columns = x.extent(-1);
  return x.reshape(typeof columns === 'number' ? [-1, columns] : x.g.ints([-1]).concat([x.dims(-1)], 0));
}

/**
 * y = alpha op(A) op(B) + beta C  =>  dA = alpha dy op(B)^T, dB = alpha op(A)^T dy (each transposed where its
 * operand was), dC = beta dy.
 */
export const Gemm: Rule<readonly [Expr, Expr, Expr?], readonly [Expr]> = (
  [dy],
  { inputs: [a, b, c], attrs },
) => {
  const [alpha, beta] = [attrs.float('alpha', 1), attrs.float('beta', 1)];
  const [transA, transB] = [attrs.int('transA', 0), attrs.int('transB', 0)];
  const gemm = (x: Expr, y: Expr, tx: number, ty: number) =>
    x.op('Gemm', [y], { alpha: float(alpha), transA: tx, transB: ty });
  return [
    () => (transA ? gemm(b, dy, transB, 1) : gemm(dy, b, 0, transB ? 0 : 1)),
    () => (transB ? gemm(dy, a, 1, transA) : gemm(a, dy, transA ? 0 : 1, 0)),
    c ? () => (beta === 1 ? dy : dy.mul(beta)).sumTo(c) : null,
  ];
};

/**
 * y = det(x)  =>  dx = dy * cofactors of x: the determinant of x without one row and one column, with the signs of a
 * chessboard. This holds for singular x too, and needs no inverse.
 */
export const Det: Unary = ([dy], { inputs: [x], g }) => [
  () => {
    const scale = dy.unsqueeze([-2, -1]);
    if (x.extent(-1) === 1) return scale;
    const index = g.scalar(0, 'int64').op('Range', [x.dims(-1).squeeze([0]), 1]);
    const fewer = index.slice([0], [-1], [0]);
    const others = fewer.add(fewer.greaterOrEqual(index.unsqueeze([1])).cast('int64'));
    const r = x.rank;
    const minors = x
      .gather(others, r - 2)
      .gather(others, r)
      .transpose([...range(0, r - 1), r, r - 1, r + 1]);
    const sign = index.op('Mod', [2]).mul(-2).add(1).cast(x.dtype);
    return scale.mul(minors.op('Det').mul(sign.unsqueeze([1]).mul(sign)));
  },
];
