import { expect, it } from 'vitest';
import { Graph, type Model, Node, Value } from '../../../src/graph/ir.js';
import type { Tensor } from '../../../src/graph/tensor.js';
import { toAttrs } from '../../../src/ops/core/builder.js';
import { inject } from '../../../src/passes/inject.js';
import { bindData } from '../../../src/runtime/data/bind.js';
import { gradients } from '../../../src/runtime/gradients.js';
import { sessionShapes } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { trainingLoop } from '../../../src/runtime/train/training-loop.js';
import { floatsOf } from '../../ops/vjp.js';
import { Sketch } from '../../sample.js';

/** A BatchNorm1d of PyTorch 2.13 in float64: x and dy of shape [4, 2, 3], and what came of them. */
const X = [
  -2.310412, -0.373251, -1.060817, 0.999509, -0.884025, -1.275547, -0.623225, -0.866442, 0.238718, 0.733528,
  -1.321882, 1.314811, -1.487496, -0.713575, 0.519999, -0.952886, 0.674858, 1.046865, 0.154295, -0.749892,
  -0.72339, 0.08637, -1.746405, 1.041012,
];
const DY = [
  0.79701, 0.211664, 0.135571, -0.033893, 0.460469, 1.117443, 0.369045, -0.187202, -1.128799, -0.093769,
  0.998344, -0.082622, 0.182532, 0.950904, -1.763162, 1.010732, 0.749488, -0.560555, 0.074247, 1.993646,
  0.449865, 1.553145, 0.053986, 1.474442,
];
const DX = [
  -0.371116, 0.166785, -0.215897, -0.544783, -0.357692, 0.450424, 0.152667, -0.340302, -0.44394, -0.698363,
  0.272842, -0.528874, -0.38975, 0.502222, -0.736973, 0.387805, 0.456498, -1.263221, 0.328127, 1.189171,
  0.159006, 1.416015, -1.15037, 1.55972,
];
const DSCALE = [-6.334102, -2.475714];
const DBIAS = [2.085321, 6.64721];
const RUNNING = { mean: [0.203371, -0.362365], variance: [0.779756, 1.207413] };

/** loss = sum(batchnorm(x) * dy), whose gradients are those of the cotangent dy. */
function model() {
  const s = new Sketch();
  const inputs = [
    s.input('x', ['batch', 2, 3]),
    s.weight('scale', floatsOf([0.5, 1.5])),
    s.weight('bias', floatsOf([0.1, -0.2])),
    s.weight('mean', floatsOf([0.3, -0.4])),
    s.weight('variance', floatsOf([0.8, 1.2])),
  ];
  const y = s.add('BatchNormalization', inputs, 'y');
  const product = s.add('Mul', [y, s.input('dy', ['batch', 2, 3])], 'product');
  return s.model([s.add('ReduceSum', [product], 'loss_value', { keepdims: 0 })]);
}

const feeds = { x: floatsOf(X, [4, 2, 3]), dy: floatsOf(DY, [4, 2, 3]) };
const loss = { kind: 'output', output: 'loss_value' } as const;
const close = (got: Tensor | undefined, want: readonly number[]) =>
  got!.numbers().forEach((v, i) => {
    expect(v).toBeCloseTo(want[i]!, 4);
  });

it('trains on the statistics of the batch, as PyTorch does', async () => {
  const { gradients: found } = await gradients(
    model(),
    { loss, wrt: ['x', 'scale', 'bias'], batchNorm: 'train' },
    feeds,
  );
  close(found.get('x'), DX);
  close(found.get('scale'), DSCALE);
  close(found.get('bias'), DBIAS);
});

it('updates the running statistics, the variance unbiased', async () => {
  const { model: injected, report } = await inject(model(), { loss }, sessionShapes);
  expect(report.description.statistics).toEqual(['mean', 'variance']);
  expect(report.parameters.filter(p => p.trains).map(p => p.value.name)).toEqual(['scale', 'bias']);
  const trainer = await Trainer.create(injected);
  await trainer.step(feeds);
  close(trainer.state.get('mean'), RUNNING.mean);
  close(trainer.state.get('variance'), RUNNING.variance);
  await trainer.release();
});

it('emits no training mode, which not every execution provider has', async () => {
  const { model: injected } = await inject(model(), { loss }, sessionShapes);
  const nodes = injected.graph.nodes.filter(n => n.opType === 'BatchNormalization');
  expect(nodes).toHaveLength(1);
  expect(nodes[0]!.attrs.get('training_mode')).toMatchObject({ value: 0 });
});

