import { describe, expect, it, vi } from 'vitest';
import { Graph, Model, Node, Value } from '../../src/graph/ir.js';
import { Tensor } from '../../src/graph/tensor.js';
import { type AttrInit, toAttrs } from '../../src/ops/core/builder.js';
import { BLOCKED } from '../../src/passes/cpu/blocks.js';
import { layOut } from '../../src/runtime/cpu.js';
import { Session } from '../../src/runtime/session.js';
import { spread } from '../ops/vjp.js';

/** y = Conv(x, w, b), with a kernel that is fed, and what it is fed. */
function convolution(x: readonly number[], w: readonly number[], attrs: AttrInit = {}) {
  const graph = new Graph('convolution');
  const tensors = { x: spread(x), w: spread(w, [-1, 1], 2), b: spread(w.slice(0, 1), [-1, 1], 3) };
  graph.inputs = Object.entries(tensors).map(
    ([name, { dims }]) => new Value(name, { kind: 'tensor', dtype: 'float32', shape: dims }),
  );
  graph.outputs = [new Value('y')];
  graph.nodes = [new Node('Conv', [...graph.inputs], [...graph.outputs], toAttrs(attrs))];
  const opsetImports = new Map([['', 18]]);
  return { model: Object.assign(new Model(graph), { irVersion: 8, opsetImports }), feeds: tensors };
}

async function run(model: Model, feeds: Record<string, Tensor>) {
  const session = await Session.create(model);
  const { y } = await session.run(feeds);
  await session.release();
  return y!;
}

const operators = (model: Model) => model.graph.nodes.map(n => `${n.domain}:${n.opType}`);

const blocks = [
  ['padded', [2, 32, 7, 6], [32, 32, 3, 3], { pads: [1, 1, 1, 1] }],
  [
    'strided and dilated',
    [1, 32, 12, 13],
    [64, 32, 3, 2],
    { strides: [2, 3], dilations: [2, 1], pads: [0, 1, 2, 3] },
  ],
  ['of few channels', [2, 3, 9, 9], [32, 3, 5, 5], { auto_pad: 'SAME_UPPER' }],
  ['depthwise', [2, 32, 9, 8], [32, 1, 3, 3], { group: 32 }],
] as const;

// Other processors may have no such layout.
describe.skipIf(process.arch !== 'x64')('a convolution in blocks of channels, on x86-64', () => {
  it.each(blocks)('%s', async (_, x, w, attrs) => {
    const { model, feeds } = convolution(x, w, attrs as AttrInit);
    const before = await run(model, feeds);
    await layOut(model, {});
    // Every such processor with AVX2 has this layout.
    expect(operators(model)).toContain(`${BLOCKED}:Conv`);
    const after = await run(model, feeds);
    expect(after.dims).toEqual(before.dims);
    const scale = Math.max(...before.numbers().map(Math.abs));
    const off = Math.max(...after.numbers().map((v, i) => Math.abs(v - before.numbers()[i]!)));
    expect(off / scale).toBeLessThan(1e-5);
  });
});

it.skipIf(process.arch !== 'x64')(
  'reads channels last out of a single block, where a kernel’s gradient wants them',
  async () => {
    const left: number[] = [];
    for (const channels of [8, 16, 32]) {
      const { model, feeds } = convolution([2, channels, 5, 6], [32, channels, 3, 3], { pads: [1, 1, 1, 1] });
      const [x] = model.graph.inputs;
      const type = { kind: 'tensor', dtype: 'float32', shape: [2, 5, 6, channels] } as const;
      const last = new Value('last', type);
      model.graph.append(new Node('Transpose', [x!], [last], toAttrs({ perm: [0, 2, 3, 1] })));
      // 'run' gives y.
      model.graph.outputs = [
        Object.assign(last, { name: 'y' }),
        Object.assign(model.graph.outputs[0]!, { name: 'conv' }),
      ];
      const before = await run(model, feeds);
      await layOut(model, {});
      const after = await run(model, feeds);
      expect(after.dims).toEqual(before.dims);
      expect(after.numbers()).toEqual(before.numbers());
      left.push(model.graph.nodes.filter(n => n.opType === 'Transpose' && n.outputs[0]?.name === 'y').length);
    }
    // Blocks are of 8 or 16 channels, and those of 32 are of more than one.
    expect([
      [0, 1, 1],
      [1, 0, 1],
    ]).toContainEqual(left);
  },
);

