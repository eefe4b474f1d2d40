/** Normalizations in training, and dropout. */
import type { ValueType } from '../../graph/ir.js';
import type { Expr } from '../core/expr.js';
import { type GradientNode, lowering } from '../core/gradient-node.js';
import { allButChannels, moments, perChannel, standardizeBack } from '../core/moments.js';
import { normalizeAxis, range } from '../core/rule.js';
import { Dropout as dropoutRule, LayerNormalization } from '../normalization.js';

type LayerBack = readonly [dy: Expr, x: Expr, scale: Expr, mean: Expr, inv: Expr];

export const LayerNormalizationGrad = lowering<LayerBack>(node => {
  const [dy, x, scale, mean, inv] = node.inputs;
  // Only the shape of the bias is used.
  return node.byRule(LayerNormalization, [dy], { inputs: [x, scale, scale], outputs: [dy, mean, inv] });
});

/** The same from y = scale * xhat + bias, if x is not available. */
export const InvertibleLayerNormalizationGrad = lowering<LayerBack>(node => {
  const [dy, y, scale, bias, inv] = node.inputs;
  const axes = range(normalizeAxis(node.attrs.int('axis', -1), y), y.rank);
  const xhat = y.sub(bias).div(scale);
  return [standardizeBack(dy.mul(scale), { xhat, inv }, axes), dy.mul(xhat).sumTo(scale), dy.sumTo(bias)];
});

/** y = scale * x * inv: dx = inv * (d - xhat * mean(d * xhat)) with d = dy * scale and xhat = x * inv. */
export const SimplifiedLayerNormalizationGrad = lowering<readonly [Expr, Expr, Expr, Expr]>(node => {
  const [dy, x, scale, inv] = node.inputs;
  const axes = range(normalizeAxis(node.attrs.int('axis', -1), x), x.rank);
  const xhat = x.mul(inv);
  const d = dy.mul(scale);
  const dx = d.sub(xhat.mul(d.mul(xhat).mean(axes, { keepdims: true }))).mul(inv);
  return [dx, dy.mul(xhat).sumTo(scale)];
});

type BatchNorm = readonly [x: Expr, scale: Expr, bias: Expr, mean: Expr, variance: Expr];

/** Batch normalization with, as outputs, the next running statistics and the batch's mean and 1 / deviation. */
export const BatchNormInternal = lowering<BatchNorm>(
  ({ inputs: [x, scale, bias, mean, variance], attrs }) => {
    const momentum = attrs.float('momentum', 0.9);
    const batch = moments(x, allButChannels(x));
    const inv = batch.variance.add(attrs.float('epsilon', 1e-5)).sqrt().reciprocal();
    const flat = (e: Expr) => e.reshape([-1]);
    const next = (old: Expr, now: Expr) => old.mul(momentum).add(flat(now).mul(1 - momentum));
    const y = batch.centered.mul(inv).mul(perChannel(scale, x)).add(perChannel(bias, x));
    return [y, next(mean, batch.mean), next(variance, batch.variance), flat(batch.mean), flat(inv)];
  },
);

export const BatchNormalizationGrad = lowering<LayerBack>(({ inputs: [dy, x, scale, mean, inv] }) => {
  const axes = allButChannels(x);
  const spread = perChannel(inv, x);
  const xhat = x.sub(perChannel(mean, x)).mul(spread);
  const dx = standardizeBack(dy.mul(perChannel(scale, x)), { xhat, inv: spread }, axes);
  return [dx, dy.mul(xhat).sum(axes), dy.sum(axes)];
});

type Dropped = readonly [x: Expr, ratio?: Expr, training?: Expr];
type BiasDropped = readonly [x: Expr, bias: Expr, residual?: Expr, ratio?: Expr, training?: Expr];

/** A mask of one bit per element becomes one of booleans, as only the gradient of the same dropout reads it. */
export const BitmaskDropout = lowering<Dropped>(node => dropout(node.inputs, node as never));

/** dropout(x + bias) + residual. */
export const BiasDropout = lowering<BiasDropped>(node => {
  const [x, bias, residual, ratio, training] = node.inputs;
  const [y, mask] = dropout([x.add(bias), ratio, training], node as never);
  return [residual ? y!.add(residual) : y, mask];
});
export const BitmaskBiasDropout = BiasDropout;

function dropout([x, ratio, training]: Dropped, node: GradientNode<never>) {
  const types: ValueType[] = [x.type!, { kind: 'tensor', dtype: 'bool', shape: x.shape }];
  const seed = node.node.attrs.get('seed');
  return node.g.emit('Dropout', [x, ratio, training], { seed }, { outputs: 2, types });
}

type DropoutBack = readonly [dy: Expr, mask: Expr, ratio?: Expr, training?: Expr];

/** dx = dy * mask / (1 - ratio) in training mode, which is the default. */
export const DropoutGrad = lowering<DropoutBack>(node => {
  const [dy, mask, ratio, training] = node.inputs;
  const on = training ?? node.g.scalar(1, 'bool');
  return node.byRule(dropoutRule, [dy], { inputs: [dy, ratio, on], outputs: [dy, mask] });
});
export const BitmaskDropoutGrad = DropoutGrad;