it('leaves the running statistics alone in eval mode', async () => {
  const { model: injected, report } = await inject(model(), { loss, batchNorm: 'eval' }, sessionShapes);
  expect(report.description.statistics).toEqual([]);
  expect(injected.graph.inputs.map(v => v.name)).not.toContain('mean');
});

it('infers and evaluates in eval mode where the file was exported in training mode', async () => {
  const m = model();
  const [norm] = m.graph.nodes as [Node];
  norm.setAttr('training_mode', { type: 'int', value: 1 });
  const next = ['next_mean', 'next_variance'].map(name => new Value(name));
  norm.outputs = [...norm.outputs, ...next];
  m.graph.addOutputs(...next);
  const want = (await gradients(model(), { loss, batchNorm: 'eval' }, feeds)).loss!;
  expect((await gradients(m, { loss, batchNorm: 'eval' }, feeds)).loss).toBeCloseTo(want, 4);
  const { model: injected } = await inject(m, { loss, batchNorm: 'eval' }, sessionShapes);
  const trainer = await Trainer.create(injected);
  expect((await trainer.step(feeds)).loss).toBeCloseTo(want, 4);
  await trainer.release();
  const fresh = await Trainer.create((await inject(m, { loss }, sessionShapes)).model);
  const { loss: evaluated } = await fresh.evaluate([{ inputs: feeds, size: 4 }]);
  expect(evaluated).toBeCloseTo(want, 4);
  await fresh.release();
});

/** Weight standardization as PyTorch's users write it: the weights are normalized, never by running statistics. */
it.each(['train', 'eval'] as const)('leaves the normalization of weights alone, in %s mode', async mode => {
  const s = new Sketch();
  const w = s.weight('w', floatsOf([1, 3, 2, 6], [1, 2, 2]));
  const [one, zero] = [s.weight('one', floatsOf([1, 1])), s.weight('zero', floatsOf([0, 0]))];
  const norm = s.add('BatchNormalization', [w, one, zero, zero, one], 'standard', { training_mode: 1 });
  s.graph.nodes[0]!.setOutput(1, new Value('m'));
  s.graph.nodes[0]!.setOutput(2, new Value('v'));
  const y = s.add('Mul', [s.input('x', ['batch', 2, 2]), norm], 'y');
  const m = s.model([s.add('ReduceSum', [y], 'loss_value', { keepdims: 0 })]);
  const x = floatsOf([1, 2, 3, 5], [1, 2, 2]);
  const trainer = await Trainer.create((await inject(m, { loss, batchNorm: mode }, sessionShapes)).model);
  const [first, second] = [await trainer.step({ x }), await trainer.step({ x })];
  expect(first.loss).toBeCloseTo(3, 4);
  expect(second.loss).toBeLessThan(first.loss);
  await trainer.release();
});

/** loss = sum(a * b), a and b the same layer of x and of x * x. */
function sharedLayer() {
  const s = new Sketch();
  const x = s.input('x', ['batch', 2]);
  const operands = [
    s.weight('scale', floatsOf([0.5, 1.5])),
    s.weight('bias', floatsOf([0.1, -0.2])),
    s.weight('mean', floatsOf([0.3, -0.4])),
    s.weight('variance', floatsOf([0.8, 1.2])),
  ];
  const a = s.add('BatchNormalization', [x, ...operands], 'a');
  const b = s.add('BatchNormalization', [s.add('Mul', [x, x], 'square'), ...operands], 'b');
  return s.model([s.add('ReduceSum', [s.add('Mul', [a, b], 'product')], 'loss_value', { keepdims: 0 })]);
}

/** The state after one step. */
async function stateAfter(m: Model, x: Tensor) {
  const { model: injected } = await inject(m, { loss }, sessionShapes);
  const trainer = await Trainer.create(injected);
  await trainer.step({ x });
  const { state } = trainer;
  await trainer.release();
  return state;
}

// PyTorch 2.13 in float64.
it('updates the statistics of a layer that is used twice by both uses', async () => {
  const x = floatsOf([-1.5, 0.25, 0.5, 2, 1.25, -0.75, 0, -1], [4, 2]);
  const state = await stateAfter(sharedLayer(), x);
  close(state.get('mean'), [0.350188, -0.172125]);
  close(state.get('variance'), [0.884087, 1.452547]);
  const { gradients: found } = await gradients(
    sharedLayer(),
    { loss, wrt: ['scale', 'bias'], batchNorm: 'train' },
    { x },
  );
  close(found.get('scale'), [-1.662416, 9.770273]);
  close(found.get('bias'), [0.8, -1.6]);
});

