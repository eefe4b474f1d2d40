/** Definitions of operators that few models have are loaded when a graph has one of them. */
import { expect, it } from 'vitest';
import { allGraphs, type Graph } from '../../src/graph/ir.js';
import { Tensor } from '../../src/graph/tensor.js';
import { opDef, opTable } from '../../src/ops/index.js';
import { inject } from '../../src/passes/inject.js';
import { sessionShapes } from '../../src/runtime/session.js';
import { Body, float32, model } from './body.js';
import { EXAMPLES } from './examples.js';
import { trace } from './operators-page.js';
import { spread } from './vjp.js';

const common = new Set([...opTable()].map(([domain, op]) => `${domain}:${op}`));
const isCommon = (graph: Graph) =>
  [...allGraphs(graph)].every(({ nodes }) => nodes.every(n => common.has(`${n.domain}:${n.opType}`)));

it('gradients of usual operators need no others', async () => {
  expect(() => opDef({ domain: '', opType: 'GRU' })).toThrow('Nobody has loaded the definition of GRU.');
  const usual = EXAMPLES.filter(e => isCommon(e.make(false).model.graph));
  expect(usual.length).toBeGreaterThan(100);
  for (const example of usual) await trace(example, false, false);
  expect(() => opDef({ domain: '', opType: 'GRU' })).toThrow('Nobody has loaded');
});

it('a model with others trains, also where only a subgraph has them', async () => {
  const main = new Body('main');
  const x = main.input('x', float32(['n', 4]));
  const w = main.constant('w', spread([4, 4], [-0.5, 0.5], 1));
  const h = main.add('MatMul', [x, w], 'h');
  const [yes, no] = [new Body('yes'), new Body('no')];
  yes.outputs(yes.add('Einsum', [h], 'a', { equation: 'ij->ij' }));
  no.outputs(no.add('Neg', [h], 'b'));
  const condition = main.constant('c', Tensor.filled('bool', [], 1));
  const y = main.add('If', [condition], 'y', { then_branch: yes.graph, else_branch: no.graph });
  const { report } = await inject(model(main, [y]), { loss: { kind: 'mse' } }, sessionShapes);
  expect(report.parameters.filter(p => p.trains).map(p => p.value.name)).toEqual(['w']);
  expect(opDef({ domain: '', opType: 'Einsum' })?.kind).toBeDefined();
});
