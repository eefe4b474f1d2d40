import { describe, expect, it } from 'vitest';
import { checkGraph } from '../../../src/graph/check-graph.js';
import { cloneModel } from '../../../src/graph/clone.js';
import { type DType, dtypeCode } from '../../../src/graph/dtype.js';
import { type Model, Node, Value } from '../../../src/graph/ir.js';
import { decodeModel, encodeModel } from '../../../src/graph/proto/codec.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { onceARun } from '../../../src/passes/cpu/once-a-run.js';
import { inject } from '../../../src/passes/inject.js';
import type { InjectOptions } from '../../../src/passes/options.js';
import { scanSteps } from '../../../src/passes/run/scan-steps.js';
import { stateInputs } from '../../../src/passes/run/state-inputs.js';
import { type Feeds, Session, sessionShapes } from '../../../src/runtime/session.js';
import { ints, spread } from '../../ops/vjp.js';
import { mlp, Sketch } from '../../sample.js';

const STEPS = 5;
const LOSS: InjectOptions = { loss: { kind: 'cross-entropy' } };

async function forms(model: Model, options: InjectOptions = LOSS, change?: (plain: Model) => void) {
  const { model: injected } = await inject(model, options, sessionShapes);
  const { model: plain, hoisted } = scanSteps(injected);
  change?.(plain);
  const shorter = cloneModel(plain);
  onceARun(shorter);
  checkGraph(shorter.graph);
  return { injected, plain, shorter, hoisted };
}

/** The outputs of two runs, the second one from the state of the first. */
async function runs(
  form: Model,
  { injected, hoisted }: Pick<Awaited<ReturnType<typeof forms>>, 'injected' | 'hoisted'>,
  batch: Feeds,
) {
  const updates = injected.trainingInfo.flatMap(info => info.updates);
  const session = await Session.create(stateInputs(form, updates));
  const initial = new Map([...injected.graph.initializers].map(([v, t]) => [v.name, t]));
  let state = Object.fromEntries(
    updates.map(({ state }) => {
      const { dtype, dims, bytes } = initial.get(state)!;
      return [state, new Tensor(dtype, hoisted.get(state) ?? dims, bytes)];
    }),
  );
  let results: Feeds = {};
  for (let i = 0; i < 2; i++) {
    results = await session.run({ ...batch, ...state, lr: Tensor.filled('float32', [], 0.05) });
    state = Object.fromEntries(updates.map(u => [u.state, results[u.value]!]));
  }
  await session.release();
  return new Map(Object.entries(results).map(([name, t]) => [name, { dims: t.dims, numbers: t.numbers() }]));
}

const classes = (outputs = 3, rows = 6, inputs: readonly number[] = [4]): Feeds => ({
  x: spread([STEPS, rows, ...inputs]),
  target: ints(
    Array.from({ length: STEPS * rows }, (_, i) => i % outputs),
    [STEPS, rows],
  ),
});

const scanOf = ({ graph }: Model) => graph.nodes.find(node => node.opType === 'Scan')!;
const body = (model: Model) => scanOf(model).subgraphs()[0]!.nodes;
const ops = (nodes: readonly Node[]) => nodes.map(node => node.opType);
const inStep = (model: Model, opType: string) => ops(body(model)).filter(op => op === opType).length;

async function expectSame(made: Awaited<ReturnType<typeof forms>>, batch = classes()) {
  expect(await runs(made.shorter, made, batch)).toEqual(await runs(made.plain, made, batch));
}

