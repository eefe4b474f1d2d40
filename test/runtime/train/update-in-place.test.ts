import { afterEach, expect, it, vi } from 'vitest';
import type { DType } from '../../../src/graph/dtype.js';
import { Graph, type Model, Node, Value } from '../../../src/graph/ir.js';
import { Names } from '../../../src/graph/names.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { topologicalOrder } from '../../../src/graph/topological-order.js';
import { Builder } from '../../../src/ops/core/builder.js';
import type { Expr } from '../../../src/ops/core/expr.js';
import { scan, scanAlong } from '../../../src/ops/core/scan.js';
import { OPTIMIZER_NAMES, type OptimizerSpec } from '../../../src/ops/optimizers/index.js';
import { inject } from '../../../src/passes/inject.js';
import type { InjectOptions } from '../../../src/passes/options.js';
import { type Feeds, Session, sessionShapes } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { spread } from '../../ops/vjp.js';
import { Sketch } from '../../sample.js';

afterEach(() => {
  vi.restoreAllMocks();
});

const LOSS = { kind: 'output', output: 'loss' } as const;

/** Two layers, of which the first is large enough for tiles if it is as wide. */
function layers(width = 2064): Model {
  const s = new Sketch();
  const product = s.add('MatMul', [s.input('x', ['n', 64]), s.weight('first', [64, width])], 'product');
  const a = s.add('Tanh', [s.add('Add', [product, s.weight('bias', [width])], 'sum')], 'a');
  return withLoss(s, s.add('MatMul', [a, s.weight('second', [width, 3])], 'y'));
}

const withLoss = (s: Sketch, y: Value) =>
  s.model([s.add('ReduceMean', [s.add('Mul', [y, y], 'square')], 'loss', { keepdims: 0 })]);

/** A chain of products with the same weight, in a branch of an If where `branch` is given. */
function repeated(times: number, branch = false): Model {
  const s = new Sketch();
  const w = s.weight('w', spread([64, 64], [-0.2, 0.2], 1));
  let x = s.input('x', ['n', 64]);
  for (let i = 0; i < times; i++) x = s.add('MatMul', [x, w], `x${i}`);
  if (!branch) return withLoss(s, x);
  const condition = s.add(
    'Less',
    [s.add('ReduceMean', [x], 'mean', { keepdims: 0 }), s.weight('c', Tensor.filled('float32', [], 9))],
    'small',
  );
  const graphOf = (name: string, opType: string) => {
    const graph = new Graph(name);
    const y = new Value(`${name}_y`);
    const z = new Value(`${name}_z`);
    graph.nodes = [new Node('MatMul', [x, w], [y]), new Node(opType, [y], [z])];
    graph.outputs = [z];
    return graph;
  };
  const branches = { then_branch: graphOf('then', 'Tanh'), else_branch: graphOf('other', 'Neg') };
  return withLoss(s, s.add('If', [condition], 'chosen', branches));
}

/** w and its transpose. */
function tied(): Model {
  const s = new Sketch();
  const w = s.weight('w', [64, 2064]);
  const a = s.add('Tanh', [s.add('MatMul', [s.input('x', ['n', 64]), w], 'product')], 'a');
  return withLoss(s, s.add('MatMul', [a, s.add('Transpose', [w], 'turned', { perm: [1, 0] })], 'y'));
}

const batch = (steps: number): Feeds => ({ x: spread([steps, 4, 64], [-1, 1], 3) });
const injected = async (model: Model, options: InjectOptions = {}) =>
  (await inject(model, { loss: LOSS, ...options }, sessionShapes)).model;

/** Runs of so many steps each, and the states that were read from the arrays that they were written to. */
async function trained(model: Model, runs: readonly number[], inPlace: boolean) {
  const trainer = await Trainer.create(model, { inPlace, threads: 1 });
  const runInto = vi.spyOn(Session.prototype, 'runInto');
  const losses = [];
  for (const steps of runs) losses.push(...(await trainer.steps(batch(steps), { lr: 0.01 })));
  const updates = model.trainingInfo.flatMap(info => info.updates);
  const replaced = new Set<string>();
  for (const [feeds, outputs] of runInto.mock.calls)
    for (const { state, value } of updates)
      if (feeds[state]!.bytes.buffer === outputs[value]?.bytes.buffer) replaced.add(state);
  runInto.mockRestore();
  const state = [...trainer.state].map(([name, { bytes }]) => [name, Buffer.from(bytes).toString('base64')]);
  await trainer.release();
  return { losses, state, replaced };
}

