import { AgdError } from '../graph/errors.js';
import type { Graph, Node } from '../graph/ir.js';
import { Tensor } from '../graph/tensor.js';
import type { Builder } from '../ops/core/builder.js';

/**
 * Lets dropout drop (`train`), or do nothing (`eval`), whatever the exporter wrote, in branches and loops too. Each
 * node gets a seed of its own, made from `seed`: a session then draws the same masks, run by run, every time.
 * Returns whether there was any dropout. Throws `unsupported-op` for dropout that drops in the body of a loop.
 */
export function trainDropout(g: Builder, mode: 'train' | 'eval', seed: number): boolean {
  let count = 0;
  const visit = (graph: Graph, inLoop: boolean): void => {
    for (const node of graph.nodes) {
      for (const body of node.subgraphs()) visit(body, inLoop || node.opType !== 'If');
      if (node.opType !== 'Dropout' || node.domain !== '') continue;
      const drops = mode === 'train' && ratioOf(node, g) !== 0;
      if (drops && inLoop) throw dropoutInLoop(node);
      setTraining(node, drops, g);
      if (drops) node.attrs.set('seed', { type: 'int', value: seedOf(seed, count) });
      count += 1;
    }
  };
  visit(g.graph, false);
  return count > 0;
}

function ratioOf(node: Node, g: Builder): number | undefined {
  const [, ratio] = node.inputs;
  return ratio ? g.constant(ratio)?.numbers()[0] : 0.5;
}

function setTraining(node: Node, on: boolean, g: Builder): void {
  while (node.inputs.length < 3) node.inputs.push(null);
  node.inputs[2] = g.tensor(new Tensor('bool', [], Uint8Array.of(on ? 1 : 0)), on ? 'true' : 'false').value;
}

/**
 * Seeds far from each other: ONNX Runtime draws run r of a node from its seed plus r, so that of two nodes with
 * neighbouring seeds one would repeat the other's masks a run later.
 */
function seedOf(seed: number, index: number): number {
  return Math.imul(seed * 1009 + index + 1, 0x9e3779b1) >>> 1;
}

/** The backward pass runs a loop's body again, in reverse, and would draw other masks. */
function dropoutInLoop(node: Node): AgdError {
  return new AgdError(
    'unsupported-op',
    `Cannot train with ${node.label} in the body of a loop: its masks cannot be drawn again for the backward pass. ` +
      'Use --dropout eval.',
  );
}
