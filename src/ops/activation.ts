/** Activation functions. */
import type { Expr } from './core/expr.js';
import { geluSlope } from './core/gelu.js';
import { type Binary, normalizeAxis, type Unary, zeroGradient } from './core/rule.js';
import { scattered } from './core/scatter.js';

// ---- rectifiers ----

/** y = max(x, 0)  =>  dx = dy where y > 0. */
export const Relu: Unary = ([dy], node) => [() => dy.masked(node.output().greater(0))];

/** y = x where x > 0, else alpha x  =>  dx = dy there, else alpha dy; at 0, as for |x|, the mean of the two. */
export const LeakyRelu: Unary = ([dy], { inputs: [x], attrs }) => {
  const alpha = attrs.float('alpha', 0.01);
  return [
    () =>
      dy.mul(
        x
          .sign()
          .mul((1 - alpha) / 2)
          .add((1 + alpha) / 2),
      ),
  ];
};

/** y = x where x > 0, else slope * x  =>  dx = dy there, else slope * dy; dslope = x * dy where x <= 0. */
export const PRelu: Binary = ([dy], { inputs: [x, slope] }) => [
  () => x.greater(0).where(dy, dy.mul(slope)),
  () => x.greater(0).where(0, dy.mul(x)).sumTo(slope),
];

/** y = x where x > alpha, else 0  =>  dx = dy there. */
export const ThresholdedRelu: Unary = ([dy], { inputs: [x], attrs }) => [
  () => dy.masked(x.greater(attrs.float('alpha', 1))),
];

/** y = x -+ bias where |x| > lambd, else 0  =>  dx = dy there. */
export const Shrink: Unary = ([dy], { inputs: [x], attrs }) => [
  () => dy.masked(x.abs().greater(attrs.float('lambd', 0.5))),
];

/** y = x where x > 0, else alpha (e^x - 1)  =>  dx = dy there, else dy * (y + alpha). */
export const Elu: Unary = ([dy], node) => {
  const alpha = node.attrs.float('alpha', 1);
  return [() => dy.mul(bySide(node.inputs[0], 1, node.output().add(alpha), alpha))];
};

/** y = gamma x where x > 0, else gamma alpha (e^x - 1)  =>  dx = gamma dy there, else dy * (y + gamma alpha). */
export const Selu: Unary = ([dy], node) => {
  const alpha = node.attrs.float('alpha', 1.6732632);
  const gamma = node.attrs.float('gamma', 1.050701);
  const scale = gamma * alpha;
  return [() => dy.mul(bySide(node.inputs[0], gamma, node.output().add(scale), scale))];
};

/** The slopes on the two sides of x = 0; at a kink, where `below` differs from `above` at 0, their mean. */
function bySide(x: Expr, above: number, below: Expr, belowAtZero: number): Expr {
  const slope = x.greater(0).where(above, below);
  return above === belowAtZero ? slope : x.equal(0).where((above + belowAtZero) / 2, slope);
}

/** y = x where x > 0, else alpha (e^(x/alpha) - 1)  =>  dx = dy there, else dy * (y / alpha + 1). */
export const Celu: Unary = ([dy], node) => {
  const alpha = node.attrs.float('alpha', 1);
  return [() => dy.mul(node.inputs[0].greater(0).where(1, node.output().div(alpha).add(1)))];
};

// ---- sigmoids ----

/** y = 1 / (1 + e^-x)  =>  dx = dy * y * (1 - y). */
export const Sigmoid: Unary = ([dy], node) => {
  const y = node.output();
  return [() => dy.mul(y).mul(y.rsub(1))];
};

/** y = tanh(x)  =>  dx = dy * (1 - y^2). */
export const Tanh: Unary = ([dy], node) => [() => dy.mul(node.output().square().rsub(1))];

/** y = alpha x + beta, clipped to [0, 1]  =>  dx = alpha dy where 0 < y < 1. */
export const HardSigmoid: Unary = ([dy], node) => {
  const y = node.output();
  const alpha = node.attrs.float('alpha', 0.2);
  return [() => dy.mul(alpha).masked(y.greater(0).and(y.less(1)))];
};

/** y = log(1 + e^x)  =>  dx = dy * sigmoid(x). */
export const Softplus: Unary = ([dy], { inputs: [x] }) => [() => dy.mul(x.sigmoid())];

/** y = x / (1 + |x|)  =>  dx = dy / (1 + |x|)^2. */
export const Softsign: Unary = ([dy], { inputs: [x] }) => [() => dy.div(x.abs().add(1).square())];

// ---- self-gated ----

/** y = x * clip(x/6 + 1/2, 0, 1)  =>  dx = dy * (x/3 + 1/2) where -3 < x < 3, dy above, 0 below. */
export const HardSwish: Unary = ([dy], { inputs: [x] }) => [
  () => dy.mul(x.lessOrEqual(-3).where(0, x.greaterOrEqual(3).where(1, x.div(3).add(0.5)))),
];

/** y = x * s with s = sigmoid(alpha x)  =>  dx = dy * (s + alpha y (1 - s)). */
export const Swish: Unary = ([dy], node) => {
  const alpha = node.attrs.float('alpha', 1);
  const gate = () => (alpha === 1 ? node.inputs[0] : node.inputs[0].mul(alpha)).sigmoid();
  return [() => dy.mul(gate().add(node.output().mul(alpha).mul(gate().rsub(1))))];
};

/** y = x * t with t = tanh(softplus(x))  =>  dx = dy * (t + x (1 - t^2) sigmoid(x)). */
export const Mish: Unary = ([dy], { inputs: [x] }) => {
  const t = () => x.op('Softplus').tanh();
  return [() => dy.mul(t().add(x.mul(t().square().rsub(1)).mul(x.sigmoid())))];
};

/** y = x * P(x), with P the normal distribution function, or its approximation by tanh. */
export const Gelu: Unary = ([dy], { inputs: [x], attrs }) => [
  () => dy.mul(geluSlope(x, attrs.string('approximate', 'none') === 'tanh')),
];

// ---- along an axis ----

/** y = softmax(x)  =>  dx = y * (dy - sum(dy * y)) along `axis`. */
export const Softmax: Unary = ([dy], node) => {
  const y = node.output();
  const axis = normalizeAxis(node.attrs.int('axis', -1), y);
  return [() => y.mul(dy.sub(dy.mul(y).sum([axis], { keepdims: true })))];
};

/**
 * y = x - log(sum(exp(x))) along `axis`  =>  dx = dy - exp(y) * sum(dy). If dy has a single nonzero number d per sum,
 * as after a selection by class, dx = -exp(y) * d with d added at its position, so that no tensor of zeros is made.
 */
export const LogSoftmax: Unary = ([dy], node) => {
  const y = node.output();
  const axis = normalizeAxis(node.attrs.int('axis', -1), y);
  return [
    () => {
      const chosen = scattered(dy, axis);
      if (!chosen) return dy.sub(y.exp().mul(dy.sum([axis], { keepdims: true })));
      const { indices, values } = chosen;
      return y.exp().mul(values.neg()).scatterElements(indices, values, axis, 'add');
    },
  ];
};

export const Hardmax = zeroGradient('constant while the largest element stays the same');
