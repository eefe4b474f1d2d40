import { describe, expect, it, vi } from 'vitest';
import type { DType } from '../../../src/graph/dtype.js';
import { allGraphs, Graph, type Model, Node, type Shape, Value } from '../../../src/graph/ir.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { lendAxes } from '../../../src/passes/common/lend-axes.js';
import { inject } from '../../../src/passes/inject.js';
import { type Feeds, Session, sessionShapes } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { spread } from '../../ops/vjp.js';
import { Sketch } from '../../sample.js';

const X = [3, 5, 1, 1];

/** A number as a constant, as what a node computes, or as what is fed. */
type Kind = 'constant' | 'computed' | 'fed' | 'default';
const KINDS: readonly Kind[] = ['constant', 'computed', 'fed', 'default'];

function number(
  s: Sketch,
  kind: Kind,
  shape: readonly number[],
  name = 'k',
  dtype: DType = 'float32',
): Value {
  if (kind === 'fed') return s.input(name, shape, dtype);
  const held = s.weight(name, Tensor.filled(dtype, shape, dtype === 'bool' ? 1 : 0.75));
  if (kind === 'default') s.graph.inputs.push(held);
  if (kind !== 'computed') return held;
  const twice = s.add('Add', [held, held], `${name}_twice`);
  twice.type = held.type;
  return twice;
}

const extents = ({ graph }: Model) =>
  [...allGraphs(graph)].flatMap(({ nodes }) =>
    nodes.filter(n => n.opType !== 'Reshape').map(n => n.inputs.map(v => v?.shape)),
  );
const count = ({ graph }: Model, op: string) =>
  [...allGraphs(graph)].flatMap(({ nodes }) => nodes.filter(n => n.opType === op)).length;

async function run(model: Model): Promise<{ dims: readonly number[]; bytes: Uint8Array }[]> {
  const feeds: Feeds = Object.fromEntries(
    model.graph.inputs
      .filter(v => !model.graph.initializers.has(v))
      .map(v => [v.name, spread(v.shape as number[], [0.1, 2], 3)]),
  );
  const session = await Session.create(model);
  const results = await session.run(feeds);
  await session.release();
  return model.graph.outputs.map(({ name }) => ({
    dims: results[name]!.dims,
    bytes: results[name]!.bytes.slice(),
  }));
}

/** The same bits and extents as before. */
async function expectSame(model: Model): Promise<void> {
  model.irVersion = 8;
  const before = await run(model);
  expect(lendAxes(model)).toBe(true);
  expect(await run(model)).toEqual(before);
}

describe('a single number beside a tensor whose last axes are 1', () => {
  const operators = [
    'Add',
    'Sub',
    'Mul',
    'Div',
    'Pow',
    'Max',
    'Min',
    'Sum',
    'Mean',
    'Equal',
    'Greater',
    'GreaterOrEqual',
    'Less',
    'LessOrEqual',
  ];
  it.each(operators.flatMap(op => KINDS.map(kind => [op, kind] as const)))(
    'has as many axes, in %s, %s',
    async (op, kind) => {
      for (const shape of [[], [1], [1, 1]])
        for (const isFirst of [false, true]) {
          const s = new Sketch();
          const [x, k] = [s.input('x', X), number(s, kind, shape)];
          const model = s.model([s.add(op, isFirst ? [k, x] : [x, k], 'y')]);
          await expectSame(model);
          expect(extents(model).at(-1)).toEqual(isFirst ? [[1, 1, 1, 1], X] : [X, [1, 1, 1, 1]]);
          // The default of an input is no constant.
          expect(count(model, 'Reshape')).toBe(kind === 'constant' ? 0 : 1);
        }
    },
  );

  it('has as many axes in Where, as condition and as choice', async () => {
    const s = new Sketch();
    const x = s.input('x', X);
    const holds = s.add('Greater', [x, number(s, 'constant', [1, 1, 1, 1], 'one')], 'holds');
    holds.type = { kind: 'tensor', dtype: 'bool', shape: X };
    const y = s.add('Where', [holds, number(s, 'computed', []), x], 'y');
    const z = s.add(
      'Where',
      [number(s, 'constant', [], 'c', 'bool'), x, number(s, 'constant', [1], 'l')],
      'z',
    );
    const model = s.model([y, z]);
    await expectSame(model);
    expect(extents(model).slice(-2)).toEqual([
      [X, [1, 1, 1, 1], X],
      [[1, 1, 1, 1], X, [1, 1, 1, 1]],
    ]);
  });

  it('is given them once for all readers, and stays as it is for others and as an output', async () => {
    const s = new Sketch();
    const [x, k] = [s.input('x', X), number(s, 'computed', [])];
    const [a, b] = ['Mul', 'Add'].map(op => s.add(op, [x, k], op));
    const other = s.add('Mul', [s.input('row', [7]), k], 'other');
    const model = s.model([a!, b!, other, k]);
    await expectSame(model);
    expect(count(model, 'Reshape')).toBe(1);
    expect(extents(model).at(-1)).toEqual([[7], []]);
    expect(model.graph.outputs.at(-1)).toBe(k);
  });

  it('of a body is given them outside, if it is from there', async () => {
    const s = new Sketch();
    const [x, k] = [s.input('x', [2, 3, 1]), number(s, 'computed', [])];
    const body = new Graph('body');
    const type = { kind: 'tensor', dtype: 'float32', shape: [3, 1] } as const;
    const [slice, inner, next] = [new Value('slice', type), new Value('inner'), new Value('next')];
    inner.type = { kind: 'tensor', dtype: 'float32', shape: [] };
    body.inputs = [slice];
    const [scaled, mean] = [new Value('scaled', type), new Node('ReduceMean', [slice], [inner])];
    mean.setAttr('keepdims', { type: 'int', value: 0 });
    body.nodes = [mean, new Node('Mul', [slice, k], [scaled]), new Node('Sub', [scaled, inner], [next])];
    body.outputs = [next];
    const model = s.model([s.add('Scan', [x], 'y', { body, num_scan_inputs: 1 })]);
    await expectSame(model);
    expect(model.graph.nodes.map(n => n.opType)).toEqual(['Add', 'Reshape', 'Scan']);
    expect(body.nodes.map(n => n.opType)).toEqual(['ReduceMean', 'Reshape', 'Mul', 'Sub']);
  });
});