/** The states that steps replace, after which all are what they are if nothing is replaced. */
async function replacedOf(step: Model): Promise<string[]> {
  const runs = [1, 2, 1, 3];
  const [copied, written] = [await trained(step, runs, false), await trained(step, runs, true)];
  expect(copied.replaced).toEqual(new Set());
  expect(written.losses).toEqual(copied.losses);
  expect(written.state).toEqual(copied.state);
  return [...written.replaced].sort();
}

/** They need products of whole matrices. */
const HEAVY: readonly string[] = ['muon', 'shampoo'];

it.each(OPTIMIZER_NAMES)('steps of %s that replace the state compute the same', async name => {
  const model = layers(HEAVY.includes(name) ? 32 : undefined);
  const replaced = await replacedOf(await injected(model, { optimizer: { name } as OptimizerSpec }));
  expect(replaced.join(' ')).toMatchSnapshot();
});

it.each([
  ['a weight and its transpose', tied(), {}, ['w', 'w_diff_sq_sum', 'w_exp_avg_corrected']],
  ['a weight read by five products', repeated(5), { optimizer: { name: 'sgd' } }, ['w']],
  ['a weight read in branches', repeated(2, true), { optimizer: { name: 'sgd' } }, []],
  ['averages', repeated(2), { optimizer: { name: 'sgd' }, ema: 0.9 }, ['w', 'w_ema']],
  ['accumulated gradients', repeated(2), { accumulate: 2 }, []],
  ['steps that may be skipped', repeated(2), { onNonfinite: 'skip' }, []],
] as [string, Model, InjectOptions, string[]][])('%s', async (_, model, options, expected) => {
  expect(await replacedOf(await injected(model, options))).toEqual(expected);
});

/** Square weights that are not small enough to be updated together. */
const WIDE = 96;
type Rewrite = (w: Expr, change: Expr, step: Graph) => Expr;

/** The step of two layers, of which `next` writes the second one's weight w, to be changed by `change`. */
async function rewritten(next: Rewrite): Promise<Model> {
  const s = new Sketch();
  const product = s.add('MatMul', [s.input('x', ['n', 64]), s.weight('first', [64, WIDE])], 'product');
  const a = s.add('Tanh', [product], 'a');
  const y = s.add('MatMul', [a, s.weight('w', spread([WIDE, WIDE], [-0.2, 0.2], 2))], 'y');
  const step = await injected(withLoss(s, y), { optimizer: { name: 'sgd' } });
  const { graph } = step;
  const g = new Builder(graph, { names: Names.of(step), opsets: step.opsetImports });
  const written = graph.outputs.find(v => v.name === 'w_new')!;
  const { producer } = written;
  const [w, change] = producer!.inputs as [Value, Value];
  graph.remove([producer!]);
  const { value } = next(g.of(w), g.of(change), graph);
  value.replaceAllUses(written);
  const writer = value.producer!;
  writer.outputs = writer.outputs.map(v => (v === value ? written : v));
  graph.nodes = topologicalOrder(graph.nodes);
  return step;
}

/** Has others than the update, which are a product forward and a Transpose backward, read something else than w. */
function divert(w: Expr, step: Graph, forward: Expr, back = forward): void {
  for (const node of step.nodes) {
    const other = { MatMul: forward, Transpose: back }[node.opType];
    if (other) node.inputs = node.inputs.map(v => (v === w.value ? other.value : v));
  }
}

const matrix = ({ g }: Expr) => g.tensor(spread([WIDE, WIDE], [-0.1, 0.1], 7));
const scalar = (dtype: DType) => ({ kind: 'tensor', dtype, shape: [] }) as const;

/** What a Scan makes of the slices of w and of its change. */
const sliced = (w: Expr, change: Expr, body: (w: Expr, change: Expr, g: Builder) => Expr, along = FORWARD) =>
  scanAlong(
    w.g,
    [],
    [
      { x: w, ...along },
      { x: change, ...FORWARD },
    ],
    (g, _, [a, b]) => ({ states: [], outputs: [{ y: body(a!, b!, g), ...FORWARD }] }),
  ).outputs[0]!;
