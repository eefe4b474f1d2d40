/** Reductions over axes, and running sums and products along one. */
import type { Expr } from './core/expr.js';
import { type Binary, type NodeView, type Rule, range } from './core/rule.js';

type Reduction = Rule<readonly [Expr, Expr?], readonly [Expr]>;

// ---- simple ----

/** y = sum(x)  =>  dx = dy, repeated along the reduced axes. */
export const ReduceSum: Reduction = ([dy], node) => [() => keep(dy, node).expandLike(node.inputs[0]), null];

/** y = sum(x) / n  =>  dx = dy / n, repeated. */
export const ReduceMean: Reduction = ([dy], node) => {
  const [x] = node.inputs;
  const axes = knownAxes(node);
  const size = (e: Expr) => (e.shape ? e.count(x.dtype) : e.op('Size').cast(x.dtype));
  const n = () => (axes ? x.count(x.dtype, axes) : size(x).div(size(node.output())));
  return [() => keep(dy.div(n()), node).expandLike(x), null];
};

/** y = sum(|x|)  =>  dx = dy * sign(x). */
export const ReduceL1: Reduction = ([dy], node) => [() => keep(dy, node).mul(node.inputs[0].sign()), null];

/** y = sum(x^2)  =>  dx = dy * 2x. */
export const ReduceSumSquare: Reduction = ([dy], node) => [
  () => keep(dy.mul(2), node).mul(node.inputs[0]),
  null,
];

/** y = sqrt(sum(x^2))  =>  dx = dy * x / y, and 0 where y = 0. */
export const ReduceL2: Reduction = ([dy], node) => {
  const y = node.output();
  return [() => keep(dy.div(y.equal(0).where(1, y)), node).mul(node.inputs[0]), null];
};

/** y = log(sum(x))  =>  dx = dy / sum(x), where sum(x) = e^y. */
export const ReduceLogSum: Reduction = ([dy], node) => [
  () => keep(dy.div(node.output().exp()), node).expandLike(node.inputs[0]),
  null,
];

/** y = log(sum(e^x))  =>  dx = dy * e^(x - y). */
export const ReduceLogSumExp: Reduction = ([dy], node) => [
  () => keep(dy, node).mul(node.inputs[0].sub(keep(node.output(), node)).exp()),
  null,
];

// ---- trickier ----

/** y = max(x) or min(x)  =>  dy goes to the elements that equal y, in equal shares (as PyTorch's amax). */
const extremum: Reduction = ([dy], node) => [
  () => {
    const chosen = node.inputs[0].equal(keep(node.output(), node));
    const share = keep(dy, node).div(again('ReduceSum', chosen.indicator(dy), node));
    return chosen.where(share, 0);
  },
  null,
];
export const ReduceMax = extremum;
export const ReduceMin = extremum;

/**
 * y = product(x)  =>  dx = dy * product of the other elements: 0 if one of these is 0, otherwise the product of all
 * nonzero elements, divided by this element unless it is 0 itself.
 */
export const ReduceProd: Reduction = ([dy], node) => {
  const [x] = node.inputs;
  return [
    () => {
      const isZero = x.equal(0);
      const nonzero = isZero.where(1, x);
      const zeros = isZero.indicator(x);
      const otherZeros = again('ReduceSum', zeros, node).sub(zeros);
      const others = again('ReduceProd', nonzero, node).div(nonzero);
      return otherZeros.equal(0).where(keep(dy, node).mul(others), 0);
    },
    null,
  ];
};

/** y = running sum of x  =>  dx = running sum of dy from the other end. */
export const CumSum: Binary = ([dy], node) => [() => fromOtherEnd('CumSum', dy, node), null];

/**
 * y = running product of x  =>  dx = (running sum of dy * y from the other end) / x. At the first zero of x, the sum is
 * over all products that include it, without that factor; after it, the gradient is 0.
 */
export const CumProd: Binary = ([dy], node) => {
  const [x, axis] = node.inputs;
  return [
    () => {
      const isZero = x.equal(0);
      const reverse = node.attrs.int('reverse', 0);
      const seen = isZero.indicator(x).op('CumSum', [axis], { reverse });
      const isFirstZero = isZero.and(seen.equal(1));
      const without = isFirstZero
        .where(1, x)
        .op('CumProd', [axis], { reverse, exclusive: node.attrs.int('exclusive', 0) });
      return isFirstZero.where(
        fromOtherEnd('CumSum', dy.mul(without), node),
        fromOtherEnd('CumSum', dy.mul(node.output()), node).div(isZero.where(1, x)),
      );
    },
    null,
  ];
};

function fromOtherEnd(opType: string, e: Expr, { attrs, inputs }: NodeView<readonly [Expr, Expr]>): Expr {
  return e.op(opType, [inputs[1]], {
    exclusive: attrs.int('exclusive', 0),
    reverse: 1 - attrs.int('reverse', 0),
  });
}

/** Reduces `e`, which has the shape of the node's input, over the same axes, which are kept. */
function again(opType: string, e: Expr, { inputs, attrs }: NodeView<readonly [Expr, Expr?]>): Expr {
  const noop = attrs.int('noop_with_empty_axes', 0);
  return e.op(opType, [inputs[1]], { keepdims: 1, noop_with_empty_axes: noop || undefined });
}

/** The reduced axes, if they are known before the run. */
function knownAxes({ inputs: [x, axes], attrs }: NodeView<readonly [Expr, Expr?]>): number[] | undefined {
  const known = axes ? axes.constant : [];
  if (known?.length !== 0) return known;
  return attrs.int('noop_with_empty_axes', 0) ? [] : range(0, x.rank);
}

/** Restores in `e` the axes that a reduction removed, with extent 1. */
function keep(e: Expr, node: NodeView<readonly [Expr, Expr?]>): Expr {
  if (node.attrs.int('keepdims', 1)) return e;
  const known = knownAxes(node);
  if (known) return e.unsqueeze(known);
  const [x, axes] = node.inputs as readonly [Expr, Expr];
  const kept = x.dims().scatterElements(axes, axes.full(1));
  const noop = node.attrs.int('noop_with_empty_axes', 0);
  return e.reshape(noop ? kept : axes.dims().equal(0).where(1, kept));
}
