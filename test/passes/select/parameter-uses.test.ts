import { expect, it } from 'vitest';
import { inject } from '../../../src/passes/inject.js';
import { parameterUses } from '../../../src/passes/select/parameter-uses.js';
import { sessionShapes } from '../../../src/runtime/session.js';
import { Sketch } from '../../sample.js';

const LOSS = { kind: 'cross-entropy' } as const;

/** Rows of a table -> MatMul -> Gemm with transposed weights -> MatMul, the head. */
function model() {
  const s = new Sketch();
  const rows = s.add('Gather', [s.weight('table', [6, 4]), s.input('x', ['batch'], 'int64')], 'rows');
  const h = s.add('MatMul', [rows, s.weight('w', [4, 8])], 'h');
  const a = s.add('Tanh', [s.add('Add', [h, s.weight('b', [8])], 'hb')], 'a');
  const g = s.add('Gemm', [a, s.weight('v', [5, 8])], 'g', { transB: { type: 'int', value: 1n } });
  return s.model([s.add('MatMul', [s.add('Tanh', [g], 't'), s.weight('head', [5, 3])], 'y')]);
}

it('finds tables, heads and weights that are stored as inputs x outputs', () => {
  const { graph } = model();
  const parameters = [...graph.initializers.keys()];
  const uses = parameterUses(graph, parameters, graph.outputs);
  const where = (use: 'isTable' | 'isHead' | 'isTransposed') =>
    parameters.flatMap((p, i) => (uses[i]![use] ? p.name : []));
  expect(where('isTable')).toEqual(['table']);
  expect(where('isHead')).toEqual(['head']);
  expect(where('isTransposed')).toEqual(['w', 'head']);
});

it('Muon updates hidden matrices, and leaves what else there is to AdamW', async () => {
  const options = { loss: LOSS, optimizer: { name: 'muon' }, layerDecay: 0.5 } as const;
  const { report } = await inject(model(), options, sessionShapes);
  const states = report.description.parameters.map(p => [p.name, Object.keys(p.state)[0]]);
  expect(Object.fromEntries(states)).toEqual({
    table: 'exp_avg',
    w: 'momentum_buffer',
    b: 'exp_avg',
    v: 'momentum_buffer',
    head: 'exp_avg',
  });
  const own = new Map(report.description.parameters.map(p => [p.name, p.options]));
  expect(own.get('head')).toEqual({ useMuon: false, transposed: true });
  expect(own.get('v')).toEqual({ lr: 5e-4, adamLr: 1.5e-4 });
});

it('a group decides for itself', async () => {
  const groups = [{ match: ['head', 'w'], options: { useMuon: true, transposed: false } }];
  const options = { loss: LOSS, optimizer: { name: 'muon' }, groups } as const;
  const { report } = await inject(model(), options, sessionShapes);
  const own = new Map(report.description.parameters.map(p => [p.name, p]));
  expect(own.get('head')).toMatchObject({ options: { useMuon: true, transposed: false } });
  expect(Object.keys(own.get('head')!.state)).toEqual(['momentum_buffer']);
});

it('updates the rows of a batch only where the step is elementwise', async () => {
  const lazy = (name: 'muon' | 'lamb' | 'lion') =>
    inject(model(), { loss: LOSS, optimizer: { name }, lazyRows: ['table'] }, sessionShapes);
  await expect(lazy('lamb')).rejects.toThrow(
    "lazyRows changes only the rows of a batch, and the step of lamb for 'table' depends on the whole table",
  );
  for (const name of ['muon', 'lion'] as const)
    expect((await lazy(name)).report.description.parameters[0]!.rows).toBeDefined();
});