describe('what steps have in common', () => {
  it('is computed once: extents of the batch, factors that follow from them, and vectors of ones', async () => {
    const made = await forms(mlp());
    expect(inStep(made.plain, 'Shape')).toBeGreaterThan(0);
    for (const op of ['Shape', 'ReduceProd', 'Expand']) expect(inStep(made.shorter, op), op).toBe(0);
    await expectSame(made);
  });

  it('has the extents that operators give it, not those of a name in the file', async () => {
    const s = new Sketch();
    const h = s.add('Mul', [s.input('x', ['batch', 4, 'length']), s.weight('w', [4, 1])], 'h');
    const bounds = [0, 2 ** 31 - 1, 2, 2].map((n, i) => s.weight(`bound${i}`, Tensor.ints([n])));
    const y = s.add('Slice', [h, ...bounds], 'y');
    const made = await forms(s.model([y]), { loss: { kind: 'mse' } }, plain => {
      for (const value of body(plain).flatMap(node => node.outputs))
        if (value?.dtype === 'float32' && value.shape?.length === 3)
          value.type = { kind: 'tensor', dtype: 'float32', shape: ['batch', 4, 'length'] };
    });
    await expectSame(made, { x: spread([STEPS, 6, 4, 8]), target: spread([STEPS, 6, 4, 4]) });
  });

  it('is not what is large or of unknown size', async () => {
    const s = new Sketch();
    const x = s.input('x', ['batch', 4]);
    const one = s.weight('one', Tensor.filled('float32', [1], 1));
    const large = s.add('Expand', [one, s.weight('extents', Tensor.ints([2 ** 16 + 1]))], 'large');
    const small = s.add('Expand', [one, s.weight('less', Tensor.ints([2 ** 16]))], 'small');
    const open = s.add(
      'Expand',
      [one, s.add('Shape', [s.add('NonZero', [small], 'places')], 'open_extents')],
      'open',
    );
    const sums = [large, small, open].map((v, i) => s.add('ReduceMean', [v], `mean${i}`, { keepdims: 0 }));
    const h = s.add('MatMul', [x, s.weight('w', [4, 3])], 'h');
    const y = sums.reduce((sum, v, i) => s.add('Add', [sum, v], `y${i}`), h);
    const made = await forms(s.model([y]));
    const written = body(made.shorter).flatMap(node => node.outputs.map(v => v!.name));
    const all = body(made.plain).flatMap(node => node.outputs.map(v => v!.name));
    expect(all).toEqual(expect.arrayContaining(['large', 'small', 'open']));
    expect(written).toEqual(expect.arrayContaining(['large', 'open']));
    expect(written).not.toContain('small');
  });
});

describe('scalars of the number of the step', () => {
  it('are computed for all steps of a run, with the same bits', async () => {
    const made = await forms(mlp(), { ...LOSS, schedule: { kind: 'linear', total: 20, warmup: 3 } });
    expect(inStep(made.plain, 'Pow')).toBe(2);
    for (const op of ['Pow', 'Cast']) expect(inStep(made.shorter, op), op).toBe(0);
    const names = scanOf(made.shorter).inputs.map(v => v!.name);
    expect(names).not.toContain('step');
    await expectSame(made);
  });

  it('stay where the runtime could compute them otherwise, and take the number from the run', async () => {
    const made = await forms(mlp(), { ...LOSS, schedule: { kind: 'cosine', total: 20 } });
    expect([inStep(made.shorter, 'Cos'), inStep(made.shorter, 'Pow')]).toEqual([1, 0]);
    await expectSame(made);
  });

  it('have a rate that is cast and back', async () => {
    const optimizer = { name: 'sgd', momentum: 0.9 } as const;
    await expectSame(await forms(mlp(), { ...LOSS, optimizer, schedule: { kind: 'plateau' } }));
  });

  it('stay where a step may be skipped', async () => {
    const made = await forms(mlp(), { ...LOSS, onNonfinite: 'skip' });
    expect(scanOf(made.shorter).inputs.map(v => v!.name)).toContain('step');
    await expectSame(made);
  });

  it('decide what layers that start later do', async () => {
    const made = await forms(mlp(), { ...LOSS, unfreezeEvery: { updates: 2 } });
    await expectSame(made);
  });

  it('have the bits of single ones for thousands of steps', async () => {
    const many = 2_000;
    const batch = { x: Tensor.zeros('float32', [many, 1, 4]), target: Tensor.zeros('int64', [many, 1]) };
    await expectSame(await forms(mlp()), batch);
  });
});