/** The kernel's gradient is that of N C channels, each with a kernel of its own. */
it.skipIf(process.arch !== 'x64')(
  'reorders images once for a depthwise convolution and its gradients',
  async () => {
    const [n, c, height, width] = [2, 32, 9, 8];
    const { model, feeds } = convolution([n, c, height, width], [c, 1, 3, 3], {
      group: c,
      pads: [1, 1, 1, 1],
    });
    const { graph } = model;
    const shaped = (name: string, shape: number[]) =>
      new Value(name, { kind: 'tensor', dtype: 'float32', shape });
    const reshape = (x: Value, shape: number[]) => {
      const [to, y] = [new Value(`${x.name}_shape`), shaped(`${x.name}_planes`, shape)];
      graph.initializers.set(to, Tensor.from('int64', [4], BigInt64Array.from(shape, BigInt)));
      graph.append(new Node('Reshape', [x, to], [y]));
      return y;
    };
    const [x, dy] = [graph.inputs[0]!, shaped('dy', [n, c, height, width])];
    graph.inputs.push(dy);
    const planes = [reshape(x, [1, n * c, height, width]), reshape(dy, [n * c, 1, height, width])];
    const dw = new Value('dw');
    graph.append(new Node('Conv', planes, [dw], toAttrs({ group: n * c, pads: [1, 1, 1, 1] })));
    // 'run' gives y.
    graph.outputs = [Object.assign(graph.outputs[0]!, { name: 'forward' }), Object.assign(dw, { name: 'y' })];
    const fed = { ...feeds, dy: spread([n, c, height, width], [-1, 1], 5) };
    const before = await run(model, fed);
    await layOut(model, {});
    const moved = operators(model).filter(op => /ReorderInput|Transpose/.test(op));
    expect(moved).toEqual([`${BLOCKED}:ReorderInput`, ':Transpose', `${BLOCKED}:ReorderInput`]);
    const after = await run(model, fed);
    expect(after.dims).toEqual([1, n * c, 3, 3]);
    const off = Math.max(...after.numbers().map((v, i) => Math.abs(v - before.numbers()[i]!)));
    expect(off).toBeLessThan(1e-4);
  },
);

const plain = [
  ['channels that fill no block', [1, 32, 5, 5], [12, 32, 3, 3], {}],
  // Blocks are of 8 or 16 channels, by the processor.
  ['channels read that fill no block', [1, 36, 5, 5], [32, 36, 3, 3], {}],
  ['groups', [1, 32, 5, 5], [32, 16, 3, 3], { group: 2 }],
  ['many channels', [1, 512, 4, 4], [512, 512, 3, 3], {}],
  ['a kernel of a pixel', [1, 32, 5, 5], [32, 32, 1, 1], {}],
  ['one axis', [1, 32, 9], [32, 32, 3], {}],
  ['three axes', [1, 32, 4, 4, 4], [32, 32, 2, 2, 2], {}],
] as const;

it.each(plain)('leaves %s', async (_, x, w, attrs) => {
  const { model } = convolution(x, w, attrs as AttrInit);
  await layOut(model, {});
  expect(operators(model)).toEqual([':Conv']);
});

it('leaves what runs elsewhere, and kernels that are constants, which the runtime lays out itself', async () => {
  const elsewhere = convolution([1, 32, 5, 5], [32, 32, 3, 3]).model;
  await layOut(elsewhere, { device: 'webgpu' });
  expect(operators(elsewhere)).toEqual([':Conv']);
  const { model, feeds } = convolution([1, 32, 5, 5], [32, 32, 3, 3]);
  const [kernel] = model.graph.inputs.splice(1, 1);
  model.graph.initializers.set(kernel!, feeds.w);
  await layOut(model, {});
  expect(operators(model)).toEqual([':Conv']);
});

it('writes masks of ReLU as HardSigmoid, but not in WebAssembly', async () => {
  const masked = () => {
    const graph = new Graph('masked');
    const [x, y, zero, holds, mask] = ['x', 'relu', 'zero', 'holds', 'y'].map(
      name =>
        new Value(name, {
          kind: 'tensor',
          dtype: name === 'holds' ? 'bool' : 'float32',
          shape: name === 'zero' ? [] : [8],
        }),
    );
    graph.inputs = [x!];
    graph.outputs = [mask!];
    graph.initializers.set(zero!, Tensor.filled('float32', [], 0));
    graph.nodes = [
      new Node('Relu', [x!], [y!]),
      new Node('Greater', [y!, zero!], [holds!]),
      new Node('Cast', [holds!], [mask!], toAttrs({ to: 1 })),
    ];
    return Object.assign(new Model(graph), { irVersion: 8, opsetImports: new Map([['', 18]]) });
  };
  const native = await layOut(masked(), {});
  const { arch } = process;
  Object.defineProperty(process, 'arch', { value: 'wasm' });
  try {
    vi.resetModules();
    const { layOut: inPage } = await import('../../src/runtime/cpu.js');
    expect(operators(native)).toContain(':HardSigmoid');
    expect(operators(await inPage(masked(), {}))).toEqual([':Relu', ':Greater', ':Cast']);
  } finally {
    Object.defineProperty(process, 'arch', { value: arch });
  }
});
