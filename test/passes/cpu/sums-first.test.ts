import { describe, expect, it } from 'vitest';
import { dependents } from '../../../src/graph/dependents.js';
import { Graph, Model, Value } from '../../../src/graph/ir.js';
import { Names } from '../../../src/graph/names.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { Builder } from '../../../src/ops/core/builder.js';
import type { Expr } from '../../../src/ops/core/expr.js';
import { loop } from '../../../src/ops/core/scan.js';
import { sumsFirst } from '../../../src/passes/cpu/sums-first.js';
import { type Feeds, Session } from '../../../src/runtime/session.js';
import { spread } from '../../ops/vjp.js';

const COLUMNS = 80;
const INPUTS = { dy: [4, 30, COLUMNS], x: [4, 30, COLUMNS], scale: [COLUMNS], shape: [2] };

type Read = (e: Record<keyof typeof INPUTS, Expr>, g: Builder) => Record<string, Expr>;

function modelOf(read: Read, rows: number | string = 30): Model {
  const graph = new Graph('sums');
  graph.inputs = Object.entries(INPUTS).map(
    ([name, [first, , ...rest]]) =>
      new Value(name, {
        kind: 'tensor',
        dtype: name === 'shape' ? 'int64' : 'float32',
        shape: rest.length ? [first!, rows, ...rest] : [first!],
      }),
  );
  const model = Object.assign(new Model(graph), { irVersion: 8, opsetImports: new Map([['', 18]]) });
  const g = new Builder(graph, { names: Names.of(model), opsets: model.opsetImports });
  const inputs = graph.inputs.map(value => [value.name, g.of(value)]);
  for (const [name, e] of Object.entries(read(Object.fromEntries(inputs), g))) {
    const out = new Value(name, e.type);
    g.identity(e.value, out);
    graph.addOutputs(out);
  }
  return model;
}

async function run(model: Model, rows = 30) {
  const feeds: Feeds = {
    dy: spread([4, rows, COLUMNS], [-1, 1]),
    x: spread([4, rows, COLUMNS], [-1, 1], 2),
    scale: spread([COLUMNS], [0.5, 1], 3),
    shape: Tensor.ints([-1, COLUMNS]),
  };
  const session = await Session.create(model);
  const read = Object.fromEntries(model.graph.inputs.map(({ name }) => [name, feeds[name]!]));
  const results = await session.run(read);
  await session.release();
  return Object.entries(results).map(([name, tensor]) => [name, tensor.dims, tensor.numbers()]);
}

/** Names of the sums that the node which computes an output depends on. */
function sumsBefore(model: Model, name: string): string[] {
  const { nodes, outputs } = model.graph;
  const output = outputs.find(v => v.name === name)!;
  return outputs.flatMap(sum => {
    const of = sum.producer!.inputs[0]!.producer!;
    return of.opType === 'ReduceSum' &&
      dependents(nodes, of.outputs as Value[]).includes(output.producer!) &&
      sum !== output
      ? [sum.name]
      : [];
  });
}

const rows = (e: Expr) => e.reshape([-1, COLUMNS]);
/** The gradients of a weight that rows are multiplied by, and of its bias. */
const layer: Read = ({ dy, x }) => ({
  bias: dy.sum([0, 1]),
  weight: rows(x).transpose([1, 0]).matmul(rows(dy)),
});
/** Those of a normalization and of its input, from the gradient of its scale and of its shift. */
const norm: Read = ({ dy, x, scale }) => ({
  scale_: dy.mul(x).sum([0, 1]),
  shift: dy.sum([0, 1]),
  dx: dy.mul(scale).sub(x.mul(dy.mul(scale).mul(x).mean([2], { keepdims: true }))),
});

const norms: Read = (e, g) => {
  const { scale_, shift, dx } = norm(e, g);
  const { scale_: scale2, shift: shift2, dx: first } = norm({ ...e, dy: dx! }, g);
  return { scale_, shift, scale2, shift2, dx: first } as Record<string, Expr>;
};
const inLoop: Read = ({ dy, x, scale }, g) => ({
  bias: loop(g, g.scalar(2, 'int64'), [{ start: scale, type: scale.type }], (b, _, [sum]) => [
    sum!.add(b.of(dy.value).sum([0, 1])),
  ]).states[0]!,
  weight: rows(x).transpose([1, 0]).matmul(rows(dy)),
});

