/**
 * Linear quantization. An integer tensor has a cotangent only with straight-through gradients: that of the number
 * before rounding, in a floating-point type.
 */
import type { DType } from '../graph/dtype.js';
import type { Node } from '../graph/ir.js';
import type { Expr } from './core/expr.js';
import { centred, dequantized, quantized, type Zeros } from './core/levels.js';
import { expansion, type NodeView, normalizeAxis, type Rule, range, zeroGradient } from './core/rule.js';
import { onIntegers } from './core/surrogate.js';

type Operands = readonly [Expr, Expr, Expr?];

/** y = (x - zero) * scale  =>  dx = dy * scale, dscale = dy * (x - zero), summed over what shares a scale. */
export const DequantizeLinear: Rule<Operands, readonly [Expr]> = ([dy], node) => {
  const [x, scale, zero] = node.inputs;
  const distance = () => {
    const level = x.cast(dy.dtype);
    return zero ? level.sub(spread(zero.cast(dy.dtype), node)) : level;
  };
  return [
    () => dy.mul(spread(scale.cast(dy.dtype), node)),
    () => gather(dy.mul(distance()).cast(scale.dtype), node),
    null,
  ];
};

/**
 * y = round(x / scale) + zero, clipped to the range of its type  =>  0. Straight through: dx = dy / scale and
 * dscale = -dy * x / scale^2, where y was not clipped.
 */
export const QuantizeLinear = zeroGradient('rounds', (([dy], node) => {
  const [x, scale, zero] = node.inputs;
  const size = spread(scale.cast(x.dtype), node);
  const level = x.div(size);
  const passed = () => {
    const bounds = RANGES[node.output().dtype];
    if (!bounds) return dy.cast(x.dtype);
    const rounded = level.op('Round');
    const y = zero ? rounded.add(spread(zero.cast(x.dtype), node)) : rounded;
    const inside = y.greaterOrEqual(bounds[0]).and(y.lessOrEqual(bounds[1]));
    return inside.where(dy.cast(x.dtype), 0);
  };
  return [
    () => passed().div(size),
    () => gather(passed().mul(level).div(size).neg().cast(scale.dtype), node),
    null,
  ];
}) satisfies Rule<Operands, readonly [Expr]> as Rule<never, never>);

/** The ranges of types; types without an entry do not saturate in a way that matters here. */
const RANGES: Partial<Record<DType, readonly [number, number]>> = {
  uint2: [0, 3],
  int2: [-2, 1],
  uint4: [0, 15],
  int4: [-8, 7],
  uint8: [0, 255],
  int8: [-128, 127],
  uint16: [0, 65535],
  int16: [-32768, 32767],
};

/**
 * scale = (max(x, 0) - min(x, 0)) / 255, zero = -min(x, 0) / scale, y = x quantized with these. Straight through, scale
 * and zero are treated as constants: dx = dy / scale, so that (y - zero) * scale has the gradient of x.
 */
export const DynamicQuantizeLinear = expansion<readonly [Expr]>(
  ({ inputs: [x] }) => {
    const low = x.min().minimum(0);
    const scale = x.max().maximum(0).sub(low).div(255);
    const zero = low.div(scale).neg().op('Round').cast('uint8');
    return [x.op('QuantizeLinear', [scale, zero]), scale, zero];
  },
  (([dy], node) => [dy ? () => dy.div(node.output(1, node.inputs[0].type)) : null]) satisfies Rule<
    readonly [Expr],
    readonly [Expr?, Expr?, Expr?]
  > as Rule<never, never>,
);

// ---- arithmetic on levels ----

/** y = (a - zeroA) @ (b - zeroB); a zero point is one number, one per row of a, or one per column of b. */
export const MatMulInteger = onIntegers<readonly [a: Expr, b: Expr, zeroA: Zeros, zeroB: Zeros]>(
  ({ inputs: [a, b, zeroA, zeroB] }, dtype) => [
    centred(a, zeroA, a.rank - 2, dtype).matmul(centred(b, zeroB, b.rank - 1, dtype)),
  ],
);

/** y = Conv(x - zeroX, w - zeroW). */
export const ConvInteger = onIntegers<readonly [x: Expr, w: Expr, zeroX: Zeros, zeroW: Zeros]>(
  (node, dtype) => {
    const [x, w, zeroX, zeroW] = node.inputs;
    return [convolved(node, centred(x, zeroX, 1, dtype), centred(w, zeroW, 0, dtype), undefined)];
  },
);

type QuantizedProduct = readonly [
  ...[a: Expr, scaleA: Expr, zeroA: Zeros, b: Expr, scaleB: Expr, zeroB: Zeros],
  ...[scaleY: Expr, zeroY: Zeros],
];

/** y = (a @ b) quantized, of the numbers that a and b represent. */
export const QLinearMatMul = onIntegers<QuantizedProduct>(({ inputs }) => {
  const [a, scaleA, zeroA, b, scaleB, zeroB, scaleY, zeroY] = inputs;
  const y = dequantized(a, scaleA, zeroA, a.rank - 2).matmul(dequantized(b, scaleB, zeroB, b.rank - 1));
  return [quantized(y, scaleY, zeroY, y.rank - 2)];
});

/** y = Conv(x, w, bias) quantized, of the numbers that x and w represent; the bias is in steps of scaleX * scaleW. */
export const QLinearConv = onIntegers<readonly [...QuantizedProduct, bias?: Expr]>(node => {
  const [x, scaleX, zeroX, w, scaleW, zeroW, scaleY, zeroY, bias] = node.inputs;
  const b = bias?.cast(scaleX.dtype).mul(scaleX.mul(scaleW));
  const y = convolved(node, dequantized(x, scaleX, zeroX), dequantized(w, scaleW, zeroW, 0), b);
  return [quantized(y, scaleY, zeroY)];
});

function convolved({ node }: { node: Node }, x: Expr, w: Expr, bias: Expr | undefined): Expr {
  const types = [{ kind: 'tensor' as const, dtype: x.dtype, shape: node.outputs[0]!.shape }];
  return x.op('Conv', [w, bias], Object.fromEntries(node.attrs), { types });
}

/** Expands a scale or zero point, which is one number, one per index of `axis`, or one per block, to the shape of x. */
function spread(s: Expr, node: NodeView<Operands>): Expr {
  const { x, axis, blockSize } = layout(node);
  if (s.rank === 0) return s;
  if (!blockSize) return s.unsqueeze(range(1, x.rank - axis));
  const index = x.g.scalar(0, 'int64').op('Range', [x.dims(axis, axis + 1).squeeze([0]), 1]);
  return s.gather(index.div(blockSize), axis);
}

/** Sums over the elements of x that share a scale. */
function gather(e: Expr, node: NodeView<Operands>): Expr {
  const { x, axis, blockSize } = layout(node);
  const scale = node.inputs[1];
  if (!blockSize) return e.sumTo(spread(scale, node)).reshapeLike(scale);
  const blocks = scale.dims(axis, axis + 1);
  const missing = blocks.mul(blockSize).sub(x.dims(axis, axis + 1));
  const whole = e.pad(x.g.vector([0, missing]), x.g.ints([axis]));
  const grouped = [blocks, x.g.ints([blockSize]), x.dims(axis + 1)];
  return whole
    .reshape(x.dims(0, axis).concat(grouped, 0))
    .sum([axis + 1])
    .reshapeLike(scale);
}

function layout({ inputs: [x], attrs }: NodeView<Operands>) {
  const blockSize = attrs.int('block_size', 0);
  return { x, axis: normalizeAxis(attrs.int('axis', 1), x), blockSize };
}
