/** Completes graphs of ORTModule, which leave the loss to PyTorch: attaches a loss where they yield their outputs. */
import { Graph, type Node, type Value } from '../../graph/ir.js';
import { Builder } from '../../ops/core/builder.js';
import type { Expr } from '../../ops/core/expr.js';
import { Attributes } from '../../ops/core/rule.js';
import { ensure } from '../../ops/optimizers/optimizer.js';
import { type AttachedLoss, attachLoss } from '../differentiate/attach-loss.js';
import { backward } from '../differentiate/backward.js';
import type { LossSpec } from '../options.js';

/** The operator at which graphs of ORTModule pass the model's outputs to PyTorch and receive their gradients. */
export const isYield = (node: Node): boolean => node.domain === 'com.microsoft' && node.opType === 'YieldOp';

/** A loss that replaces PyTorch, with the values passed to it as outputs of the model. */
export type Closed = AttachedLoss & { outputs: readonly Value[] };

/**
 * Appends to `g` a loss of the outputs that `node` yields, and the gradients that the node returns: those of all its
 * inputs except the ones that its attribute excludes. Throws as `attachLoss` does, and `bad-option` without a loss.
 */
export function closeYield(
  node: Node,
  g: Builder,
  spec: LossSpec | undefined,
): { closed: Closed; gradients: Expr[] } {
  const { graph } = g;
  ensure(
    !!spec,
    `${node.label} takes the gradients of the model's outputs from PyTorch: choose a loss with --loss or --loss-output.`,
  );
  const outputs = node.inputs.flatMap(v => v ?? []);
  const others = graph.outputs.filter(v => !outputs.includes(v));
  const part: Node[] = [];
  graph.outputs = outputs;
  const loss = g.into(part, () => attachLoss(g, spec!));
  graph.outputs = [...new Set([loss.loss, ...outputs, ...others])];

  const fixed = new Attributes(node).ints('non_differentiable_outputs') ?? [];
  const wanted = outputs.filter((_, i) => !fixed.includes(i));
  const view = Graph.view(graph, { nodes: part });
  const v = new Builder(view, g.scope, g);
  const found = backward(v, new Map([[loss.loss, v.of(loss.loss).ones()]]), wanted);
  const gradients = wanted.map((value, i) => found[i] ?? v.of(value).zeros());
  g.adopt(view.nodes);
  return { closed: { ...loss, outputs }, gradients };
}
