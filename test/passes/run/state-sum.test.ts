import { describe, expect, it } from 'vitest';
import { Graph, type Model, Node, Value } from '../../../src/graph/ir.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { readDescription } from '../../../src/passes/file/step-metadata.js';
import { inject } from '../../../src/passes/inject.js';
import type { InjectOptions } from '../../../src/passes/options.js';
import { scanSteps } from '../../../src/passes/run/scan-steps.js';
import { stateInputs } from '../../../src/passes/run/state-inputs.js';
import { withStateSum } from '../../../src/passes/run/state-sum.js';
import { Session, sessionShapes } from '../../../src/runtime/session.js';
import { Sketch } from '../../sample.js';

const SIZE = 2 ** 14;
const float = (dims: readonly number[]) => ({ kind: 'tensor', dtype: 'float32', shape: dims }) as const;
const sumsOf = ({ graph }: Model) => graph.nodes.filter(node => node.opType === 'MatMul').length;

/** The next value of `a` is itself, that of `b` what `make` computes from it. */
function pair(make: (s: Sketch, a: Value, b: Value) => Value): Model {
  const s = new Sketch();
  const [a, b] = [s.input('a', [SIZE]), s.input('b', [SIZE])];
  const next = s.add('Mul', [a, s.weight('one', Tensor.filled('float32', [], 1))], 'a_new');
  const made = s.add('Identity', [make(s, next, b)], 'b_new');
  for (const value of [next, made]) value.type = float([SIZE]);
  return Object.assign(s.model([next, made]), { irVersion: 8 });
}

const UPDATES = [
  { state: 'a', value: 'a_new' },
  { state: 'b', value: 'b_new' },
];

/** The sum where one element of a is `value`, and all of b are `other`. */
async function sumOf(model: Model, value: number, other: number): Promise<number> {
  const { model: summed, sum } = withStateSum(model, UPDATES);
  expect([...sum!.states]).toEqual(['a', 'b']);
  const session = await Session.create(summed);
  const a = Float32Array.from({ length: SIZE }, (_, i) => (i === 77 ? value : 1));
  const feeds = { a: Tensor.from('float32', [SIZE], a), b: Tensor.filled('float32', [SIZE], other) };
  const results = await session.run(feeds, [sum!.output]);
  await session.release();
  return results[sum!.output]!.numbers()[0]!;
}

const op = (opType: string, swap = false) => pair((s, a, b) => s.add(opType, swap ? [b, a] : [a, b], 'made'));

describe('the sum of states', () => {
  it.each<[string, Model]>([
    ['a sum', op('Add')],
    ['a difference', op('Sub')],
    ['what is subtracted', op('Sub', true)],
    ['a product', op('Mul')],
    ['a quotient', op('Div')],
    ['its opposite', pair((s, a) => s.add('Neg', [a], 'made'))],
    [
      'several nodes',
      pair((s, a, b) => s.add('Sub', [b, s.add('Mul', [s.add('Div', [a, b], 'c'), b], 'd')], 'made')),
    ],
  ])('leaves out the one of which %s is another one', async (_, model) => {
    expect(sumsOf(withStateSum(model, UPDATES).model)).toBe(1);
    for (const other of [1, 0, -3]) {
      if (other) expect(await sumOf(model, 2, other)).toBeLessThan(Number.POSITIVE_INFINITY);
      for (const value of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY])
        expect(await sumOf(model, value, other)).not.toSatisfy(Number.isFinite);
    }
  });

  it.each<[string, Model]>([
    ['a divisor', op('Div', true)],
    ['an operand of Min', op('Min')],
    ['compared', pair((s, a, b) => s.add('Where', [s.add('Less', [a, b], 'less'), b, b], 'made'))],
  ])('has the one that is %s too', async (_, model) => {
    expect(sumsOf(withStateSum(model, UPDATES).model)).toBe(2);
    expect(await sumOf(model, Number.POSITIVE_INFINITY, 1)).not.toSatisfy(Number.isFinite);
  });
});

