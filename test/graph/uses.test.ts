import { describe, expect, it } from 'vitest';
import { checkGraph } from '../../src/graph/check-graph.js';
import { cloneModel } from '../../src/graph/clone.js';
import { Graph, Model, Node, Value } from '../../src/graph/ir.js';
import { decodeModel, encodeModel } from '../../src/graph/proto/codec.js';
import { toAttrs } from '../../src/ops/core/builder.js';

/** y = If(c) { x + t } else { x }, where t = relu(x): the branches capture x and t, one of them as its output. */
function branching() {
  const value = (name: string) => new Value(name, { kind: 'tensor', dtype: 'float32', shape: [2] });
  const [c, x, t, s, y] = ['c', 'x', 't', 's', 'y'].map(value) as [Value, Value, Value, Value, Value];
  c.type = { kind: 'tensor', dtype: 'bool', shape: [] };
  const yes = new Graph('yes');
  const add = new Node('Add', [x, t], [s]);
  yes.append(add);
  yes.outputs = [s];
  const no = new Graph('no');
  no.outputs = [x];
  const graph = new Graph('main');
  graph.inputs = [c, x];
  const relu = new Node('Relu', [x], [t]);
  const choice = new Node('If', [c], [y], toAttrs({ then_branch: yes, else_branch: no }));
  graph.append(relu, choice);
  graph.outputs = [y];
  return { graph, yes, no, add, relu, choice, c, x, t, s, y };
}

describe('who writes and who reads a value', () => {
  it('counts reads in subgraphs, and graph outputs separately', () => {
    const { graph, no, add, relu, choice, x, t, y } = branching();
    checkGraph(graph);
    expect([t.producer, y.producer, x.producer]).toEqual([relu, choice, undefined]);
    expect(x.readers).toEqual([add, relu]);
    expect(t.uses).toEqual([{ node: add, index: 1 }]);
    expect(x.outputOf).toEqual([no]);
    expect(y.outputOf).toEqual([graph]);
    expect([y.readers.length, y.isUsed]).toEqual([0, true]);
  });

  it('lists the nodes that have subgraphs, whatever changes', () => {
    const { graph, yes, choice } = branching();
    expect(graph.owners).toEqual([choice]);
    expect(Graph.view(graph).owners).toEqual([choice]);
    const other = new Node('Opaque', [], [new Value('opaque')]);
    graph.prepend(other);
    expect(graph.owners).toEqual([choice]);
    const attr = choice.attrs.get('then_branch')!;
    choice.deleteAttr('then_branch');
    choice.deleteAttr('else_branch');
    expect(graph.owners).toEqual([]);
    other.setAttr('body', attr);
    expect(graph.owners).toEqual([other]);
    expect(yes.owners).toEqual([]);
    graph.remove([other]);
    expect(graph.owners).toEqual([]);
    graph.append(other);
    expect(graph.owners).toEqual([other]);
    graph.nodes = [choice];
    expect(graph.owners).toEqual([]);
  });

  it('has one use for each input of a node that reads a value twice', () => {
    const { graph, relu, t } = branching();
    const square = new Node('Mul', [t, t], [new Value('square')]);
    graph.append(square);
    expect(t.uses.filter(use => use.node === square).map(use => use.index)).toEqual([0, 1]);
    square.setInput(0, relu.inputs[0]!);
    expect(t.readers).toContain(square);
    square.setInput(1, null);
    expect(t.readers).not.toContain(square);
    checkGraph(graph);
  });

  it('keeps the order of many readers, and forgets those that go', () => {
    const { graph, x } = branching();
    const before = x.readers.length;
    const nodes = Array.from({ length: 20 }, (_, i) => new Node('Neg', [x], [new Value(`n${i}`)]));
    graph.append(...nodes);
    expect(x.readers.slice(before)).toEqual(nodes);
    graph.remove(nodes.slice(3));
    expect(x.readers.slice(before)).toEqual(nodes.slice(0, 3));
    checkGraph(graph);
  });

  it('redirects all uses of a replaced value, in subgraphs and outputs', () => {
    const { graph, no, add, choice, x, y } = branching();
    const other = new Value('other');
    graph.inputs.push(other);
    x.replaceAllUses(other);
    expect([x.isUsed, add.inputs[0], no.outputs[0]]).toEqual([false, other, other]);
    y.replaceAllUses(other, { outputs: false });
    expect(graph.outputs).toEqual([y]);
    expect(y.producer).toBe(choice);
    checkGraph(graph);
  });
});

