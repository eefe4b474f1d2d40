/**
 * ONNX Runtime's own operators on integers: straight-through gradients of the operation on the numbers that levels
 * represent.
 */
import type { Expr } from '../core/expr.js';
import { dequantized, quantized, type Zeros } from '../core/levels.js';
import { type NodeView, range } from '../core/rule.js';
import { onIntegers } from '../core/surrogate.js';

/** y = a @ ((b - zero) * scale) + bias; the runtime quantizes a as DynamicQuantizeLinear does. */
export const DynamicQuantizeMatMul = onIntegers<
  readonly [a: Expr, b: Expr, scale: Expr, zero: Zeros, bias?: Expr]
>(({ inputs: [a, b, scale, zero, bias] }) => {
  const y = a.matmul(dequantized(b, scale, zero, b.rank - 1));
  return [bias ? y.add(bias) : y];
});

/** y = ((a - zeroA) * scaleA) @ ((b - zeroB) * scaleB) + bias. */
export const MatMulIntegerToFloat = onIntegers<
  readonly [a: Expr, b: Expr, scaleA: Expr, scaleB: Expr, zeroA: Zeros, zeroB: Zeros, bias?: Expr]
>(({ inputs: [a, b, scaleA, scaleB, zeroA, zeroB, bias] }) => {
  const y = dequantized(a, scaleA, zeroA, a.rank - 2).matmul(dequantized(b, scaleB, zeroB, b.rank - 1));
  return [bias ? y.add(bias) : y];
});

type QGemmInputs = readonly [
  ...[a: Expr, scaleA: Expr, zeroA: Zeros, b: Expr, scaleB: Expr, zeroB: Zeros],
  ...[c: Expr | undefined, scaleY: Expr | undefined, zeroY: Zeros],
];

/** y = alpha op(a) @ op(b) + c of the numbers, quantized if y has a scale; c is in steps of alpha * scaleA * scaleB. */
export const QGemm = onIntegers<QGemmInputs>(({ inputs, attrs }) => {
  const [a, scaleA, zeroA, b, scaleB, zeroB, c, scaleY, zeroY] = inputs;
  const [transA, transB] = [attrs.int('transA', 0), attrs.int('transB', 0)];
  const alpha = attrs.float('alpha', 1);
  const A = dequantized(a, scaleA, zeroA, 0);
  const B = dequantized(b, scaleB, zeroB, transB ? 0 : 1);
  const product = (transA ? A.mT : A).matmul(transB ? B.mT : B).mul(alpha);
  const y = c ? product.add(c.cast(scaleA.dtype).mul(scaleA.mul(scaleB).mul(alpha))) : product;
  return [scaleY ? quantized(y, scaleY, zeroY) : y];
});

type TwoQuantized = readonly [
  ...[a: Expr, scaleA: Expr, zeroA: Zeros, b: Expr, scaleB: Expr, zeroB: Zeros],
  ...[scaleY: Expr, zeroY: Zeros],
];

/** y = f(a, b) quantized, of the numbers that a and b represent. */
const binary = (f: (a: Expr, b: Expr) => Expr) =>
  onIntegers<TwoQuantized>(({ inputs: [a, scaleA, zeroA, b, scaleB, zeroB, scaleY, zeroY] }) => [
    quantized(f(dequantized(a, scaleA, zeroA), dequantized(b, scaleB, zeroB)), scaleY, zeroY),
  ]);

export const QLinearAdd = binary((a, b) => a.add(b));
export const QLinearMul = binary((a, b) => a.mul(b));

type OneQuantized = readonly [x: Expr, scaleX: Expr, zeroX: Zeros, scaleY: Expr, zeroY: Zeros];

/** y = f(x) quantized, of the numbers that x represents. */
const unary = (f: (x: Expr, node: NodeView<OneQuantized>) => Expr) =>
  onIntegers<OneQuantized>(node => {
    const [x, scaleX, zeroX, scaleY, zeroY] = node.inputs;
    return [quantized(f(dequantized(x, scaleX, zeroX), node), scaleY, zeroY)];
  });

export const QLinearSigmoid = unary(x => x.sigmoid());
export const QLinearLeakyRelu = unary((x, { node }) => x.op('LeakyRelu', [], Object.fromEntries(node.attrs)));
export const QLinearSoftmax = unary((x, { attrs }) => x.op('Softmax', [], { axis: attrs.int('axis', -1) }));
export const QLinearGlobalAveragePool = unary((x, node) => {
  firstChannels(node);
  return x.mean(range(2, x.rank), { keepdims: true });
});
export const QLinearAveragePool = unary((x, node) => {
  firstChannels(node);
  const { channels_last, ...attrs } = Object.fromEntries(node.node.attrs);
  const types = [{ kind: 'tensor' as const, dtype: x.dtype, shape: node.node.outputs[0]!.shape }];
  return x.op('AveragePool', [], attrs, { types });
});

function firstChannels(node: NodeView<OneQuantized>): void {
  if (node.attrs.int('channels_last', 0)) node.unsupported("'channels_last'");
}

/** y = the numbers that the inputs represent, concatenated and quantized. */
export const QLinearConcat = onIntegers<readonly Expr[]>(({ inputs: [scale, zero, ...parts], attrs }) => {
  const numbers = range(0, parts.length / 3).map(i => {
    const [x, own, from] = parts.slice(3 * i, 3 * i + 3) as [Expr, Expr, Expr];
    return dequantized(x, own, from);
  });
  return [quantized(numbers[0]!.concat(numbers.slice(1), attrs.int('axis', 0)), scale!, zero)];
});

type Chosen = readonly [
  condition: Expr,
  ...[a: Expr, scaleA: Expr, zeroA: Zeros, b: Expr, scaleB: Expr, zeroB: Zeros],
  ...[scaleY: Expr, zeroY: Zeros],
];

/** y = condition ? a : b quantized, of the numbers that a and b represent. */
export const QLinearWhere = onIntegers<Chosen>(({ inputs }) => {
  const [condition, a, scaleA, zeroA, b, scaleB, zeroB, scaleY, zeroY] = inputs;
  const y = condition.where(dequantized(a, scaleA, zeroA), dequantized(b, scaleB, zeroB));
  return [quantized(y, scaleY, zeroY)];
});
