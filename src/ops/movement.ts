/** Operators that move elements and compute nothing. */
import type { Expr } from './core/expr.js';
import type { Rule, Unary } from './core/rule.js';

type WithShape = Rule<readonly [Expr, Expr?], readonly [Expr]>;

/** dx = dy, in the shape of x. */
export const Reshape: WithShape = ([dy], { inputs: [x] }) => [() => dy.reshapeLike(x), null];
export const Flatten: Unary = ([dy], { inputs: [x] }) => [() => dy.reshapeLike(x)];
export const Squeeze: WithShape = Reshape;
export const Unsqueeze: WithShape = Reshape;
export const Identity: Unary = ([dy]) => [() => dy];

/** The axes go back by the inverse permutation. */
export const Transpose: Unary = ([dy], { inputs: [x], attrs }) => {
  const perm = attrs.ints('perm') ?? [...Array(x.rank).keys()].reverse();
  return [() => dy.transpose(perm.map((_, i) => perm.indexOf(i)))];
};
