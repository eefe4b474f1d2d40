/** Activation functions of one input. */
import { normalizeAxis, type Unary } from './core/rule.js';

/** y = max(x, 0)  =>  dx = dy where y > 0. */
export const Relu: Unary = ([dy], node) => [() => node.output().greater(0).where(dy, 0)];

/** y = 1 / (1 + exp(-x))  =>  dx = dy * y * (1 - y). */
export const Sigmoid: Unary = ([dy], node) => {
  const y = node.output();
  return [() => dy.mul(y).mul(y.rsub(1))];
};

/** y = softmax(x)  =>  dx = y * (dy - sum(dy * y)) along `axis`. */
export const Softmax: Unary = ([dy], node) => {
  const y = node.output();
  const axis = normalizeAxis(node.attrs.int('axis', -1), y);
  return [() => y.mul(dy.sub(dy.mul(y).sum([axis], { keepdims: true })))];
};
