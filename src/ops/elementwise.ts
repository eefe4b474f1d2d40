/** Elementwise arithmetic, with broadcasting. */
import type { Expr } from './core/expr.js';
import { type Binary, type Rule, type Unary, zeroGradient } from './core/rule.js';

// ---- simple ----

/** y = a + b  =>  da = dy, db = dy. */
export const Add: Binary = ([dy], { inputs: [a, b] }) => [() => dy.sumTo(a), () => dy.sumTo(b)];

/** y = a - b  =>  da = dy, db = -dy. */
export const Sub: Binary = ([dy], { inputs: [a, b] }) => [() => dy.sumTo(a), () => dy.sumTo(b).neg()];

/** y = a * b  =>  da = dy * b, db = dy * a. */
export const Mul: Binary = ([dy], { inputs: [a, b] }) => [() => dy.mul(b).sumTo(a), () => dy.mul(a).sumTo(b)];

/** y = a / b  =>  da = dy / b, db = -dy * a / b^2. */
export const Div: Binary = ([dy], { inputs: [a, b] }) => [
  () => dy.div(b).sumTo(a),
  () => dy.mul(a).div(b.square()).neg().sumTo(b),
];

/** y = -x  =>  dx = -dy. */
export const Neg: Unary = ([dy]) => [() => dy.neg()];

/** y = |x|  =>  dx = dy * sign(x). */
export const Abs: Unary = ([dy], { inputs: [x] }) => [() => dy.mul(x.sign())];

/** y = exp(x)  =>  dx = dy * y. */
export const Exp: Unary = ([dy], node) => [() => dy.mul(node.output())];

/** y = log(x)  =>  dx = dy / x. */
export const Log: Unary = ([dy], { inputs: [x] }) => [() => dy.div(x)];

/** y = sqrt(x)  =>  dx = dy / (2 y). */
export const Sqrt: Unary = ([dy], node) => [() => dy.div(node.output().mul(2))];

/** y = 1 / x  =>  dx = -dy * y^2. */
export const Reciprocal: Unary = ([dy], node) => [() => dy.mul(node.output().square()).neg()];

// ---- trickier ----

/** y = sum of the inputs  =>  every input gets dy. */
export const Sum: Rule<readonly Expr[], readonly [Expr]> = ([dy], { inputs }) =>
  inputs.map(x => () => dy.sumTo(x));

// ---- constant almost everywhere ----

export const Floor = zeroGradient('constant between integers');
