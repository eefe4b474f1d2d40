import { describe, expect, it } from 'vitest';
import { allGraphs, Graph, Model, Node, Value } from '../../../src/graph/ir.js';
import { Names } from '../../../src/graph/names.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { Conv } from '../../../src/ops/convolution.js';
import { type AttrInit, Builder, toAttrs } from '../../../src/ops/core/builder.js';
import { Attributes, NodeView } from '../../../src/ops/core/rule.js';
import { BLOCKED } from '../../../src/passes/cpu/blocks.js';
import { channelBlock, layOut } from '../../../src/runtime/cpu.js';
import { Session } from '../../../src/runtime/session.js';
import { spread } from '../../ops/vjp.js';

type Case = {
  x: readonly (number | string)[];
  w: readonly number[];
  y: readonly [number, number];
  attrs?: AttrInit;
  dtype?: 'float32' | 'float64';
};

/** A convolution, and the gradient of its kernel as the rule of the operator writes it, from inputs x, w and dy. */
function gradient({ x, w, y, attrs = {}, dtype = 'float32' }: Case): Model {
  const graph = new Graph('gradient');
  const shapes = { x, w, dy: [x[0]!, w[0]!, ...y] };
  graph.inputs = Object.entries(shapes).map(
    ([name, shape]) => new Value(name, { kind: 'tensor', dtype, shape: [...shape] }),
  );
  const [, , dy] = graph.inputs;
  const output = new Value('y', { kind: 'tensor', dtype, shape: shapes.dy });
  const node = new Node('Conv', graph.inputs.slice(0, 2), [output], toAttrs(attrs));
  graph.nodes = [node];
  const model = Object.assign(new Model(graph), { irVersion: 8, opsetImports: new Map([['', 18]]) });
  const g = new Builder(graph, { names: Names.of(model), opsets: model.opsetImports });
  const dw = Conv([g.of(dy!)], new NodeView(node, g, 18) as never)[1] as () => { value: Value };
  graph.outputs = [dw().value, output];
  return model;
}

const isInBlocks = (model: Model) =>
  [...allGraphs(model.graph)].some(graph =>
    graph.nodes.some(
      ({ opType, domain, outputs }) => domain === BLOCKED && opType === 'Conv' && !outputs[0]?.shape,
    ),
  );

const groups = (model: Model) =>
  new Set(
    [...allGraphs(model.graph)].flatMap(graph => graph.nodes.map(n => new Attributes(n).int('group', 1))),
  );

const fed = ({ x, w, y, dtype = 'float32' }: Case, samples = Number(x[0])) => {
  const tensor = (dims: readonly number[], seed: number) => {
    const { data } = spread(dims, [-1, 1], seed);
    return dtype === 'float32'
      ? spread(dims, [-1, 1], seed)
      : Tensor.from(dtype, dims, Float64Array.from(data as Float32Array));
  };
  return {
    x: tensor([samples, ...x.slice(1).map(Number)], 1),
    w: tensor(w, 2),
    dy: tensor([samples, w[0]!, ...y], 3),
  };
};

async function run(model: Model, feeds: Record<string, Tensor>): Promise<number[]> {
  const session = await Session.create(model);
  const dw = (await session.run(feeds))[model.graph.outputs[0]!.name]!;
  await session.release();
  expect(dw.dims).toEqual(feeds.w!.dims);
  return dw.numbers();
}

/** The largest difference, beside the largest number. */
const distance = (a: number[], b: number[]) => largest(a.map((v, i) => v - b[i]!)) / largest(b);
const largest = (values: number[]) => values.reduce((most, v) => Math.max(most, Math.abs(v)), 0);

/** The gradient as the rule writes it, without the rounding of float32, in which alone the runtime convolves. */
function exactly(c: Case, samples?: number): Promise<number[]> {
  const exact: Case = { ...c, dtype: 'float64' };
  const model = gradient(exact);
  const { graph } = model;
  graph.outputs = graph.outputs.slice(0, 1);
  graph.nodes = graph.nodes.filter(node => node.opType !== 'Conv');
  return run(model, fed(exact, samples));
}

const cases: Record<string, Case> = {
  'shifts, padded': { x: [8, 16, 12, 14], w: [16, 16, 3, 3], y: [12, 14], attrs: { pads: [1, 1, 1, 1] } },
  'columns of rows, uneven padding': {
    x: [16, 24, 5, 6],
    w: [32, 24, 3, 3],
    y: [6, 7],
    attrs: { pads: [2, 1, 1, 2] },
  },
  'one product of all samples': {
    x: [8, 64, 4, 4],
    w: [64, 64, 3, 3],
    y: [4, 4],
    attrs: { pads: [1, 1, 1, 1] },
  },
  'a stride of two, by which all is read': {
    x: [8, 16, 16, 16],
    w: [32, 16, 3, 3],
    y: [8, 8],
    attrs: { strides: [2, 2], pads: [1, 1, 1, 1] },
  },
  'strides that leave elements over': {
    x: [8, 16, 18, 17],
    w: [32, 16, 3, 4],
    y: [5, 6],
    attrs: { strides: [3, 2] },
  },
  dilations: {
    x: [8, 16, 13, 12],
    w: [16, 16, 3, 3],
    y: [9, 10],
    attrs: { dilations: [2, 3], pads: [0, 2, 0, 2] },
  },
  'few channels': { x: [8, 3, 14, 14], w: [32, 3, 3, 5], y: [14, 14], attrs: { auto_pad: 'SAME_UPPER' } },
  'kernels of 7 x 7 and a stride': {
    x: [8, 3, 24, 24],
    w: [32, 3, 7, 7],
    y: [12, 12],
    attrs: { strides: [2, 2], pads: [3, 3, 3, 3] },
  },
  'channels that fill no block': { x: [8, 12, 10, 9], w: [16, 12, 3, 3], y: [8, 7] },
};

