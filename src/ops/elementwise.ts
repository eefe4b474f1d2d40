/** Elementwise arithmetic, with broadcasting. */
import { isFloat } from '../graph/dtype.js';
import type { Expr } from './core/expr.js';
import { type Binary, type Rule, type Unary, zeroGradient } from './core/rule.js';

type Variadic = Rule<readonly Expr[], readonly [Expr]>;

// ---- simple ----

/** y = a + b  =>  da = dy, db = dy. */
export const Add: Binary = ([dy], { inputs: [a, b] }) => [() => dy.sumTo(a), () => dy.sumTo(b)];

/** y = a - b  =>  da = dy, db = -dy. */
export const Sub: Binary = ([dy], { inputs: [a, b] }) => [() => dy.sumTo(a), () => dy.sumTo(b).neg()];

/** y = a * b  =>  da = dy * b, db = dy * a. */
export const Mul: Binary = ([dy], { inputs: [a, b] }) => [() => dy.mul(b).sumTo(a), () => dy.mul(a).sumTo(b)];

/** y = a / b  =>  da = dy / b, db = -(dy / b) * y. */
export const Div: Binary = ([dy], node) => {
  const [a, b] = node.inputs;
  return [() => dy.div(b).sumTo(a), () => dy.div(b).mul(node.output()).sumTo(b).neg()];
};

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

/** y = erf(x)  =>  dx = dy * 2 / sqrt(pi) * exp(-x^2), whose factor is part of the exponent. */
export const Erf: Unary = ([dy], { inputs: [x] }) => [
  () =>
    dy.mul(
      x
        .square()
        .rsub(Math.log(2 / Math.sqrt(Math.PI)))
        .exp(),
    ),
];

/** y = sin(x)  =>  dx = dy * cos(x). */
export const Sin: Unary = ([dy], { inputs: [x] }) => [() => dy.mul(x.cos())];

/** y = cos(x)  =>  dx = -dy * sin(x). */
export const Cos: Unary = ([dy], { inputs: [x] }) => [() => dy.mul(x.sin()).neg()];

/** y = tan(x)  =>  dx = dy * (1 + y^2). */
export const Tan: Unary = ([dy], node) => [() => dy.mul(node.output().square().add(1))];

/** y = asin(x)  =>  dx = dy / sqrt(1 - x^2). */
export const Asin: Unary = ([dy], { inputs: [x] }) => [() => dy.div(x.square().rsub(1).sqrt())];

/** y = acos(x)  =>  dx = -dy / sqrt(1 - x^2). */
export const Acos: Unary = ([dy], { inputs: [x] }) => [() => dy.div(x.square().rsub(1).sqrt()).neg()];

/** y = atan(x)  =>  dx = dy / (1 + x^2). */
export const Atan: Unary = ([dy], { inputs: [x] }) => [() => dy.div(x.square().add(1))];

/** y = sinh(x)  =>  dx = dy * cosh(x). */
export const Sinh: Unary = ([dy], { inputs: [x] }) => [() => dy.mul(x.op('Cosh'))];

/** y = cosh(x)  =>  dx = dy * sinh(x). */
export const Cosh: Unary = ([dy], { inputs: [x] }) => [() => dy.mul(x.op('Sinh'))];

/** y = asinh(x)  =>  dx = dy / sqrt(x^2 + 1). */
export const Asinh: Unary = ([dy], { inputs: [x] }) => [() => dy.div(x.square().add(1).sqrt())];

/** y = acosh(x)  =>  dx = dy / sqrt(x^2 - 1). */
export const Acosh: Unary = ([dy], { inputs: [x] }) => [() => dy.div(x.square().sub(1).sqrt())];

/** y = atanh(x)  =>  dx = dy / (1 - x^2). */
export const Atanh: Unary = ([dy], { inputs: [x] }) => [() => dy.div(x.square().rsub(1))];

/** y = sum of the inputs  =>  every input gets dy. */
export const Sum: Variadic = ([dy], { inputs }) => inputs.map(x => () => dy.sumTo(x));