it('is one of all elements where their number has no factors', async () => {
  const s = new Sketch();
  const a = s.input('a', [16_411]);
  const next = s.add('Neg', [a], 'a_new');
  next.type = float([16_411]);
  const model = Object.assign(s.model([next]), { irVersion: 8 });
  const { model: summed, sum } = withStateSum(model, [{ state: 'a', value: 'a_new' }]);
  const session = await Session.create(summed);
  const results = await session.run({ a: Tensor.filled('float32', [16_411], 1) }, [sum!.output]);
  await session.release();
  expect(results[sum!.output]!.numbers()).toEqual([-16_411]);
});

it.each([
  [SIZE, [4, 64, 64]],
  [2 * 101 * 103, [2, 101, 103]],
  [101 * 163, [1, 101, 163]],
])('is of %i elements as products of the parts that threads write: %j', (size, shape) => {
  const s = new Sketch();
  const next = s.add('Neg', [s.input('a', [size])], 'a_new');
  next.type = float([size]);
  const { model } = withStateSum(s.model([next]), UPDATES.slice(0, 1));
  const product = model.graph.nodes.find(node => node.opType === 'MatMul')!;
  expect(product.inputs.map(v => v!.shape)).toEqual([[1, shape[1]], shape]);
});

it.each(['made', 'b_new'])('knows nothing of operators of other domains: %s', name => {
  const model = op('Mul');
  model.graph.nodes.find(node => node.outputs[0]!.name === name)!.domain = 'other';
  expect(sumsOf(withStateSum(model, UPDATES).model)).toBe(2);
});

/** Scans slices of a, of which all are the next value of a, and the last one is that of b; as the only step of a Scan if `within`. */
function lastSlice(within: boolean): Model {
  const shapes = [float([2, SIZE]), float([SIZE])];
  const values = (names: string[], types = shapes) => names.map((name, i) => new Value(name, types[i]));
  const slices = new Graph('slices');
  const [before, slice] = values(['before', 'slice'], [shapes[1]!, shapes[1]!]);
  const [last, copy] = values(['last', 'copy'], [shapes[1]!, shapes[1]!]);
  slices.inputs = [before!, slice!];
  slices.nodes = [new Node('Neg', [slice!], [copy!]), new Node('Neg', [copy!], [last!])];
  slices.outputs = [last!, copy!];
  const over = (body: Graph, inputs: Value[], outputs: Value[], scanned: number) => {
    const node = new Node('Scan', inputs, outputs);
    node.setAttr('body', { type: 'graph', value: body });
    node.setAttr('num_scan_inputs', { type: 'int', value: scanned });
    return node;
  };
  const s = new Sketch();
  const [a, b] = [s.input('a', [2, SIZE]), s.input('b', [SIZE])];
  const made = values(['a_new', 'b_new']);
  if (!within) {
    s.graph.append(over(slices, [b, a], [made[1]!, made[0]!], 1));
  } else {
    const step = new Graph('step');
    const [x, y] = values(['x', 'y']);
    const results = values(['x_new', 'y_new']);
    step.inputs = [x!, y!, new Value('batch', float([]))];
    step.nodes = [over(slices, [y!, x!], [results[1]!, results[0]!], 1)];
    step.outputs = results;
    s.graph.append(over(step, [a, b, s.weight('batches', [1])], made, 1));
  }
  return Object.assign(s.model(made), { irVersion: 8 });
}

it.each<[string, boolean, boolean, number]>([
  ['alone', false, false, 2],
  ['within a step', true, false, 2],
  ['within a step, summed in it', true, true, 0],
])('has what is scanned slice by slice, %s', async (_, within, inSteps, count) => {
  const { model, sum } = withStateSum(lastSlice(within), UPDATES, { inSteps });
  expect(sumsOf(model)).toBe(count);
  const a = Tensor.filled('float32', [2, SIZE], 1);
  a.data[5] = Number.NaN;
  const session = await Session.create(model);
  const results = await session.run({ a, b: Tensor.filled('float32', [SIZE], 1) }, [sum!.output, 'b_new']);
  await session.release();
  expect(results.b_new!.numbers().every(v => v === 1)).toBe(true);
  expect(results[sum!.output]!.numbers()[0]).toBeNaN();
});