it('refuses a batch of one value a channel, as PyTorch does', async () => {
  const one = floatsOf([1, 2], [1, 2]);
  const message =
    'on the statistics of a batch with one value per channel: use larger batches, or --batch-norm eval';
  await expect(stateAfter(sharedLayer(), one)).rejects.toThrow(message);
  const options = { loss, wrt: ['scale'], batchNorm: 'train' } as const;
  await expect(gradients(sharedLayer(), options, { x: one })).rejects.toThrow(message);
  await gradients(sharedLayer(), { ...options, batchNorm: 'eval' }, { x: one });
  const fixed = sharedLayer();
  fixed.graph.inputs[0]!.type = { kind: 'tensor', dtype: 'float32', shape: [1, 2] };
  await expect(inject(fixed, { loss }, sessionShapes)).rejects.toThrow(message);
  // Three values a channel are enough.
  await gradients(
    model(),
    { loss, wrt: ['x'], batchNorm: 'train' },
    {
      x: floatsOf(X.slice(0, 6), [1, 2, 3]),
      dy: floatsOf(DY.slice(0, 6), [1, 2, 3]),
    },
  );
});

it('rejects it at run time if the extents are not known before, and leaves the state unchanged', async () => {
  const m = sharedLayer();
  m.graph.inputs[0]!.type = { kind: 'tensor', dtype: 'float32', shape: [null, null] };
  const { model: injected, report } = await inject(m, { loss }, sessionShapes);
  expect(report.description.leastBatch).toBeUndefined();
  const t = await Trainer.create(injected);
  const before = t.state;
  await expect(t.step({ x: floatsOf([1, 2], [1, 2]) })).rejects.toThrow('one value per channel');
  expect(t.state).toEqual(before);
  await t.release();
});

it('leaves out a last batch of one sample in training, and not in evaluation', async () => {
  const { model: injected } = await inject(sharedLayer(), { loss }, sessionShapes);
  const t = await Trainer.create(injected);
  const data = bindData(new Map([['x', floatsOf(X.slice(0, 10), [5, 2])]]), t.inputs);
  const steps: number[] = [];
  for await (const event of trainingLoop(t, data, { epochs: 2, batchSize: 4, validation: data }))
    if (event.type === 'step') steps.push(event.step);
    else if (event.type === 'epoch') expect(event.validation!.samples).toBe(5);
  expect(steps).toEqual([1, 1]);
  expect(data.notesOn({ batchSize: 4 })).toEqual([
    'The last batch of each epoch would have 1 sample, on which batch normalization cannot train: it is left out.',
  ]);
  expect(data.leftOut({ batchSize: 3 })).toBe(0);
  await t.release();
});

it('has nothing to update where the statistics are computed', async () => {
  const m = sharedLayer();
  const { nodes } = m.graph;
  const half = new Value('half', nodes[0]!.inputs[4]!.type);
  for (const node of nodes.filter(n => n.opType === 'BatchNormalization')) node.setInput(4, half);
  const variance = [...m.graph.initializers.keys()].find(v => v.name === 'variance')!;
  m.graph.nodes = [new Node('Add', [variance, variance], [half]), ...nodes];
  const { report } = await inject(m, { loss, freeze: ['variance'] }, sessionShapes);
  expect(report.description.statistics).toEqual(['mean']);
});

it('refuses to train on the statistics of a batch in a branch, which `eval` allows', async () => {
  const m = sharedLayer();
  const { graph } = m;
  const [norm] = graph.nodes as [Node];
  const branch = (name: string) => {
    const body = new Graph(name);
    body.outputs = [new Value(`${name}_y`)];
    body.append(new Node(norm.opType, [...norm.inputs], [...body.outputs]));
    return body;
  };
  const branches = toAttrs({ then_branch: branch('then'), else_branch: branch('else') });
  const condition = new Value('condition', { kind: 'tensor', dtype: 'bool', shape: [] });
  graph.inputs.push(condition);
  graph.nodes = graph.nodes.with(0, new Node('If', [condition], norm.outputs, branches));
  await expect(inject(m, { loss }, sessionShapes)).rejects.toThrow(/in a branch or loop.*--batch-norm eval/);
  await inject(m, { loss, batchNorm: 'eval' }, sessionShapes);
});