/** y = mean of the n inputs  =>  every input gets dy / n. */
export const Mean: Variadic = ([dy], { inputs }) => inputs.map(x => () => dy.div(inputs.length).sumTo(x));

// ---- trickier ----

/**
 * y = a^b  =>  da = dy * b * a^(b-1), db = dy * y * log(a). An exponent 0 gives da = 0 even where a = 0 (where a^(b-1)
 * is infinite), and a base that is not positive gives db = 0.
 */
export const Pow: Binary = ([dy], node) => {
  const [a, b] = node.inputs;
  const derivative = () => {
    const n = b.rank === 0 ? b.constant?.[0] : undefined;
    if (n === 2) return a.mul(2);
    if (n !== undefined && n !== 0) return a.pow(n - 1).mul(n);
    return a.pow(b.equal(0).where(1, b.sub(1))).mul(b.cast(a.dtype));
  };
  return [
    () => dy.mul(derivative()).sumTo(a),
    () => dy.mul(node.output()).mul(a.greater(0).where(a, 1).log()).cast(b.dtype).sumTo(b),
  ];
};

/** y = a - b * q with the whole number q  =>  da = dy, db = -dy * q. `fmod` determines how q is rounded. */
export const Mod: Binary = ([dy], node) => {
  const [a, b] = node.inputs;
  const quotient = () => a.sub(node.output()).div(b).add(0.5).floor();
  return [() => dy.sumTo(a), () => dy.mul(quotient()).sumTo(b).neg()];
};

/** y = max or min of the inputs  =>  dy goes to the inputs that equal y, in equal shares (as in PyTorch). */
const extremum: Variadic = ([dy], node) => {
  const { inputs } = node;
  if (inputs.length === 1) return [() => dy];
  const chosen = (x: Expr) => x.equal(node.output());
  const share = () => dy.div(inputs.map(x => chosen(x).indicator(dy)).reduce((n, c) => n.add(c)));
  return inputs.map(x => () => chosen(x).where(share(), 0).sumTo(x));
};
export const Max = extremum;
export const Min = extremum;

/**
 * y = min(max(x, low), high)  =>  dx = dy where x was kept, dlow = dy where x < low, dhigh = dy where x > high.
 * Where low > high, y is `high` throughout.
 */
export const Clip: Rule<readonly [Expr, Expr?, Expr?], readonly [Expr]> = ([dy], node) => {
  const [x, low, high] = node.inputs;
  const crossed = low && high && (() => low.greater(high));
  const lifted = (to: Expr) => (crossed ? x.less(to).and(crossed().not()) : x.less(to));
  const lowered = (to: Expr) => (crossed ? x.greater(to).or(crossed()) : x.greater(to));
  return [
    () => dy.masked(x.equal(node.output())),
    low ? () => dy.masked(lifted(low)).sumTo(low) : null,
    high ? () => dy.masked(lowered(high)).sumTo(high) : null,
  ];
};

/** y = c ? a : b  =>  da = dy where c, db = dy where not c. */
export const Where: Rule<readonly [Expr, Expr, Expr], readonly [Expr]> = ([dy], { inputs: [c, a, b] }) => [
  null,
  () => c.where(dy, 0).sumTo(a),
  () => c.where(0, dy).sumTo(b),
];

/**
 * y = x in another element type  =>  dx = dy in that of x; the cotangent of integers is that of the numbers they
 * represent.
 */
export const Cast: Unary = ([dy], { inputs: [x] }) => [() => (isFloat(x.dtype) ? dy.cast(x.dtype) : dy)];
export const CastLike: Binary = ([dy], { inputs: [x] }) => [() => dy.cast(x.dtype), null];

// ---- constant almost everywhere ----

export const Sign = zeroGradient('constant on either side of 0');
export const Floor = zeroGradient('constant between whole numbers');
export const Ceil = zeroGradient('constant between whole numbers');
export const Round = zeroGradient('constant between half-whole numbers');
