import { describe, expect, it } from 'vitest';
import { Graph, Model, Node, Value } from '../../../src/graph/ir.js';
import { type AttrInit, toAttrs } from '../../../src/ops/core/builder.js';
import { BLOCKED } from '../../../src/passes/cpu/blocks.js';
import { channelBlock, layOut } from '../../../src/runtime/cpu.js';
import { Session } from '../../../src/runtime/session.js';
import { spread } from '../../ops/vjp.js';

const block = (await channelBlock()) ?? 8;

type Case = {
  dy: readonly [channels: number, height: number, width: number];
  w: readonly number[];
  dx: readonly [height: number, width: number];
  attrs?: AttrInit;
  batch?: number | string;
};

function transposed({ dy, w, dx, attrs = {}, batch = 3 }: Case, bias = false): Model {
  const graph = new Graph('transposed');
  const value = (name: string, shape: readonly (number | string)[]) =>
    new Value(name, { kind: 'tensor', dtype: 'float32', shape: [...shape] });
  graph.inputs = [value('dy', [batch, ...dy]), value('w', w), ...(bias ? [value('b', [w[1]!])] : [])];
  graph.outputs = [value('dx', [batch, w[1]!, ...dx])];
  graph.nodes = [new Node('ConvTranspose', graph.inputs, graph.outputs, toAttrs(attrs))];
  return Object.assign(new Model(graph), { irVersion: 8, opsetImports: new Map([['', 18]]) });
}

async function run(model: Model, { dy, w }: Case, bias = false): Promise<number[]> {
  const session = await Session.create(model, { optimize: false });
  const feeds = {
    dy: spread([3, ...dy], [-1, 1], 1),
    w: spread(w, [-1, 1], 2),
    ...(bias ? { b: spread([w[1]!], [-1, 1], 3) } : {}),
  };
  const { dx } = await session.run(feeds);
  await session.release();
  return [...dx!.dims, ...dx!.numbers()];
}

const kinds = ({ graph }: Model) =>
  new Set(graph.nodes.map(n => `${n.domain === BLOCKED ? 'blocked ' : ''}${n.opType}`));
const distance = (a: number[], b: number[]) => {
  expect(a.length).toBe(b.length);
  return Math.max(...a.map((v, i) => Math.abs(v - b[i]!))) / Math.max(...b.map(Math.abs));
};

const B = block;
const cases: Record<string, Case> = {
  'without padding, a convolution with the flipped kernel': { dy: [B, 6, 7], w: [B, B, 3, 3], dx: [8, 9] },
  'with less padding than its reach, of unequal sides and dilations': {
    dy: [2 * B, 6, 7],
    w: [2 * B, B, 2, 3],
    dx: [6, 9],
    attrs: { dilations: [2, 2], pads: [1, 0, 1, 2] },
  },
  'few channels, by rows of the kernel': { dy: [B, 10, 9], w: [B, 6, 5, 5], dx: [14, 13] },
  'rows that fill no block, padding and dilations': {
    dy: [2 * B, 7, 5],
    w: [2 * B, 5, 3, 4],
    dx: [10, 11],
    attrs: { dilations: [2, 2], pads: [1, 0, 0, 0] },
  },
  'a stride of two and a kernel of three': {
    dy: [2 * B, 4, 5],
    w: [2 * B, B, 3, 3],
    dx: [8, 10],
    attrs: { strides: [2, 2], pads: [1, 1, 1, 1], output_padding: [1, 1] },
  },
  'a stride of two and a kernel of one: pixels that nothing reaches': {
    dy: [B, 3, 4],
    w: [B, 2 * B, 1, 1],
    dx: [6, 8],
    attrs: { strides: [2, 2], output_padding: [1, 1] },
  },
  'a stride that a kernel covers exactly': {
    dy: [B, 3, 4],
    w: [B, B, 2, 2],
    dx: [6, 8],
    attrs: { strides: [2, 2] },
  },
  'strides of three and one, more padding at the end': {
    dy: [B, 4, 6],
    w: [B, B, 5, 3],
    dx: [12, 6],
    attrs: { strides: [3, 1], pads: [0, 0, 2, 2] },
  },
  'strides of one and three': {
    dy: [B, 6, 4],
    w: [B, B, 3, 5],
    dx: [6, 12],
    attrs: { strides: [1, 3], pads: [0, 0, 2, 2] },
  },
  'a kernel of seven': {
    dy: [B, 6, 6],
    w: [B, B, 7, 7],
    dx: [12, 12],
    attrs: { strides: [2, 2], pads: [3, 3, 3, 3], output_padding: [1, 1] },
  },
};

