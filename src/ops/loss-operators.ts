/** The loss operators, expanded into the operators of their definitions. */
import type { Expr } from './core/expr.js';
import { expansion, type NodeView } from './core/rule.js';

type LossNode = NodeView<readonly [Expr, Expr, Expr?]>;

/** loss = NegativeLogLikelihoodLoss(log_softmax(scores)); the log-probabilities are a second output. */
export const SoftmaxCrossEntropyLoss = expansion<readonly [Expr, Expr, Expr?]>(node => {
  const logp = node.inputs[0].op('LogSoftmax', [], { axis: 1 });
  return [nll(logp, node), logp];
});

/** loss = -w[t] logp[t] at each position, 0 where t is `ignore_index`; the mean is over the sum of w[t]. */
export const NegativeLogLikelihoodLoss = expansion<readonly [Expr, Expr, Expr?]>(node => [
  nll(node.inputs[0], node),
]);

function nll(logp: Expr, { inputs: [, target, weights], attrs }: LossNode): Expr {
  const ignored = attrs.has('ignore_index') ? target.equal(attrs.int('ignore_index', 0)) : undefined;
  const classes = ignored ? ignored.where(0, target) : target;
  const each = logp
    .gatherElements(classes.unsqueeze([1]), 1)
    .squeeze([1])
    .neg();
  let weight = weights?.gather(classes);
  if (ignored) {
    const kept = ignored.not().indicator(logp);
    weight = weight ? weight.mul(kept) : kept;
  }
  const weighted = weight ? each.mul(weight) : each;
  switch (attrs.string('reduction', 'mean')) {
    case 'none':
      return weighted;
    case 'sum':
      return weighted.sum();
    default:
      return weight ? weighted.sum().div(weight.sum()) : weighted.mean();
  }
}