/** Steps that count from `start` and return what `make` computes of their number, which is also a number of `dtype`. */
function counting(make: (s: Sketch, number: Value) => Value, dtype: DType, start: Tensor): Model {
  const s = new Sketch();
  const one = s.weight('one', Tensor.filled(start.dtype, [], 1));
  const count = s.input('count', start.dims, start.dtype);
  const next = Object.assign(s.add('Add', [count, one], 'next'), { type: count.type });
  const number = s.add('Cast', [count], 'number', { to: dtypeCode(dtype) });
  number.type = { kind: 'tensor', dtype, shape: start.dims };
  s.input('slice', [1]);
  s.graph.outputs = [next, s.add('Cast', [make(s, number)], 'result', { to: dtypeCode('float64') })];
  const g = new Sketch();
  const from = g.weight('from', start);
  const outputs = ['last', 'results'].map(name => new Value(name));
  const scan = new Node('Scan', [from, g.input('slices', ['steps', 1])], outputs);
  scan.setAttr('body', { type: 'graph', value: s.graph });
  scan.setAttr('num_scan_inputs', { type: 'int', value: 1 });
  g.graph.append(scan);
  return g.model(outputs);
}

describe('what is computed of the number of a step', () => {
  const add =
    (opType: string, other?: Tensor, dims: readonly number[] = []) =>
    (s: Sketch, number: Value) => {
      const dtype = number.dtype!;
      const value = s.add(opType, other ? [number, s.weight('other', other)] : [number], 'value');
      value.type = { kind: 'tensor', dtype, shape: dims };
      return value;
    };
  const of = (dtype: DType, value: number, dims: readonly number[] = []) => Tensor.filled(dtype, dims, value);

  it.each<[string, 'is' | 'is not', ReturnType<typeof add>, DType, Tensor?]>([
    ['Sqrt', 'is', add('Sqrt'), 'float64'],
    ['Sqrt in float32', 'is', add('Sqrt'), 'float32'],
    ['a product in float16', 'is not', add('Mul', of('float16', 0.3)), 'float16'],
    ['a product with a vector of one number', 'is not', add('Mul', of('float64', 0.3, [1]), [1]), 'float64'],
    ['a number after 2³³', 'is', add('Mul', of('float64', 0.3)), 'float64', of('int64', 2 ** 33)],
    ['a sum of float32', 'is not', add('Mul', of('float64', 0.3)), 'float64', of('float32', 0.1)],
    ['a vector of one number', 'is not', add('Mul', of('float64', 0.3), [1]), 'float64', of('int64', 1, [1])],
    // The runtime multiplies vectors, and calls another function for single numbers.
    ['a cube', 'is not', add('Pow', of('float64', 3)), 'float64'],
    [
      'a power of a constant',
      'is',
      (s, n) =>
        Object.assign(s.add('Pow', [s.weight('base', of('float64', 0.7)), n], 'value'), { type: n.type }),
      'float64',
    ],
  ])('%s %s computed for all steps at once', async (_, is, make, dtype, start = of('int64', 1)) => {
    const model = counting(make, dtype, start);
    const run = async () => {
      const session = await Session.create(model);
      const { last, results } = await session.run({ slices: Tensor.zeros('float32', [500, 1]) });
      await session.release();
      return [last!.numbers(), results!.numbers()];
    };
    const before = await run();
    onceARun(model);
    const inside = body(model).flatMap(node => node.outputs.map(v => v!.name));
    expect(inside.includes('value')).toBe(is === 'is not');
    expect(await run()).toEqual(before);
  });
});

