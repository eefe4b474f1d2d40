import { expect, it } from 'vitest';
import { Graph, Node, Value } from '../../../src/graph/ir.js';
import { Names } from '../../../src/graph/names.js';
import { Builder } from '../../../src/ops/core/builder.js';
import { loadOperators } from '../../../src/ops/index.js';
import { backward } from '../../../src/passes/differentiate/backward.js';

await loadOperators();

/** The message of the error for y = op(w). */
function errorFor(op: string, domain: string): string {
  const [w, y] = ['w', 'y'].map(name => new Value(name, { kind: 'tensor', dtype: 'float32', shape: [2] }));
  const graph = new Graph('test');
  const node = new Node(op, [w!], [y!]);
  node.domain = domain;
  graph.append(node);
  const g = new Builder(graph, { names: new Names(), opsets: new Map([['', 18]]) });
  try {
    backward(g, new Map([[y!, g.of(y!).ones()]]), [w!]);
  } catch (error) {
    return (error as Error).message;
  }
  return '';
}

it('says of an operator without a rule what to do', () => {
  expect(errorFor('PagedAttention', 'com.microsoft')).toMatch(
    /'com.microsoft.PagedAttention' \(node 'y'\), on the path from 'w' to 'y'. Freeze 'w'/,
  );
  expect(errorFor('ReorderOutput', 'com.microsoft.nchwc')).toMatch(
    /save it at optimization level "extended" or below/,
  );
});

it('names what lies between the parameter and the operator, in order', () => {
  const type = { kind: 'tensor', dtype: 'float32', shape: [2] } as const;
  const [x, w, a, b, c, loss] = 'x w a b c loss'.split(' ').map(name => new Value(name, type)) as Value[];
  const graph = new Graph('test');
  const nodes = [
    new Node('Mul', [x!, w!], [a!]),
    new Node('Tanh', [a!], [b!]),
    new Node('Unheard', [b!], [c!]),
    new Node('Exp', [c!], [loss!]),
  ];
  nodes.forEach((node, i) => {
    node.name = `node${i}`;
  });
  graph.append(...nodes);
  const g = new Builder(graph, { names: new Names(), opsets: new Map([['', 18]]) });
  expect(() => backward(g, new Map([[loss!, g.of(loss!).ones()]]), [w!])).toThrow(
    "No gradient rule for op 'Unheard' (node 'node2'), on the path from 'w' to 'loss' " +
      "(by way of 'Mul' (node 'node0'), 'Tanh' (node 'node1')). " +
      "Freeze 'w' and what else feeds it with --freeze, or define its gradient with --extend.",
  );
});

it('says of an output that an expansion does not give which one it is', () => {
  const type = { kind: 'tensor', dtype: 'float32', shape: [2, 2] } as const;
  const [a, b, y, more] = ['a', 'b', 'y', 'more'].map(name => new Value(name, type)) as Value[];
  const graph = new Graph('test');
  const node = new Node('FusedMatMul', [a!, b!], [y!, more!]);
  node.domain = 'com.microsoft';
  graph.append(node);
  const g = new Builder(graph, { names: new Names(), opsets: new Map([['', 18]]) });
  expect(() => backward(g, new Map([[y!, g.of(y!).ones()]]), [a!])).toThrow(
    "No gradient for 'com.microsoft.FusedMatMul' (node 'y') with its output 'more'.",
  );
});
