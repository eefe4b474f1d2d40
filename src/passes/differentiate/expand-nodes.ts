import type { Node, Value } from '../../graph/ir.js';
import type { Builder } from '../../ops/core/builder.js';
import { type Expansion, NodeView } from '../../ops/core/rule.js';
import { opDef } from '../../ops/index.js';

/**
 * Replaces the nodes that are differentiable as other operators (those with an expansion in the table) by
 * these, where the gradient passes through them and they have no rule (of straight-through gradients); repeated until none is left. Names and order of the other
 * nodes stay. Returns whether anything changed.
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
    if (def?.kind !== 'expansion' || hasRule || !node.inputs.some(v => v && active.has(v))) {
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

/** The nodes that compute what this one does, under its outputs' names. */
export function expandNode(g: Builder, node: Node, { expand }: { expand: Expansion<never> }): Node[] {
  const inner: Node[] = [];
  const view = new NodeView(node, g, g.opset(node.domain));
  const outputs = g.into(inner, () => expand(view as never));
  rename(
    view,
    outputs.map(e => e?.value),
    inner,
    g,
  );
  return inner;
}

/** Makes the new nodes write the replaced node's own outputs, so that nothing else need change. */
function rename(view: NodeView, results: (Value | undefined)[], inner: Node[], g: Builder): void {
  view.node.outputs.forEach((output, i) => {
    if (!output) return;
    const result = results[i];
    if (!result) throw view.unsupported(`its output '${output.name}'`);
    // The runtime's shape of the replaced output says more than inference did.
    if (!result.shape) result.type = output.type ?? result.type;
    g.into(inner, () => g.identity(result, output));
  });
}