describe('states that are worked on as one vector', () => {
  it('are one from step to step', async () => {
    const made = await forms(mlp());
    // Parameters and two moments of four tensors.
    expect([inStep(made.plain, 'Concat'), inStep(made.plain, 'Split')]).toEqual([4, 3]);
    expect([inStep(made.shorter, 'Concat'), inStep(made.shorter, 'Split')]).toEqual([1, 1]);
    await expectSame(made);
  });

  it('are one where matrices with rows of one length are joined before others', async () => {
    const s = new Sketch();
    let x = s.input('x', ['batch', 4]);
    for (let i = 0; i < 3; i++) {
      const y = s.add('MatMul', [x, s.weight(`w${i}`, [4, 4])], `y${i}`);
      x = s.add('Tanh', [s.add('Add', [y, s.weight(`b${i}`, [4])], `z${i}`)], `x${i + 1}`);
    }
    const made = await forms(s.model([s.add('MatMul', [x, s.weight('v', [4, 3])], 'v_x')]));
    // Two of each of seven tensors (gradients, and parameters and two moments at both ends), and one of the loss.
    expect(ops(made.injected.graph.nodes).filter(op => op === 'Reshape')).toHaveLength(15);
    // Those of gradients stay, and the forward pass reads the parameters apart.
    expect([inStep(made.plain, 'Concat'), inStep(made.plain, 'Split')]).toEqual([8, 6]);
    expect([inStep(made.shorter, 'Concat'), inStep(made.shorter, 'Split')]).toEqual([2, 2]);
    expect(inStep(made.shorter, 'Reshape')).toBe(4);
    await expectSame(made);
  });

  it('are apart where something else reads their next values', async () => {
    const made = await forms(mlp(), { ...LOSS, ema: 0.9 });
    expect([inStep(made.shorter, 'Concat'), inStep(made.shorter, 'Split')]).toEqual([2, 1]);
    await expectSame(made);
  });

  it('are apart where they do not change', async () => {
    await expectSame(await forms(mlp(), { ...LOSS, optimizer: { name: 'prodigy', d0: 1e-2 } }));
  });

  it('are apart where gradients are added up first', async () => {
    const made = await forms(mlp(), { ...LOSS, accumulate: 2 });
    await expectSame(made);
  });
});

it('changes images, normalization and steps without a schedule no more than that', async () => {
  const s = new Sketch();
  const x = s.input('x', ['batch', 2, 6, 6]);
  const conv = s.add('Conv', [x, s.weight('w', [4, 2, 3, 3])], 'conv');
  const scales = ['scale', 'bias', 'mean', 'var'].map(name => s.weight(name, [4]));
  const normal = s.add('BatchNormalization', [conv, ...scales], 'normal');
  const flat = s.add('Flatten', [s.add('Relu', [normal], 'relu')], 'flat');
  const model = s.model([s.add('MatMul', [flat, s.weight('v', [64, 3])], 'y')]);
  const made = await forms(model, { ...LOSS, optimizer: { name: 'sgd', momentum: 0.9 } });
  expect(body(made.shorter).length).toBeLessThan(body(made.plain).length);
  await expectSame(made, classes(3, 6, [2, 6, 6]));
});

