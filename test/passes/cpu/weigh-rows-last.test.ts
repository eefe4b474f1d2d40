import { describe, expect, it } from 'vitest';
import { Graph, Model, Value } from '../../../src/graph/ir.js';
import { Names } from '../../../src/graph/names.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { Builder } from '../../../src/ops/core/builder.js';
import type { Expr } from '../../../src/ops/core/expr.js';
import { weighRowsLast } from '../../../src/passes/cpu/weigh-rows-last.js';
import { type Feeds, Session } from '../../../src/runtime/session.js';
import { spread } from '../../ops/vjp.js';

const ROWS = [4, 8];
const COLUMNS = 6;

type Case = { rows?: readonly (number | string | null)[]; classes?: number };
/** `d` is the gradient of the logits, `x` what they are computed from. */
type Read = (e: { d: Expr; x: Expr; weight: Expr }, classes: number) => Record<string, Expr>;

function modelOf(read: Read, { rows = ROWS, classes = 300 }: Case = {}): Model {
  const graph = new Graph('cross-entropy');
  const inputs = {
    p: [...rows, classes],
    x: [...rows, COLUMNS],
    weight: [classes, COLUMNS],
    targets: [...rows, 1],
    terms: [...rows, 1],
  };
  graph.inputs = Object.entries(inputs).map(
    ([name, shape]) =>
      new Value(name, { kind: 'tensor', dtype: name === 'targets' ? 'int64' : 'float32', shape }),
  );
  const model = Object.assign(new Model(graph), { irVersion: 8, opsetImports: new Map([['', 18]]) });
  const g = new Builder(graph, { names: Names.of(model), opsets: model.opsetImports });
  const [p, x, weight, targets, terms] = graph.inputs.map(v => g.of(v)) as [Expr, Expr, Expr, Expr, Expr];
  const d = p
    .mul(terms.neg())
    .op('ScatterElements', [targets, terms], { axis: rows.length, reduction: 'add' }, { types: [p.type] });
  for (const [name, e] of Object.entries(read({ d, x, weight }, classes))) {
    const out = e === d ? d.value : new Value(name, e.type);
    if (e !== d) g.identity(e.value, out);
    graph.addOutputs(out);
  }
  return model;
}

async function run(model: Model, rows: readonly number[], classes = 300) {
  const count = rows.reduce((n, d) => n * d, 1);
  const feeds: Feeds = {
    p: spread([...rows, classes], [0, 1]),
    x: spread([...rows, COLUMNS], [-1, 1], 2),
    weight: spread([classes, COLUMNS], [-1, 1], 3),
    targets: new Tensor(
      'int64',
      [...rows, 1],
      Tensor.ints(Array.from({ length: count }, (_, i) => (i * 7) % classes)).bytes,
    ),
    // The last row is one that the loss ignores.
    terms: Tensor.from(
      'float32',
      [...rows, 1],
      Float32Array.from({ length: count }, (_, i) => (i - count + 1) / count),
    ),
  };
  const session = await Session.create(model);
  const fed = Object.fromEntries(model.graph.inputs.map(({ name }) => [name, feeds[name]!]));
  const results = await session.run(fed);
  await session.release();
  return results;
}

/** How many products have a column for each class, but those of matrices. */
const weighed = ({ graph }: Model, classes = 300) =>
  graph.nodes.filter(node => node.opType === 'Mul' && node.outputs[0]!.shape?.at(-1) === classes).length;

const all: Read = ({ d, x, weight }, classes) => {
  const [matrix, inputs] = [d, x].map((e, i) => (e.rank === 2 ? e : e.reshape([-1, [classes, COLUMNS][i]!])));
  const axes = Array.from({ length: d.rank - 1 }, (_, i) => i);
  return {
    dx: d.matmul(weight),
    dw: matrix!.op('Gemm', [inputs!], { transA: 1 }),
    turned: inputs!.op('Gemm', [matrix!], { transA: 1 }),
    db: d.sum(axes),
    kept: d.op('ReduceSum', [matrix!.g.ints(axes)], { keepdims: 1 }),
  };
};

describe('the gradient of cross-entropy', () => {
  it.each([
    ['of sequences', { rows: ROWS }],
    ['of a batch of any size', { rows: ['batch', 8] }],
    ['of vectors', { rows: [40] }],
  ])('%s is weighed after its products', async (_, { rows }) => {
    const model = modelOf(all, { rows });
    const fed = rows.map(d => (typeof d === 'number' ? d : 3));
    const before = await run(model, fed);
    expect(weighed(model)).toBe(1);
    expect(weighRowsLast(model)).toBe(true);
    expect(weighed(model)).toBe(0);
    const after = await run(model, fed);
    for (const [name, was] of Object.entries(before)) {
      expect(after[name]!.dims).toEqual(was.dims);
      const numbers = was.numbers();
      const off = after[name]!.numbers().map((v, i) => Math.abs(v - numbers[i]!));
      expect(Math.max(...off)).toBeLessThan(2e-5);
      expect(Math.max(...numbers.map(Math.abs))).toBeGreaterThan(0.1);
    }
  });

  it.each<[string, Read, Case?]>([
    ['that is read as it is', ({ d, weight }) => ({ dx: d.matmul(weight), d: d.tanh() })],
    ['that is returned', ({ d, weight }) => ({ d, dx: d.matmul(weight) })],
    ['of few classes', all, { classes: 200 }],
    ['of unknown extents', all, { rows: [null, 8] }],
    [
      'of which a maximum is taken',
      ({ d, x, weight }, n) => ({ ...all({ d, x, weight }, n), most: d.op('ReduceMax', []) }),
    ],
    [
      'that is multiplied by a wide matrix',
      ({ d }) => ({ y: d.matmul(d.g.scalar(1, 'float32').expand([300, 200])) }),
    ],
    [
      'whose other factor has other rows',
      ({ d, x }) => ({
        dw: d.reshape([-1, 300]).op('Gemm', [x.transpose([1, 0, 2]).reshape([-1, COLUMNS])], { transA: 1 }),
      }),
    ],
    [
      'of which a Gemm is scaled',
      ({ d, x }) => ({
        dw: d.reshape([-1, 300]).op('Gemm', [x.reshape([-1, COLUMNS])], { transA: 1, beta: 1 }),
      }),
    ],
  ])('%s stays', (_, read, of) => {
    const model = modelOf(read, of);
    const { nodes } = model.graph;
    expect(weighRowsLast(model)).toBe(false);
    expect(model.graph.nodes).toEqual(nodes);
  });
});
