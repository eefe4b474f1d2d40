import { describe, expect, it } from 'vitest';
import { Graph, Model, type Node, Value } from '../../../src/graph/ir.js';
import { Names } from '../../../src/graph/names.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { topologicalOrder } from '../../../src/graph/topological-order.js';
import { Builder } from '../../../src/ops/core/builder.js';
import { addRows } from '../../../src/passes/cpu/add-rows.js';
import { Session } from '../../../src/runtime/session.js';
import { spread } from '../../ops/vjp.js';

type Case = {
  table: readonly (number | string)[];
  indices: readonly (number | string)[];
  rows: readonly (number | string)[];
  dtype?: 'int32' | 'int64';
  of?: 'float32' | 'float64';
  axis?: number;
  reduction?: string;
  change?: (sum: Node) => void;
};

/** A table of ones with rows added at the indices, which are repeated for each number of a row. */
function added(given: Case): Model {
  const { table, indices, rows, dtype = 'int64', of = 'float32', axis = 0, reduction = 'add' } = given;
  const graph = new Graph('added');
  const [t, i, r] = [
    new Value('table', { kind: 'tensor', dtype: of, shape: [...table] }),
    new Value('indices', { kind: 'tensor', dtype, shape: [...indices] }),
    new Value('rows', { kind: 'tensor', dtype: of, shape: [...rows] }),
  ];
  graph.inputs = [t, i, r];
  const model = Object.assign(new Model(graph), { irVersion: 8, opsetImports: new Map([['', 18]]) });
  const g = new Builder(graph, { names: Names.of(model), opsets: model.opsetImports });
  const repeated = g.of(i).expand(g.of(r).dims());
  const y = new Value('y');
  g.identity(g.of(t).scatterElements(repeated, g.of(r), axis, reduction).value, y);
  graph.addOutputs(y);
  return model;
}

/** Sums of so many of these rows at every third place. */
function sums(extents: readonly (number | string)[], count: number) {
  const model = added({ table: extents, indices: [extents[0]!, 1], rows: extents });
  const { graph } = model;
  const g = new Builder(graph, { names: Names.of(model), opsets: model.opsetImports });
  const [table, , rows] = graph.inputs;
  table!.replaceAllUses(g.of(rows!).zeros().value);
  graph.inputs = graph.inputs.slice(1);
  graph.nodes = topologicalOrder(graph.nodes);
  const places = Array.from({ length: count }, (_, i) => i - (i % 3));
  return { model, feeds: { indices: placesOf('int64', places), rows: spread([count, 8], [-1, 1]) } };
}

const operators = ({ graph }: Model) => graph.nodes.map(node => node.opType);

const placesOf = (dtype: 'int32' | 'int64', indices: readonly number[]) =>
  Tensor.from(
    dtype,
    [indices.length, 1],
    dtype === 'int32' ? Int32Array.from(indices) : BigInt64Array.from(indices, BigInt),
  );

async function runs(model: Model, feeds: Record<string, Tensor>, times = 1) {
  const session = await Session.create(model, { threads: 2 });
  const results = [];
  for (let i = 0; i < times; i++) results.push((await session.run(feeds)).y!);
  await session.release();
  return results;
}

describe('rows added to a table', () => {
  const usual = { table: [5, 128], indices: ['n', 1], rows: ['n', 128] } satisfies Case;
  it.each<[string, Case, number, (i: number) => number]>([
    ['in one part', usual, 40, i => (3 * i) % 5],
    // More than the runtime adds on one thread, all of it to the same row.
    ['in several', usual, 5000, () => 2],
    ['in parts of equal size', { ...usual, indices: [2048, 1], rows: [2048, 128] }, 2048, i => i % 2],
    ['counted from the end', usual, 3000, i => -1 - (i % 5)],
    ['at 32-bit indices', { ...usual, dtype: 'int32' }, 3000, i => i % 3],
    ['none', usual, 0, () => 0],
  ])('have the same bits: %s', async (_, given, count, index) => {
    const { dtype = 'int64' } = given;
    const [length, width] = given.table as number[];
    const indices = Array.from({ length: count }, (_, i) => index(i));
    const feeds = {
      table: Tensor.filled('float32', [length!, width!], 1),
      indices: placesOf(dtype, indices),
      rows: count ? spread([count, width!], [-1, 1]) : Tensor.filled('float32', [0, width!], 0),
    };
    const model = added(given);
    const [before] = await runs(model, feeds);
    expect(addRows(model)).toBe(true);
    expect(operators(model)).not.toContain('ScatterElements');
    for (const after of await runs(model, feeds, 30)) expect(after).toEqual(before);
  });

  it('at one index that is repeated', async () => {
    const model = added({ ...usual, indices: [1, 1] });
    const feeds = {
      table: Tensor.filled('float32', [5, 128], 1),
      indices: placesOf('int64', [3]),
      rows: spread([3000, 128], [-1, 1]),
    };
    const before = await runs(model, feeds);
    expect(addRows(model)).toBe(true);
    expect(await runs(model, feeds)).toEqual(before);
  });

  it.each([
    ['in parts', 40_000],
    ['whole, where there are many', 140_000],
  ])('to as many zeros have the same bits: %s', async (_, count) => {
    const { model, feeds } = sums(['n', 8], count);
    const [before] = await runs(model, feeds);
    expect(addRows(model)).toBe(true);
    expect(operators(model)).not.toContain('ScatterElements');
    // Comparing a million numbers one by one would take longer than all else.
    for (const { bytes } of await runs(model, feeds, 10))
      expect(Buffer.compare(bytes, before!.bytes)).toBe(0);
  });

  it.each<[string, Case]>([
    ['written, not added', { ...usual, reduction: 'none' }],
    ['multiplied', { ...usual, reduction: 'mul' }],
    ['of another type', { ...usual, of: 'float64' }],
    ['in a large table', { ...usual, table: [2049, 128] }],
    ['in a table of unknown length', { ...usual, table: ['words', 128] }],
    ['of part of the width', { ...usual, rows: ['n', 100] }],
    ['of unknown width', { ...usual, rows: ['n', 'width'] }],
    ['where indices differ within a row', { ...usual, indices: ['n', 128] }],
    ['of few numbers', { ...usual, table: [5, 31], rows: ['n', 31] }],
    ['along columns', { table: [128, 128], indices: [128, 1], rows: [128, 128], axis: 1 }],
    ['of matrices', { table: [5, 128, 2], indices: [128, 1], rows: [5, 128, 2] }],
    [
      'by an operator of another domain',
      { ...usual, change: sum => Object.assign(sum, { domain: 'other' }) },
    ],
    [
      'at indices that another domain repeats',
      { ...usual, change: sum => Object.assign(sum.inputs[1]!.producer!, { domain: 'other' }) },
    ],
    [
      'at indices that are not of an Expand',
      { ...usual, change: sum => Object.assign(sum.inputs[1]!.producer!, { opType: 'Tile' }) },
    ],
  ])('stay: %s', (_, given) => {
    const model = added(given);
    given.change?.(model.graph.nodes.find(node => node.opType === 'ScatterElements')!);
    expect(addRows(model)).toBe(false);
    expect(operators(model)).toContain('ScatterElements');
  });
});
