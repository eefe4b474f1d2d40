import { describe, expect, it } from 'vitest';
import { allGraphs, Graph, Model, Value } from '../../../src/graph/ir.js';
import { Names } from '../../../src/graph/names.js';
import type { Tensor } from '../../../src/graph/tensor.js';
import { Builder, float } from '../../../src/ops/core/builder.js';
import type { Expr } from '../../../src/ops/core/expr.js';
import { BLOCKED } from '../../../src/passes/cpu/blocks.js';
import { layOut } from '../../../src/runtime/cpu.js';
import { Session } from '../../../src/runtime/session.js';
import { spread } from '../../ops/vjp.js';

const SHAPES = {
  x: ['n', 16, 16, 5],
  w: [16, 16, 3, 3],
  v: [16, 16, 3, 3],
  scale: [16],
  bias: [16],
  mean: [16],
  variance: [16],
  factor: [1, 16, 1, 1],
  image: [1, 16, 16, 5],
  rows: [16, 1],
} as const;
type Inputs = Record<keyof typeof SHAPES, Expr>;

/** What is written on these inputs, and what they are fed. */
function written(write: (inputs: Inputs) => Expr | readonly Expr[]) {
  const graph = new Graph('between');
  graph.inputs = Object.entries(SHAPES).map(
    ([name, shape]) => new Value(name, { kind: 'tensor', dtype: 'float32', shape: [...shape] }),
  );
  const model = Object.assign(new Model(graph), { irVersion: 8, opsetImports: new Map([['', 18]]) });
  const g = new Builder(graph, { names: Names.of(model), opsets: model.opsetImports });
  const inputs = Object.fromEntries(graph.inputs.map(v => [v.name, g.of(v)])) as Inputs;
  graph.outputs = [write(inputs)].flat().map(e => g.rename(e, 'y'));
  const feeds = Object.entries(SHAPES).map(([name, shape], i) => {
    const dims = shape.map(d => (d === 'n' ? 2 : d)) as number[];
    return [name, spread(dims, name === 'variance' ? [0.5, 2] : [-1, 1], i + 1)] as const;
  });
  return { model, feeds: Object.fromEntries(feeds) };
}

async function run(model: Model, feeds: Record<string, Tensor>): Promise<number[][]> {
  const session = await Session.create(model);
  const outputs = await session.run(feeds);
  await session.release();
  return model.graph.outputs.map(v => outputs[v.name]!.numbers());
}

const conv = (x: Expr, w: Expr) =>
  x.op('Conv', [w], { pads: [1, 1, 1, 1], kernel_shape: [3, 3] }, { types: [x.type] });

const normalized = (x: Expr, { scale, bias, mean, variance }: Inputs) =>
  x.op('BatchNormalization', [scale, bias, mean, variance], { epsilon: float(1e-3) }, { types: [x.type] });

const operators = (model: Model) =>
  [...allGraphs(model.graph)].flatMap(graph => graph.nodes.map(node => `${node.domain}:${node.opType}`));

const count = (model: Model, op: string) => operators(model).filter(name => name === op).length;

/** Lays a model out and runs it before and after. Returns how many times values are laid out again: to blocks, and back. */
async function reorderings(write: (inputs: Inputs) => Expr | readonly Expr[]): Promise<[number, number]> {
  const { model, feeds } = written(write);
  const before = await run(model, feeds);
  await layOut(model, {});
  const after = await run(model, feeds);
  after.forEach((y, i) => {
    expect(y.length).toBe(before[i]!.length);
    const scale = Math.max(...before[i]!.map(Math.abs));
    expect(Math.max(...y.map((v, j) => Math.abs(v - before[i]![j]!))) / scale).toBeLessThan(1e-5);
  });
  return [count(model, `${BLOCKED}:ReorderInput`), count(model, `${BLOCKED}:ReorderOutput`)];
}

const among = (write: (x: Expr, inputs: Inputs) => Expr) => (inputs: Inputs) =>
  conv(write(conv(inputs.x, inputs.w), inputs), inputs.v);

const statistics = (x: Expr) => {
  const mean = x.mean([0, 2, 3], { keepdims: true });
  const centered = x.sub(mean);
  return { mean, centered, variance: centered.square().mean([0, 2, 3], { keepdims: true }) };
};

const row = (x: Expr) => x.reshape([0, 0, 1, 80]);
const dots = (a: Expr, b: Expr) => row(a).matmul(row(b).mT);

