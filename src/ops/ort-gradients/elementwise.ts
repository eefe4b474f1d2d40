/** Arithmetic, reductions and concatenations for which ORT's gradient builder has its own operators. */
import type { Expr } from '../core/expr.js';
import { lowering } from '../core/gradient-node.js';
import { range } from '../core/rule.js';
import { Div } from '../elementwise.js';

type Two = readonly [Expr, Expr];

export const DivGrad = lowering<readonly [dy: Expr, a: Expr, b: Expr]>(node => {
  const [dy, a, b] = node.inputs;
  return node.byRule(Div, [dy], { inputs: [a, b], outputs: [a.div(b)] });
});

/** y = x * scale, or x / scale. */
export const Scale = lowering<Two>(({ inputs: [x, scale], attrs }) => {
  const s = scale.cast(x.dtype);
  return [attrs.int('scale_down', 0) ? x.div(s) : x.mul(s)];
});

/** y_i = x * scale_i. */
export const BatchScale = lowering<readonly [Expr]>(({ inputs: [x], attrs, node }) =>
  node.outputs.map((_, i) => x.mul(attrs.float(`scale${i}`, 1))),
);

/** y = sum of x_i * scale_i. */
export const ScaledSum = lowering<readonly Expr[]>(({ inputs, attrs }) => [
  inputs.map((x, i) => x.mul(attrs.float(`scale_${i}`, 1))).reduce((a, b) => a.add(b)),
]);

export const ReduceSumTraining = lowering<Two>(({ inputs: [x, axes], attrs }) => {
  const [keepdims, noop_with_empty_axes] = [attrs.int('keepdims', 1), attrs.int('noop_with_empty_axes', 0)];
  return [x.op('ReduceSum', [axes], { keepdims, noop_with_empty_axes })];
});

export const SplitTraining = lowering<Two>(({ inputs: [x, sizes], attrs, node, g }) =>
  g.emit('Split', [x, sizes], { axis: attrs.int('axis', 0) }, { outputs: node.outputs.length }),
);

/** The concatenated inputs, and their extents along the axis. */
export const ConcatTraining = lowering<readonly Expr[]>(({ inputs, attrs, g }) => {
  const [first, ...rest] = inputs;
  const axis = attrs.int('axis', 0);
  const along = (e: Expr) => {
    const extent = e.extent(axis);
    return typeof extent === 'number' ? extent : e.dims().gather(g.ints([axis]));
  };
  return [first!.concat(rest, axis), g.vector(inputs.map(along))];
});

/**
 * The axes along which a and b are broadcast. Unlike in ORT, axes of extent 1 in both are included: a sum over these
 * with kept axes changes nothing.
 */
export const BroadcastGradientArgs = lowering<Two>(({ inputs: [a, b], g }) => {
  const rank = (e: Expr) => e.extent(0);
  const [m, n] = [rank(a), rank(b)];
  if (typeof m !== 'number' || typeof n !== 'number') {
    const [p, q] = [a, b].map(e => e.op('Shape'));
    const most = p!.maximum(q!);
    const padded = (e: Expr, own: Expr) => g.scalar(1, 'int64').expand(most.sub(own)).concat([e], 0);
    return [padded(a, p!), padded(b, q!)].map(e => e.equal(1).op('NonZero').reshape([-1]));
  }
  const most = Math.max(m, n);
  return [
    [a, m],
    [b, n],
  ].map(([e, own]) => {
    const shape = g.vector([...Array(most - (own as number)).fill(1), e as Expr]);
    const known = shape.constant;
    return known
      ? g.ints(range(0, most).filter(i => known[i] === 1))
      : shape.equal(1).op('NonZero').reshape([-1]);
  });
});

/**
 * y = (clip(round(x / scale) + zero_point) - zero_point) * scale, and a mask of the elements that the clip leaves
 * unchanged.
 */
export const FakeQuant = lowering<readonly [x: Expr, scale: Expr, zeroPoint: Expr]>(node => {
  const [x, scale, zeroPoint] = node.inputs;
  const q = x.div(scale).op('Round').add(zeroPoint);
  const [low, high] = [node.attrs.int('quant_min', 0), node.attrs.int('quant_max', 255)];
  const held = q.op('Clip', [low, high]);
  return [held.sub(zeroPoint).mul(scale), q.greaterOrEqual(low).and(q.lessOrEqual(high))];
});

export const FakeQuantGrad = lowering<readonly [dy: Expr, mask: Expr]>(({ inputs: [dy, mask] }) => [
  dy.mul(mask.indicator(dy)),
]);

/** y = alpha * op(a) @ op(b): op swaps the last two axes, or the batch and the rows. */
export const FusedMatMul = lowering<Two>(({ inputs: [a, b], attrs }) => {
  const flag = (name: string) => attrs.int(name, 0) === 1;
  const arranged = (e: Expr, side: 'A' | 'B') => {
    const batched = flag(`transBatch${side}`) ? batchLast(e) : e;
    return flag(`trans${side}`) && e.rank > 1 ? batched.mT : batched;
  };
  const y = arranged(a, 'A').matmul(arranged(b, 'B'));
  const alpha = attrs.float('alpha', 1);
  return [alpha === 1 ? y : y.mul(alpha)];
});
export const TransposeMatMul = FusedMatMul;

/** [M, ...batch, K] as [...batch, M, K]. */
function batchLast(e: Expr): Expr {
  return e.transpose([...range(1, e.rank - 1), 0, e.rank - 1]);
}