it('leaves what is not as in a step', async () => {
  const vector = { kind: 'tensor', dtype: 'float32', shape: [2] } as const;
  const count = { kind: 'tensor', dtype: 'int64', shape: [] } as const;
  const make = () => {
    const s = new Sketch();
    const [a, b, slice] = ['a', 'b', 'slice'].map(name => s.input(name, [2]));
    const [threes, powers] = ['threes', 'powers'].map(name => s.input(name, [], 'int64'));
    const three = s.weight('three', Tensor.filled('int64', [], 3));
    const two = s.weight('two', Tensor.filled('float32', [], 2));
    // In another order than they are split.
    const swapped = s.add('Concat', [b!, a!], 'swapped', { axis: 0 });
    const whole = s.add('Add', [swapped, s.add('Concat', [slice!, slice!], 'twice', { axis: 0 })], 'whole');
    whole.type = { ...vector, shape: [4] };
    const parts = ['next_a', 'next_b'].map(name => new Value(name, vector));
    s.graph.append(new Node('Split', [whole, s.weight('sizes', Tensor.ints([2, 2]))], parts));
    const next = [
      s.add('Add', [three, threes!], 'next_threes'),
      s.add('Mul', [powers!, three], 'next_powers'),
    ];
    for (const v of next) v.type = count;
    const cast = s.add('Cast', [next[0]!], 'cast', { to: 1 });
    cast.type = { ...vector, shape: [] };
    const four = s.add('Mul', [two, two], 'four');
    four.type = cast.type;
    const given = s.add('Mul', [cast, two], 'given');
    given.type = cast.type;
    const noise = s.add('RandomUniform', [], 'noise', { shape: [1] });
    noise.type = { ...vector, shape: [1] };
    s.graph.inputs = [a!, b!, threes!, powers!, slice!];
    s.graph.outputs = [...parts, ...next, four, given, s.add('Neg', [noise], 'less')];
    const g = new Sketch();
    const states = [
      ...['a', 'b'].map(name => g.input(name, [2])),
      ...['threes', 'powers'].map(n => g.input(n, [], 'int64')),
    ];
    const outputs = ['a_new', 'b_new', 'threes_new', 'powers_new', 'fours', 'givens', 'noises'].map(
      name => new Value(name),
    );
    const scan = new Node('Scan', [...states, g.input('slices', ['steps', 2])], outputs);
    scan.setAttr('body', { type: 'graph', value: s.graph });
    scan.setAttr('num_scan_inputs', { type: 'int', value: 1 });
    g.graph.append(scan);
    const model = g.model(outputs);
    const types = [
      vector,
      vector,
      count,
      count,
      ...[0, 1].map(() => ({ ...vector, shape: [null] })),
      { ...vector, shape: [null, 1] },
    ];
    for (const [i, type] of types.entries()) outputs[i]!.type = type;
    return model;
  };
  const run = async (model: Model) => {
    const session = await Session.create(model);
    const results = await session.run({
      a: spread([2], [-1, 1], 1),
      b: spread([2], [-1, 1], 2),
      slices: spread([STEPS, 2]),
      threes: Tensor.filled('int64', [], 7),
      powers: Tensor.filled('int64', [], 1),
    });
    await session.release();
    const { noises: _, ...others } = results;
    return Object.entries(others).map(([name, t]) => [name, t.numbers()]);
  };
  const model = make();
  onceARun(model);
  checkGraph(model.graph);
  expect(scanOf(model).inputs.map(v => v!.name)).toEqual(['a', 'b', 'powers', 'slices', 'cast_1']);
  expect(ops(body(model))).toEqual([
    'Concat',
    'Concat',
    'Add',
    'Split',
    'Mul',
    'Mul',
    'Mul',
    'RandomUniform',
    'Neg',
  ]);
  expect(await run(model)).toEqual(await run(make()));
});

it('leaves a model alone that is no run of steps', () => {
  const model = mlp();
  const before = ops(model.graph.nodes);
  onceARun(model);
  expect(ops(model.graph.nodes)).toEqual(before);
});

it('declares types where what has them is computed, so that the runtime computes in place', async () => {
  const s = new Sketch();
  const x = s.input('x', ['batch', 3, 4]);
  const y = s.add('MatMul', [x, s.weight('w', spread([4, 5]))], 'y');
  const { injected, shorter } = await forms(s.model([y]));
  const updates = injected.trainingInfo.flatMap(info => info.updates);
  const { graph } = decodeModel(encodeModel(stateInputs(shorter, updates)));
  // The gradient of the mean, for each position.
  const [scattered] = graph.nodes.filter(node => node.opType === 'Reshape' && node.outputs[0]!.shape);
  expect(scattered!.outputs[0]!.shape).toEqual(['batch', 3, 1]);
});