/** Weights of which one is updated in tiles. */
async function trainable(optimizer: InjectOptions['optimizer']): Promise<Model> {
  const s = new Sketch();
  const x = s.input('x', ['n', 64]);
  const y = s.add('MatMul', [x, s.weight('tiled', [64, 8256])], 'y');
  const z = s.add('MatMul', [y, s.weight('whole', [8256, 8])], 'z');
  const loss = s.add('ReduceMean', [s.add('Mul', [z, z], 'square')], 'loss', { keepdims: 0 });
  const options = { loss: { kind: 'output', output: 'loss' }, optimizer } as const;
  return (await inject(s.model([loss]), options, sessionShapes)).model;
}

/** The names of what the graph, or that of a Scan in it, multiplies by ones. */
function summed({ nodes }: Graph, isScan = false): string[] {
  const within = nodes.flatMap(node => node.subgraphs()).flatMap(body => summed(body, true));
  const reshapes = new Map(nodes.flatMap(n => (n.opType === 'Reshape' ? [[n.outputs[0], n.inputs[0]]] : [])));
  const products = nodes.filter(n => n.opType === 'MatMul' && n.inputs[0]!.name.startsWith('ones'));
  const names = products.map(n => (reshapes.get(n.inputs[1]) ?? n.inputs[1])!.name);
  return [...within, ...names.map(name => (isScan ? name.replace(/_step.*/, '') : name))];
}

it.each<[string, InjectOptions['optimizer'], string[]]>([
  ['agd', { name: 'agd' }, ['diff_sq_sum', 'w']],
  ['agd', { name: 'agd', weightDecay: 0.1, amsgrad: true }, ['diff_sq_sum', 'max_diff_sq_sum', 'w']],
  ['adam', { name: 'adam' }, ['exp_avg_sq', 'w']],
  ['sgd', { name: 'sgd', momentum: 0.9 }, ['w']],
])(
  'of weights that %s updates, in tiles and not, is that of few of its states',
  async (_, optimizer, names) => {
    const model = await trainable(optimizer);
    const updates = model.trainingInfo.flatMap(info => info.updates);
    const after = withStateSum(scanSteps(model).model, updates);
    const expected = ['tiled', 'whole'].flatMap(weight =>
      names.map(name => (name === 'w' ? `${weight}_new` : `${weight}_${name}_new`)),
    );
    expect(summed(after.model.graph).sort()).toEqual(expected.sort());
    expect(after.sum!.states.size).toBe(updates.length - 1);
    const within = withStateSum(scanSteps(model).model, updates, { inSteps: true });
    expect(summed(within.model.graph)).toHaveLength(expected.length);
    expect(within.model.graph.nodes.filter(node => node.opType === 'MatMul')).toEqual([]);
  },
);

it.each([false, true])(
  'is not finite where an element of a state is not, summed in steps: %s',
  async inSteps => {
    const model = await trainable({ name: 'agd' });
    const updates = model.trainingInfo.flatMap(info => info.updates);
    const steps = scanSteps(model);
    const { lr } = readDescription(model);
    const { model: whole, sum } = withStateSum(stateInputs(steps.model, updates), updates, { inSteps });
    const session = await Session.create(whole);
    const random = (_: unknown, i: number) => Math.sin(i);
    const feeds = {
      x: Tensor.from('float32', [1, 4, 64], Float32Array.from({ length: 256 }, random)),
      [lr]: Tensor.filled('float32', [], 1e-3),
      ...Object.fromEntries(
        whole.graph.inputs.flatMap(v =>
          updates.some(u => u.state === v.name)
            ? [[v.name, Tensor.filled(v.dtype!, v.shape as number[], v.dtype === 'float32' ? 0.01 : 0)]]
            : [],
        ),
      ),
    };
    const total = async () => (await session.run(feeds, [sum!.output]))[sum!.output]!.numbers()[0]!;
    expect(await total()).toSatisfy(Number.isFinite);
    for (const name of sum!.states) {
      const { data } = feeds[name]!;
      for (const at of [0, data.length - 1]) {
        const before = data[at]!;
        data[at] = Number.POSITIVE_INFINITY;
        expect(await total(), name).not.toSatisfy(Number.isFinite);
        data[at] = before;
      }
    }
    expect(await total()).toSatisfy(Number.isFinite);
    await session.release();
  },
);
