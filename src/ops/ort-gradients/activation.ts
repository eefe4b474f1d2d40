/** Gradients of activation functions, in ORT's form: (dy, x) or (dy, y) -> dx. */
import { Gelu, LogSoftmax, Sigmoid, Softmax, Swish, Tanh } from '../activation.js';
import { float } from '../core/builder.js';
import type { Expr } from '../core/expr.js';
import { type GradientNode, lowering } from '../core/gradient-node.js';
import { normalizeAxis, type Unary } from '../core/rule.js';

type FromInput = readonly [dy: Expr, x: Expr, bias?: Expr];
type FromOutput = readonly [dy: Expr, y: Expr];

/** dx = dy where x > 0, or equivalently y > 0. */
export const ReluGrad = lowering<FromInput>(({ inputs: [dy, x] }) => [dy.masked(x.greater(0))]);

/** dx = dy where y > 0, else alpha dy. */
export const LeakyReluGrad = lowering<FromOutput>(({ inputs: [dy, y], attrs }) => [
  y.greater(0).where(dy, dy.mul(attrs.float('alpha', 0.01))),
]);

const fromOutput = (rule: Unary) =>
  lowering<FromOutput>(node => {
    const [dy, y] = node.inputs;
    return node.byRule(rule, [dy], { inputs: [y], outputs: [y] });
  });

export const SigmoidGrad = fromOutput(Sigmoid);
export const TanhGrad = fromOutput(Tanh);
export const SoftmaxGrad_13 = fromOutput(Softmax);
export const LogSoftmaxGrad_13 = fromOutput(LogSoftmax);

/** Before opset 13, all axes from `axis` on are treated as one. */
const flattened = (rule: Unary) =>
  lowering<FromOutput>(node => {
    const [dy, y] = node.inputs;
    const axis = normalizeAxis(node.attrs.int('axis', 1), y);
    const flat = (e: Expr) => e.op('Flatten', [], { axis });
    const rows = flat(y);
    const [dx] = node.byRule(rule, [flat(dy)], { inputs: [rows], outputs: [rows], attrs: { axis: 1 } });
    return [dx!.reshapeLike(dy)];
  });

export const SoftmaxGrad = flattened(Softmax);
export const LogSoftmaxGrad = flattened(LogSoftmax);

const gelu = (approximate: 'none' | 'tanh') =>
  lowering<FromInput>(node => {
    const [dy, x, bias] = node.inputs;
    return node.byRule(Gelu, [dy], { inputs: [bias ? x.add(bias) : x], attrs: { approximate } });
  });

export const GeluGrad = gelu('none');
export const FastGeluGrad = gelu('tanh');
export const BiasGeluGrad_dX = gelu('none');
export const BiasFastGeluGrad_dX = gelu('tanh');

/** y = x * sigmoid(alpha x). */
export const QuickGeluGrad = lowering((node: GradientNode<FromInput>) => {
  const [dy, x] = node.inputs;
  const alpha = node.attrs.float('alpha', 1.702);
  const y = x.mul(x.mul(alpha).sigmoid());
  return node.byRule(Swish, [dy], { inputs: [x], outputs: [y], attrs: { alpha: float(alpha) } });
});