const kept: Record<string, (x: Expr, inputs: Inputs) => Expr> = {
  'a rectifier': x => x.relu(),
  'batch normalization, a sum and a rectifier': (x, inputs) => normalized(x, inputs).add(x).relu(),
  'a sum of a value and itself': x => x.relu().add(x.relu()),
  'a sum of two convolutions, which the second one adds': (x, { v, w }) => conv(x, v).add(conv(x, w)).relu(),
  'factors and differences by channel, on either side': (x, { factor }) =>
    factor
      .mul(x)
      .sub(factor)
      .add(factor.reshape([16, 1, 1])),
  'a difference of a convolution, clipped': (x, { factor, v }) => conv(x, v).sub(factor).relu(),
  'a factor of a sum': (x, { factor }) => x.relu().add(x).mul(factor),
  'products and single numbers': x => x.mul(2).add(x.tanh()).mul(x.sigmoid()),
  'moments of each channel': x => {
    const { centered, variance } = statistics(x);
    return centered.div(2).mul(variance);
  },
  'sums of each channel': x => x.add(x.sum([0, 2, 3], { keepdims: true })),
  'sums that lose their axes': x => x.add(x.sum([0, 2, 3]).reshape([1, 16, 1, 1])),
  'products of rows': x => x.mul(dots(x, x.relu()).reshape([0, 0, 1, 1]).sum([0], { keepdims: true })),
};

const left: Record<string, (x: Expr, inputs: Inputs) => Expr> = {
  'factors along another axis': (x, { rows }) => x.mul(rows),
  'a sum with a single image': (x, { image }) => x.add(image),
  'sums over the channels': x => x.sub(x.sum([0, 1, 2], { keepdims: true })),
  'sums of a sample': x => x.sub(x.sum([2, 3], { keepdims: true })),
  'products of pixels': x => row(x).mT.matmul(row(x)).reshape([0, 16, 16, -1]).slice([0], [5], [3]),
  'a softmax': x => x.op('Softmax', [], { axis: 1 }),
};

// Other processors may have no such layout.
describe.skipIf(process.arch !== 'x64')('between two convolutions in blocks, on x86-64', () => {
  it.each(Object.entries(kept))('keeps %s', async (_, write) => {
    expect(await reorderings(among(write))).toEqual([1, 1]);
  });

  it.each(Object.entries(left))('leaves %s', async (_, write) => {
    expect(await reorderings(among(write))).toEqual([2, 2]);
  });

  it('gives back what a graph returns on the way', async () => {
    expect(
      await reorderings(({ x, w, v }) => {
        const y = conv(x, w).relu();
        return [y, conv(y, v)];
      }),
    ).toEqual([1, 2]);
  });

  it('does not return to blocks for a node between two that do not have them', async () => {
    expect(
      await reorderings(({ x, w, v }) => {
        const y = conv(x, w);
        return y.op('Softmax').relu().op('Softmax').add(conv(y, v).op('Softmax'));
      }),
    ).toEqual([1, 2]);
  });

  it('adopts batch normalization that trains as it is', async () => {
    const trained = (x: Expr, { scale, bias, mean, variance }: Inputs) =>
      x.g.emit(
        'BatchNormalization',
        [x, scale, bias, mean, variance],
        { training_mode: 1 },
        {
          outputs: 3,
          types: [x.type, mean.type, mean.type],
        },
      )[0]!;
    expect(await reorderings(among(trained))).toEqual([2, 2]);
  });

  it('reads what is in blocks from a branch', async () => {
    expect(
      await reorderings(({ x, w, v, scale }) => {
        const y = conv(x, w);
        const branch = (hint: string, made: (b: Builder) => Expr) => {
          const b = y.g.subgraph(hint);
          b.graph.outputs = [b.rename(made(b), hint)];
          return b.graph;
        };
        const condition = scale.sum().greater(0);
        const [chosen] = y.g.emit(
          'If',
          [condition],
          {
            then_branch: branch('yes', b => b.of(y.value).op('Softmax').sum()),
            else_branch: branch('no', b => b.of(y.value).exp().sum()),
          },
          { types: [scale.sum().type] },
        );
        return [conv(y.relu(), v), chosen!];
      }),
    ).toEqual([1, 2]);
  });

  it('passes on what is not a number', async () => {
    const { model, feeds } = written(among((x, inputs) => normalized(x, inputs).relu()));
    await layOut(model, {});
    expect(count(model, ':Relu')).toBe(0);
    feeds.x!.data[3] = Number.NaN;
    expect((await run(model, feeds))[0]!.filter(Number.isNaN).length).toBeGreaterThan(0);
  });
});
