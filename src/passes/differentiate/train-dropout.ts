import type { Graph, Node } from '../../graph/ir.js';
import { Tensor } from '../../graph/tensor.js';
import type { Builder } from '../../ops/core/builder.js';
import { isAttachedNode } from '../normalize/attached.js';

/**
 * Sets dropout to training (`train`) or inference mode (`eval`), regardless of the exported mode, also in branches
 * and loops. Returns whether there was any dropout.
 */
export function trainDropout(g: Builder, mode: 'train' | 'eval'): boolean {
  let found = false;
  const visit = (graph: Graph): void => {
    for (const node of graph.nodes) {
      node.subgraphs().forEach(visit);
      if (node.opType !== 'Dropout' || node.domain !== '') continue;
      setTraining(node, mode === 'train' && !isAttachedNode(node) && ratioOf(node, g) !== 0, g);
      found = true;
    }
  };
  visit(g.graph);
  return found;
}

function ratioOf(node: Node, g: Builder): number | undefined {
  const [, ratio] = node.inputs;
  return ratio ? g.constant(ratio)?.numbers()[0] : 0.5;
}

function setTraining(node: Node, on: boolean, g: Builder): void {
  node.setInput(2, g.tensor(new Tensor('bool', [], Uint8Array.of(on ? 1 : 0)), on ? 'true' : 'false').value);
}