const FORWARD = { axis: 0, backwards: false };
const less = (w: Expr, change: Expr) => w.sub(change.mul(0.5));

it.each<[string, Rewrite]>([
  ['written by a product of matrices', (w, change) => w.matmul(change)],
  ['written from elements at other places', (w, change) => w.transpose([1, 0]).sub(change)],
  ['written by a node that becomes one with a product of it', w => w.matmul(matrix(w)).mul(0.9)],
  [
    'written by a node that nothing can delay',
    (w, change) => w.sub(w.g.of(change.value.producer!.inputs[0]!)),
  ],
  [
    'read together with the new value',
    (w, change, step) => {
      const next = w.sub(change);
      const first = step.outputs.find(v => v.name === 'first_new')!;
      const other = w.sub(next.mul(0.5)).slice([0], [64], [0]);
      first.producer!.outputs = [new Value('unused')];
      other.value.producer!.outputs = [first];
      return next;
    },
  ],
  [
    'held by a sequence',
    (w, change, step) => {
      const held = w.op('SequenceConstruct', [w]);
      const at = (i: number) => held.op('SequenceAt', [w.g.scalar(i, 'int64')], {}, { types: [w.type] });
      divert(w, step, at(0), at(1));
      return w.sub(change);
    },
  ],
  [
    'passed on by a Loop',
    (w, change, step) => {
      const { g } = w;
      const body = g.subgraph('loop');
      const given = [scalar('int64'), scalar('bool'), w.type].map(type => body.input('given', type));
      body.graph.outputs = given.slice(1).map(e => e.op('Identity').value);
      const once = [g.scalar(1, 'int64'), g.scalar(1, 'int64').cast('bool')];
      const [passed] = g.emit('Loop', [...once, w], { body: body.graph }, { types: [w.type] });
      divert(w, step, passed!);
      return w.sub(change);
    },
  ],
  [
    'read whole by a Scan of its rows',
    (w, change) => sliced(w, change, (a, b, g) => less(a.add(g.of(w.value).sum([0])), b)),
  ],
  ['written from its last row on', (w, change) => sliced(w, change, less, { axis: 0, backwards: true })],
  [
    'written row by row from its columns',
    (w, change) => sliced(w, change, less, { axis: 1, backwards: false }),
  ],
  [
    'carried by a Scan',
    (w, change) =>
      scan(w.g, {
        states: [w],
        inputs: [change],
        body: (_, [all], [b]) => ({ states: [all!], outputs: [less(all!.sum([0]).tanh(), b!)] }),
      }).outputs[0]!,
  ],
  [
    'written row by row by a product of matrices',
    (w, change) => sliced(w, change, (a, _, g) => a.matmul(g.of(matrix(w).value).mul(0.5))),
  ],
  [
    'written row by row by nodes that nothing can delay',
    (w, change) => sliced(w, change, (a, b) => a.sub(b)),
  ],
])('a state is not replaced if it is %s', async (_, next) => {
  expect(await replacedOf(await rewritten(next))).not.toContain('w');
});

// The runtime makes one node of a product with a constant and a product of matrices, and leaves out a sum with zero.
it.each<[string, (w: Expr) => Expr]>([
  ['half of it', w => w.mul(0.5)],
  ['its quotient', w => w.div(4)],
  ['its negative', w => w.g.scalar(-1, 'float32').mul(w)],
  ['its sum with zero', w => w.add(0)],
])('a state is replaced after %s was read', async (_, read) => {
  const step = await rewritten((w, change, graph) => {
    divert(w, graph, read(w));
    return w.sub(change);
  });
  expect(await replacedOf(step)).toContain('w');
});

/** A trainer of one weight, whose loss is that of `root` rows: NaN below 0, with a gradient that is NaN at 0. */
async function rooted(size = 64) {
  const s = new Sketch();
  const y = s.add(
    'MatMul',
    [s.input('x', ['n', size]), s.weight('w', Tensor.filled('float32', [size, 1], 0.5))],
    'y',
  );
  const model = s.model([s.add('ReduceMean', [s.add('Sqrt', [y], 'root')], 'loss', { keepdims: 0 })]);
  const trainer = await Trainer.create(await injected(model), { inPlace: true });
  const x = (...values: number[]) => ({
    x: Tensor.from(
      'float32',
      [values.length, 1, size],
      new Float32Array(size * values.length).map((_, i) => values[Math.floor(i / size)]!),
    ),
  });
  await trainer.steps(x(1));
  await trainer.steps(x(1));
  return { trainer, x };
}

