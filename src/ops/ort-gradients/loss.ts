/** Cross-entropy of class numbers, and its gradient from the log-probabilities. */
import type { Expr } from '../core/expr.js';
import { type GradientNode, lowering } from '../core/gradient-node.js';
import { range } from '../core/rule.js';

type Internal = readonly [scores: Expr, label: Expr, weight?: Expr, ignored?: Expr];

/** ONNX's operator, with the ignored class as an input. */
export const SoftmaxCrossEntropyLossInternal = lowering<Internal>(node => {
  const [scores, label, weight, ignored] = node.inputs;
  const fixed = ignored?.constant?.[0];
  // An ignored class that is known only at run time is mapped to -1, which is never a class.
  const labels =
    ignored && fixed === undefined ? label.equal(ignored.cast(label.dtype)).where(-1, label) : label;
  const attrs = { reduction: node.attrs.string('reduction', 'mean'), ignore_index: ignored && (fixed ?? -1) };
  const types = [undefined, scores.type];
  return node.g.emit('SoftmaxCrossEntropyLoss', [scores, labels, weight], attrs, { outputs: 2, types });
});

type Back = readonly [dy: Expr, logp: Expr, label: Expr, weight?: Expr, bias?: Expr];
type InternalBack = readonly [dy: Expr, logp: Expr, label: Expr, weight?: Expr, ignored?: Expr, bias?: Expr];

export const SoftmaxCrossEntropyLossGrad = lowering<Back>(node => {
  const [, , label, , bias] = node.inputs;
  const ignored = node.attrs.has('ignore_index')
    ? node.g.scalar(node.attrs.int('ignore_index', 0), label.dtype)
    : undefined;
  return [crossEntropyBack(node, ignored, bias)];
});

export const SoftmaxCrossEntropyLossInternalGrad = lowering<InternalBack>(node => {
  const [, , label, , ignored, bias] = node.inputs;
  return [crossEntropyBack(node, ignored?.cast(label.dtype), bias)];
});

/**
 * dx = (softmax - onehot(label)) * u with u = w[label] * dy, 0 where the label is `ignored`, and for the mean divided
 * by the sum of all w[label] that are not ignored; plus `bias`, another gradient of x.
 */
function crossEntropyBack(
  { inputs, attrs }: GradientNode<Back> | GradientNode<InternalBack>,
  ignored: Expr | undefined,
  bias: Expr | undefined,
): Expr {
  const [dy, logp, label, weight] = inputs;
  const reduction = attrs.string('reduction', 'mean');
  const counts = ignored && label.equal(ignored).not();
  const classes = counts ? counts.where(label, 0) : label;
  let factor = weight?.gather(classes);
  if (counts) factor = factor ? factor.mul(counts.indicator(logp)) : counts.indicator(logp);
  const shared = reduction === 'none' ? dy : dy.reshape([]);
  const total = factor ? factor.sum() : label.count(logp.dtype);
  const scaled = reduction === 'mean' ? shared.div(total) : shared;
  const each = factor ? factor.mul(scaled) : scaled;
  const u = each.rank === 0 ? each : each.unsqueeze([1]);
  const dx = logp.exp().sub(oneHot(classes, logp)).mul(u);
  return bias ? dx.add(bias) : dx;
}

/** 1 where the class along axis 1 is that of `classes`, 0 elsewhere, in the shape of `logp`. */
function oneHot(classes: Expr, logp: Expr): Expr {
  const { g } = logp;
  const depth = logp.extent(1);
  const all = typeof depth === 'number' ? g.ints(range(0, depth)) : logp.dims(1, 2).iota();
  const along = all.reshape([-1, ...Array(logp.rank - 2).fill(1)]);
  return along.equal(classes.cast('int64').unsqueeze([1])).indicator(logp);
}
