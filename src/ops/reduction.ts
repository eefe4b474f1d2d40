/** Reductions over axes. */
import type { Expr } from './core/expr.js';
import type { NodeView, Rule } from './core/rule.js';

type Reduction = Rule<readonly [Expr, Expr?], readonly [Expr]>;

/** y = sum(x)  =>  dx = dy, repeated along the reduced axes. */
export const ReduceSum: Reduction = ([dy], node) => [
  () => keepAxes(dy, node).expandLike(node.inputs[0]),
  null,
];

/** Puts the axes that a reduction dropped back with extent 1. */
function keepAxes(dy: Expr, node: NodeView<readonly [Expr, Expr?]>): Expr {
  const [x, axes] = node.inputs;
  if (node.attrs.int('keepdims', 1)) return dy;
  return axes ? dy.unsqueeze(axes) : dy.reshape(Array(x.rank).fill(1));
}