const copyOf = (trainer: Trainer) => [...trainer.state].map(([name, { bytes }]) => [name, bytes.slice()]);

it.each([[[-1]], [[1, -1]], [[1, 1, -1, 1]]])(
  'a loss that is not finite leaves the state of the last good step: %j',
  async values => {
    const { trainer, x } = await rooted();
    await expect(trainer.steps(x(...values))).rejects.toThrow(
      /Loss 'loss' is NaN at step \d.*last good step/,
    );
    const other = await rooted();
    const good = values.slice(0, values.indexOf(-1));
    if (good.length) await other.trainer.steps(other.x(...good));
    expect(copyOf(trainer)).toEqual(copyOf(other.trainer));
    expect(trainer.isWhole).toBe(true);
    await trainer.release();
    await other.trainer.release();
  },
);

// Large states are looked at as a sum.
it.each([64, 2 ** 14])(
  'an update of %d weights that is not finite leaves no state, which is not taken for one',
  async size => {
    const { trainer, x } = await rooted(size);
    const checkpoint = new Map(
      [...trainer.checkpoint()].map(([name, t]) => [name, new Tensor(t.dtype, t.dims, t.bytes.slice())]),
    );
    await trainer.steps(x(1));
    await expect(trainer.steps(x(0))).rejects.toThrow(
      /made '.*' non-finite. The state in memory is lost, but what was saved is not/,
    );
    expect(trainer.isWhole).toBe(false);
    expect(() => trainer.snapshot()).toThrow(/lost/);
    expect(() => trainer.state).toThrow(/lost/);
    await expect(trainer.steps(x(1))).rejects.toThrow(/lost/);
    trainer.restore(checkpoint);
    expect(await trainer.steps(x(1))).toHaveLength(1);
    await trainer.release();
  },
);

it('what the runtime refuses before the loss changes nothing', async () => {
  const s = new Sketch();
  const rows = s.add('Gather', [s.weight('table', [8, 16]), s.input('i', ['n'], 'int64')], 'rows');
  const trainer = await Trainer.create(await injected(withLoss(s, rows)), { inPlace: true });
  const at = (i: number) => ({ i: Tensor.from('int64', [2], BigInt64Array.of(0n, BigInt(i))) });
  await trainer.step(at(1));
  await trainer.step(at(2));
  await expect(trainer.step(at(8))).rejects.toThrow(/ONNX Runtime stopped: .*out of .*bounds/);
  expect(trainer.isWhole).toBe(true);
  expect((await trainer.step(at(3))).loss).toBeGreaterThan(0);
  await trainer.release();
});

it('a state that was seen is not replaced', async () => {
  const { trainer, x } = await rooted();
  const seen = trainer.state;
  const before = copyOf(trainer);
  await trainer.steps(x(1));
  await trainer.steps(x(1));
  expect([...seen].map(([name, { bytes }]) => [name, bytes])).toEqual(before);
  expect(copyOf(trainer)).not.toEqual(before);
  await trainer.release();
});

it('a state is not shown while a run writes over it', async () => {
  const { trainer, x } = await rooted();
  const { runInto } = Session.prototype;
  const spy = vi.spyOn(Session.prototype, 'runInto');
  spy.mockImplementationOnce(function (this: Session, ...args) {
    expect(() => trainer.state).toThrow('A step is running: await it before reading state.');
    return runInto.apply(this, args);
  });
  await trainer.steps(x(1));
  expect(trainer.state.size).toBeGreaterThan(0);
  await trainer.release();
});

it('a state that was lent is replaced again, unless others have seen it', async () => {
  const { trainer, x } = await rooted();
  const isReplaced = async (meanwhile: () => unknown) => {
    let lent: Uint8Array | undefined;
    await trainer.lend(async ({ graph }) => {
      lent = [...graph.initializers].find(([{ name }]) => name === 'w')![1].bytes;
      meanwhile();
    });
    const before = lent!.slice();
    await trainer.steps(x(1));
    return Buffer.compare(lent!, before) !== 0;
  };
  expect(await isReplaced(() => {})).toBe(true);
  expect(await isReplaced(() => trainer.state)).toBe(false);
  await trainer.release();
});