/** The cases are for blocks of 8 channels: elsewhere, samples and channels grow with the block. */
const scale = ((await channelBlock()) ?? 8) / 8;
const grown = <T extends number | string>(n: T): T =>
  (typeof n === 'number' && n % 4 === 0 ? n * scale : n) as T;
const scaled = ({ x: [n, c, ...image], w: [m, channels, ...kernel], ...rest }: Case): Case => ({
  ...rest,
  x: [grown(n!), grown(c!), ...image],
  w: [grown(m!), grown(channels!), ...kernel],
});

// Other processors may have no such layout.
describe.skipIf(process.arch !== 'x64')('gradients of kernels in blocks, on x86-64', () => {
  it.each(Object.entries(cases))('%s', async (_, of) => {
    const c = scaled(of);
    const model = gradient(c);
    await layOut(model, {});
    expect(isInBlocks(model)).toBe(true);
    expect(distance(await run(model, fed(c)), await exactly(c))).toBeLessThan(2e-6);
  });

  it.each([1, 3, 4, 8, 12, 14, 16])('a batch of unknown size: %i', async samples => {
    const c = scaled({ ...cases['shifts, padded']!, x: ['n', 16, 12, 14] });
    const model = gradient(c);
    await layOut(model, {});
    expect(isInBlocks(model)).toBe(true);
    expect(distance(await run(model, fed(c, samples)), await exactly(c, samples))).toBeLessThan(2e-6);
  });

  it.each<[string, Case]>([
    ['float64', { ...cases['shifts, padded']!, dtype: 'float64' }],
    ['few samples', { ...cases['shifts, padded']!, x: [4, 16, 12, 14] }],
    ['samples that fill no block', { ...cases['shifts, padded']!, x: [12, 16, 12, 14] }],
    ['outputs that fill no block', { ...cases['shifts, padded']!, w: [20, 16, 3, 3] }],
    ['kernels of two columns', { x: [8, 16, 12, 14], w: [16, 16, 3, 2], y: [10, 13] }],
    ['small images', { x: [8, 8, 3, 3], w: [16, 8, 3, 3], y: [3, 3], attrs: { pads: [1, 1, 1, 1] } }],
    ['groups', { x: [8, 64, 12, 14], w: [64, 32, 3, 3], y: [10, 12], attrs: { group: 2 } }],
  ])('leaves %s', async (_, c) => {
    const model = gradient(scaled(c));
    await layOut(model, {});
    expect(isInBlocks(model)).toBe(false);
  });

  // Of three rows of results, two threads would have two and one: with two groups of samples, they share six.
  it.each([
    [8, 8],
    [16, 8],
    [24, 8],
    [32, 24],
    [12, 8],
  ])('a single block of outputs, %i samples of %i channels', async (samples, channels) => {
    const single = { ...cases['shifts, padded']!, w: [8, channels, 3, 3] };
    for (const n of [samples * scale, 'n']) {
      const c = { ...scaled({ ...single, x: [8, channels, 12, 14] }), x: [n, channels * scale, 12, 14] };
      const model = gradient(c);
      await layOut(model, {});
      expect(isInBlocks(model)).toBe(scale > 1 && (n === 'n' || samples % 8 === 0));
      expect(groups(model).has(2)).toBe(scale > 1 && (n === 'n' || samples % 16 === 0));
      const feeds = fed(c, samples * scale);
      expect(distance(await run(model, feeds), await exactly(c, samples * scale))).toBeLessThan(2e-6);
    }
  });

  it('leaves products that differ in a single index', async () => {
    const c = scaled(cases['shifts, padded']!);
    const model = gradient(c);
    const gather = model.graph.nodes.find(node => node.opType === 'Gather')!;
    const indices = model.graph.initializers.get(gather.inputs[1]!)!.numbers();
    const other = new Value('other', { kind: 'tensor', dtype: 'int64', shape: [indices.length] });
    model.graph.initializers.set(other, Tensor.ints([...indices.slice(1), 0]));
    gather.setInput(1, other);
    const before = await run(model, fed(c));
    await layOut(model, {});
    expect(isInBlocks(model)).toBe(false);
    expect(distance(await run(model, fed(c)), before)).toBeLessThan(2e-6);
  });
});