describe('sums over rows', () => {
  it.each<[string, Read, string, string[], (number | string)?]>([
    ['of a bias come before the gradient of its weight', layer, 'weight', ['bias']],
    ['of a batch of any size too', layer, 'weight', ['bias'], 'rows'],
    [
      'that are kept as axes too',
      ({ dy, x }) => ({
        bias: dy.sum([0, 1], { keepdims: true }),
        weight: rows(x).transpose([1, 0]).matmul(rows(dy)),
      }),
      'weight',
      ['bias'],
    ],
    [
      'come before a transpose as a matrix',
      ({ dy, x }) => ({
        bias: dy.sum([0, 1]),
        weight: dy.transpose([2, 0, 1]).reshape([COLUMNS, -1]).matmul(rows(x)),
      }),
      'weight',
      ['bias'],
    ],
    ['of a normalization come before the gradient of its input', norm, 'dx', ['scale_', 'shift']],
    ['of one before it too', norms, 'dx', ['scale_', 'shift', 'scale2', 'shift2']],
  ])('%s', async (_, read, output, sums, extent = 30) => {
    const model = modelOf(read, extent);
    const before = await run(model);
    expect(sumsBefore(model, output)).toEqual([]);
    expect(sumsFirst(model)).toBe(true);
    expect(sumsBefore(model, output)).toEqual(sums);
    expect(await run(model)).toEqual(before);
  });

  it('of no rows stay 0', async () => {
    const model = modelOf(layer, 'rows');
    const before = await run(model, 0);
    expect(sumsFirst(model)).toBe(true);
    expect(await run(model, 0)).toEqual(before);
  });

  it('of products with what is computed from the scaled rows do not wait for themselves', async () => {
    const model = modelOf(({ dy, x, scale }) => ({
      scale_: dy.mul(dy.mul(scale).exp()).sum([0, 1]),
      shift: dy.sum([0, 1]),
      dx: dy.mul(scale).exp().sub(x),
    }));
    const before = await run(model);
    expect(sumsFirst(model)).toBe(true);
    expect(sumsBefore(model, 'dx')).toEqual(['shift']);
    expect(await run(model)).toEqual(before);
  });

  it.each<[string, Read]>([
    [
      'of few elements',
      ({ dy, x }) => layer({ dy: dy.slice([0], [20], [1]), x: x.slice([0], [20], [1]) } as never, dy.g),
    ],
    [
      'of matrices',
      ({ dy, x }) => ({ bias: dy.sum([0]), weight: rows(x).transpose([1, 0]).matmul(rows(dy)) }),
    ],
    [
      'over columns',
      ({ dy, x }) => ({ bias: dy.sum([2]), weight: rows(x).transpose([1, 0]).matmul(rows(dy)) }),
    ],
    ['beside other columns', ({ dy }) => ({ bias: dy.sum([0, 1]), y: dy.reshape([-1, COLUMNS / 2]).exp() })],
    [
      'beside another transpose',
      ({ dy }) => ({ bias: dy.sum([0, 1]), y: dy.transpose([0, 2, 1]).reshape([-1, 30]).exp() }),
    ],
    [
      'beside a product with one number',
      ({ dy, scale }) => ({ bias: dy.sum([0, 1]), y: dy.mul(scale.slice([0], [1], [0])) }),
    ],
    [
      'beside a tensor of as many rows',
      ({ dy }) => ({ bias: dy.sum([0, 1]), y: dy.reshape([60, COLUMNS, 2]).exp() }),
    ],
    ['in a loop, beside a weight out of it', inLoop],
    ['beside a vector', ({ dy }) => ({ bias: dy.sum([0, 1]), y: dy.reshape([-1]).exp() })],
    [
      'beside extents that are given',
      ({ dy, shape }) => ({ bias: dy.sum([0, 1]), y: dy.reshape(shape).exp() }),
    ],
    ['that are none', ({ scale }) => ({ y: scale.exp(), z: scale.reshape([1, COLUMNS]).exp() })],
    ['beside a product of tensors', ({ dy, x }) => ({ bias: dy.sum([0, 1]), y: dy.mul(x) })],
  ])('%s stay where they are', (_, read) => {
    expect(sumsFirst(modelOf(read))).toBe(false);
  });
});