// Other processors may have no such layout.
describe.skipIf(process.arch !== 'x64')('transposed convolutions in blocks, on x86-64', () => {
  it.each(
    Object.entries(cases).flatMap(
      ([name, c]) =>
        [
          [name, c],
          [`${name}; a batch of unknown size`, { ...c, batch: 'n' }],
        ] as [string, Case][],
    ),
  )('%s', async (_, c) => {
    const before = await run(transposed(c), c);
    const model = transposed(c);
    await layOut(model, {});
    expect(kinds(model)).not.toContain('ConvTranspose');
    expect(kinds(model)).toContain('blocked Conv');
    expect(distance(await run(model, c), before)).toBeLessThan(1e-6);
  });

  it.each<[string, Case]>([
    ['groups', { dy: [2 * B, 6, 7], w: [2 * B, B, 3, 3], dx: [8, 9], attrs: { group: 2 } }],
    ['channels that fill no block', { dy: [B + 4, 6, 7], w: [B + 4, B, 3, 3], dx: [8, 9] }],
    ['far fewer pixels than in the result', { dy: [B, 1, 1], w: [B, B, 5, 5], dx: [5, 5] }],
    [
      'a stride that leaves elements over',
      { dy: [B, 4, 4], w: [B, B, 3, 3], dx: [9, 9], attrs: { strides: [2, 2] } },
    ],
    [
      'more products than sums of columns take',
      {
        dy: [16 * B, 4, 4],
        w: [16 * B, B, 3, 3],
        dx: [8, 8],
        attrs: { strides: [2, 2], pads: [1, 1, 1, 1], output_padding: [1, 1] },
      },
    ],
    [
      'strides with dilations',
      {
        dy: [B, 4, 4],
        w: [B, B, 2, 2],
        dx: [8, 8],
        attrs: { strides: [2, 2], dilations: [3, 3], pads: [1, 1, 1, 1], output_padding: [0, 0] },
      },
    ],
    [
      'padding beyond the reach of the kernel',
      { dy: [B, 6, 7], w: [B, B, 2, 2], dx: [5, 6], attrs: { pads: [2, 2, 0, 0] } },
    ],
    [
      'the same with a stride',
      { dy: [B, 6, 7], w: [B, B, 2, 2], dx: [8, 10], attrs: { strides: [2, 2], pads: [4, 4, 0, 0] } },
    ],
    [
      'a stride of which most pixels are cut off at the end',
      { dy: [B, 6, 7], w: [B, B, 2, 2], dx: [6, 8], attrs: { strides: [2, 2], pads: [0, 0, 6, 6] } },
    ],
    ['four pixels for thirty-six', { dy: [B, 2, 2], w: [B, B, 5, 5], dx: [6, 6] }],
    [
      'images of more places than a model should list',
      { dy: [B, 257, 256], w: [B, B, 2, 2], dx: [514, 512], attrs: { strides: [2, 2] } },
    ],
    ['few channels of images with many rows', { dy: [B, 52, 4], w: [B, 6, 5, 5], dx: [56, 8] }],
    [
      'such padding at the end',
      { dy: [B, 6, 7], w: [B, B, 2, 2], dx: [5, 6], attrs: { pads: [0, 0, 2, 2] } },
    ],
    [
      'extents chosen by the runtime',
      { dy: [B, 6, 7], w: [B, B, 3, 3], dx: [6, 7], attrs: { auto_pad: 'SAME_UPPER' } },
    ],
  ])('leaves %s', async (_, c) => {
    const before = await run(transposed(c), c);
    const model = transposed(c);
    await layOut(model, {});
    expect(kinds(model)).toContain('ConvTranspose');
    expect(await run(model, c)).toEqual(before);
  });

  it('leaves a bias', async () => {
    const model = transposed({ dy: [B, 6, 7], w: [B, B, 3, 3], dx: [8, 9] }, true);
    await layOut(model, {});
    expect(kinds(model)).toContain('ConvTranspose');
  });

  it('leaves few channels to a single thread', async () => {
    const c = cases['few channels, by rows of the kernel']!;
    const model = transposed(c);
    await layOut(model, { threads: 1 });
    expect(kinds(model)).toContain('ConvTranspose');
  });
});
