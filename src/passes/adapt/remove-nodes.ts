import type { Graph, Node } from '../../graph/ir.js';

/** Lets each of these nodes hand its first input on: it leaves the graph, or becomes an Identity between two outputs. */
export function removeNodes(graph: Graph, nodes: readonly Node[]): void {
  for (const node of nodes) {
    const [input, output] = [node.inputs[0]!, node.outputs[0]!];
    if (!output.outputOf.length) {
      graph.remove([node]);
      output.replaceAllUses(input);
      continue;
    }
    const { producer } = input;
    if (input.outputOf.length || producer?.graph !== graph) {
      node.opType = 'Identity';
      node.domain = '';
      node.inputs = [input];
      node.attrs = new Map();
      continue;
    }
    graph.remove([node]);
    producer.setOutput(producer.outputs.indexOf(input), output);
    input.replaceAllUses(output);
  }
}
