import { expect, it } from 'vitest';
import { Graph, Node, Value } from '../../src/graph/ir.js';
import { Names } from '../../src/graph/names.js';
import { Builder } from '../../src/ops/core/builder.js';
import { backward } from '../../src/passes/backward.js';

/** The message of the error for y = op(w). */
function errorFor(op: string, domain: string): string {
  const [w, y] = ['w', 'y'].map(name => new Value(name, { kind: 'tensor', dtype: 'float32', shape: [2] }));
  const graph = new Graph('test');
  const node = new Node(op, [w!], [y!]);
  node.domain = domain;
  graph.nodes.push(node);
  const g = new Builder(graph, { names: new Names(), opsets: new Map([['', 18]]) });
  try {
    backward(g, new Map([[y!, g.of(y!).ones()]]), [w!]);
  } catch (error) {
    return (error as Error).message;
  }
  return '';
}

it('says of an operator without a rule what to do', () => {
  expect(errorFor('MoE', 'com.microsoft')).toMatch(
    /'com.microsoft.MoE' \(node 'y'\), on the path from 'w' to 'y'. Freeze 'w'/,
  );
  expect(errorFor('ReorderOutput', 'com.microsoft.nchwc')).toMatch(
    /save it at optimization level "extended" or below/,
  );
});