it.each<[string, Shape | undefined, Shape | undefined, string?]>([
  ['beside other last axes', [3, 1, 5], []],
  ['beside as many axes', X, [1, 1, 1, 1]],
  ['beside fewer axes, which would add some to the result', [5, 1], [1, 1, 1]],
  ['beside a single number', [1, 1], []],
  ['beside an unknown number of axes', undefined, []],
  ['beside a last axis of unknown extent', [3, 5, null], []],
  ['of unknown extents', X, undefined],
  ['that may be more numbers', X, [null]],
  ['of several numbers', X, [5, 1, 1]],
  ['that another operator reads', X, [], 'Expand'],
])('leaves a number %s', (_, one, other, op = 'Mul') => {
  const s = new Sketch();
  const [x, k] = [s.input('x', []), s.input('k', [])];
  x.type = { kind: 'tensor', dtype: 'float32', shape: one };
  k.type = { kind: 'tensor', dtype: 'float32', shape: other };
  const model = s.model([s.add(op, [x, k], 'y')]);
  expect(lendAxes(model)).toBe(false);
  expect(model.graph.nodes).toHaveLength(1);
  expect(model.graph.nodes[0]!.inputs).toEqual([x, k]);
});

it('leaves operators of other domains', () => {
  const s = new Sketch();
  const y = s.add('Mul', [s.input('x', X), s.input('k', [])], 'y');
  y.producer!.domain = 'other';
  expect(lendAxes(s.model([y]))).toBe(false);
});

it('is part of what is injected, the nodes of the model left as they are', async () => {
  const s = new Sketch();
  const x = s.input('x', [4, 64, 1, 1]);
  const scaled = s.add('Mul', [x, number(s, 'constant', [])], 'scaled');
  const y = s.add('Conv', [scaled, s.weight('w', [80, 64, 1, 1])], 'y');
  const { model } = await inject(s.model([y]), { loss: { kind: 'mse' }, clipGradNorm: 1 }, sessionShapes);
  const ranks = (shape: string) =>
    model.graph.nodes
      .filter(n => n.opType === 'Mul' && `${n.outputs[0]!.shape}` === shape)
      .map(n => n.inputs.map(v => v!.shape?.length));
  // Gradients clipped, the difference, its square, the sum of squares, the step.
  expect(ranks('80,64,1,1')).toEqual(Array(5).fill([4, 4]));
  expect(ranks('4,64,1,1')[0]).toEqual([4, 0]);
});

/** A 1x1 convolution, whose update has kernels that end in axes of 1. */
it.each([true, false])('is part of what a trainer runs, in place: %s', async inPlace => {
  const s = new Sketch();
  const y = s.add('Conv', [s.input('x', [4, 64, 2, 2]), s.weight('w', [80, 64, 1, 1])], 'y');
  const { model } = await inject(s.model([y]), { loss: { kind: 'mse' } }, sessionShapes);
  const created = vi.spyOn(Session, 'create');
  const trainer = await Trainer.create(model, { inPlace });
  const batch = { x: spread([4, 64, 2, 2]), target: spread([4, 80, 2, 2]) };
  for (let i = 0; i < 3; i++) await trainer.step(batch);
  const run = created.mock.calls.at(-1)![0];
  created.mockRestore();
  const nodes = [...allGraphs((run as Model).graph)].flatMap(graph => graph.nodes);
  const beside = nodes.filter(n => n.opType === 'Mul' && `${n.outputs[0]!.shape}` === '80,64,1,1');
  expect(beside.length).toBeGreaterThan(2);
  for (const node of beside) expect(node.inputs.map(v => v!.shape?.length)).toEqual([4, 4]);
  expect(trainer.replacesState).toBe(inPlace);
  // What makes a kernel's update wait is beside the kernel, not where all updates would wait for it.
  const waits = nodes.filter(n => n.opType === 'Mul' && `${n.inputs.map(v => v?.shape?.length)}` === '4,0');
  expect(waits.length > 0).toBe(inPlace);
  await trainer.release();
});
