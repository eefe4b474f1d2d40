import type { Node, Value } from '../../graph/ir.js';
import type { Builder } from '../../ops/core/builder.js';
import { hasPartialRule } from '../../ops/core/rule.js';
import { opDef } from '../../ops/index.js';
import { expandNode } from '../common/expand-node.js';

/**
 * Replaces the nodes with an expansion that a gradient passes through, except where straight-through gradients have a
 * rule for the operator, or a gradient is wanted only for inputs that it has a rule for; repeats until none is left. Other nodes keep their names and order. Returns whether anything
 * changed.
 */
export function expandNodes(
  g: Builder,
  active: ReadonlySet<Value>,
  { straightThrough = false } = {},
): boolean {
  const { graph } = g;
  const expanded: Node[] = [];
  let changed = false;
  const visit = (node: Node): void => {
    const def = opDef(node);
    const hasRule = straightThrough && def?.kind === 'expansion' && def.straightThrough;
    const isActive = (i: number) => !!node.inputs[i] && active.has(node.inputs[i]);
    const isKept = hasRule || hasPartialRule(def, isActive, node.inputs.length);
    if (def?.kind !== 'expansion' || isKept || !node.inputs.some(v => v && active.has(v))) {
      expanded.push(node);
      return;
    }
    changed = true;
    expandNode(g, node, def).forEach(visit);
  };
  const nodes = [...graph.nodes];
  nodes.forEach(visit);
  if (changed) graph.nodes = expanded;
  return changed;
}