describe('nodes that come and go', () => {
  it('takes the reads of subgraphs out and back with the node that owns them', () => {
    const { graph, yes, no, choice, relu, c, x, t, s } = branching();
    graph.remove([choice]);
    expect([c, t].map(v => v.isUsed)).toEqual([false, false]);
    expect(x.readers).toEqual([relu]);
    expect([x.outputOf, s.producer, yes.owner]).toEqual([[], undefined, undefined]);
    graph.append(choice);
    checkGraph(graph);
    expect(no.owner).toBe(choice);
  });

  it('moves subgraphs to the node that replaces their owner', () => {
    const { graph, yes, choice, y } = branching();
    const next = new Node('If', choice.inputs, choice.outputs, choice.attrs);
    graph.nodes = graph.nodes.map(node => (node === choice ? next : node));
    checkGraph(graph);
    expect([y.producer, yes.owner, choice.graph]).toEqual([next, next, undefined]);
    next.deleteAttr('then_branch');
    expect(yes.owner).toBeUndefined();
  });

  it('leaves them with that node when the old one goes later', () => {
    const { graph, yes, choice } = branching();
    const z = new Value('z');
    const next = new Node('If', choice.inputs, [z], choice.attrs);
    graph.append(next);
    graph.outputs = [];
    graph.addOutputs(z);
    graph.remove([choice]);
    checkGraph(graph);
    expect([yes.owner, z.outputOf]).toEqual([next, [graph]]);
  });

  it('refuses a second writer, a node of another graph, and a node twice', () => {
    const { graph, relu, x, t } = branching();
    expect(() => graph.append(new Node('Neg', [x], [t]))).toThrow(/cannot write 't': 'Relu'.* already does/);
    expect(() => new Graph('other').append(relu)).toThrow(/is in graph 'main'/);
    expect(() => {
      graph.nodes = [relu, relu];
    }).toThrow(/cannot hold a node twice/);
  });

  it('does not expose lists that can be changed without updating links', () => {
    const { relu, x } = branching();
    expect(() => (relu.inputs as (Value | null)[]).push(x)).toThrow(TypeError);
    expect(() => (relu.outputs as (Value | null)[]).pop()).toThrow(TypeError);
  });

  it('leaves links alone in a view', () => {
    const { graph, relu, t } = branching();
    const view = Graph.view(graph, { outputs: [t] });
    view.append(new Node('Neg', [t], [new Value('n')]));
    view.remove([relu]);
    view.outputs = [t, t];
    checkGraph(graph);
    expect([relu.graph, t.outputOf.length, t.readers.length]).toEqual([graph, 0, 1]);
  });
});

it('links copied and decoded nodes', () => {
  const { graph } = branching();
  const model = new Model(graph);
  model.opsetImports.set('', 17);
  for (const made of [cloneModel(model), decodeModel(encodeModel(model))]) {
    checkGraph(made.graph);
    const x = made.graph.inputs[1]!;
    expect(x.readers.map(node => node.opType).sort()).toEqual(['Add', 'Relu']);
    expect(x.outputOf.map(g => g.name)).toEqual(['no']);
  }
  checkGraph(graph);
});

describe('checkGraph', () => {
  it('finds a node that a list was given behind its back', () => {
    const { graph, x } = branching();
    (graph.nodes as Node[]).push(new Node('Neg', [x], [new Value('n')]));
    expect(() => checkGraph(graph)).toThrow(/'Neg'.* in fact in|'x' is read by 'Neg'/);
  });

  it('finds an output that a list was given behind its back', () => {
    const { graph, t } = branching();
    (graph.outputs as Value[]).push(t);
    expect(() => checkGraph(graph)).toThrow(/'t' is returned by graph 'main', and does not say so/);
  });

  it('finds readers that are not in the graph', () => {
    const { graph, t } = branching();
    const draft = new Graph('draft');
    draft.append(new Node('Neg', [t], [new Value('n')]));
    expect(() => checkGraph(graph)).toThrow(/'t' is not read by 'Neg'.* and says so/);
  });

  it('finds values that are read before they are defined', () => {
    const { graph } = branching();
    graph.nodes = graph.nodes.toReversed();
    expect(() => checkGraph(graph)).toThrow(/reads 't' before it is there/);
  });

  it('finds a subgraph of two nodes', () => {
    const { graph, choice } = branching();
    graph.append(new Node('If', choice.inputs, [new Value('z')], choice.attrs));
    expect(() => checkGraph(graph)).toThrow(/subgraph 'yes' of 'If'.* belongs to 'If'/);
  });
});
