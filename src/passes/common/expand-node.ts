/** Expands one node by the definition of its operator. */
import type { Node, Value } from '../../graph/ir.js';
import type { Builder } from '../../ops/core/builder.js';
import { type Expansion, NodeView } from '../../ops/core/rule.js';

/** The nodes that replace this one: the last of them write its outputs. */
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

/** Makes the new nodes write the replaced node's own outputs, so that no reader changes. */
function rename(view: NodeView, results: (Value | undefined)[], inner: Node[], g: Builder): void {
  view.node.outputs.forEach((output, i) => {
    if (!output) return;
    const result = results[i];
    if (!result) throw view.unsupported(`its output '${output.name}'`);
    // The runtime may have inferred a shape for the replaced output that type inference here did not.
    if (!result.shape) result.type = output.type ?? result.type;
    g.into(inner, () => g.identity(result, output));
  });
}
