/** Distillation from a teacher, and losses that are ONNX graphs. */
import { expect, it } from 'vitest';
import type { Model } from '../../../src/graph/ir.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { inject } from '../../../src/passes/inject.js';
import type { InjectOptions } from '../../../src/passes/options.js';
import { bindData } from '../../../src/runtime/data/bind.js';
import { convert } from '../../../src/runtime/data/convert.js';
import { trainedModel } from '../../../src/runtime/export.js';
import { Session, sessionShapes } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { floatsOf, spread } from '../../ops/vjp.js';
import { mlp, mlpData, Sketch } from '../../sample.js';

const DATA = mlpData(10, 3);
const FEEDS = Object.fromEntries(DATA);

/** Of an older operator set, with layers that behave otherwise in training. */
function teacher(): Model {
  const s = new Sketch();
  const x = s.input('features', ['n', 4]);
  const h = s.add('Gemm', [x, s.weight('fc1.weight', [4, 6])], 'hidden_t');
  const ones = (name: string, value: number) => s.weight(name, Tensor.filled('float32', [6], value));
  const norm = s.add(
    'BatchNormalization',
    [h, ones('scale', 1.5), ones('bias', 0.1), ones('mean', 0.2), ones('var', 2)],
    'norm',
  );
  const dropped = s.add('Dropout', [s.add('Tanh', [norm], 'a')], 'd');
  return s.model([s.add('Gemm', [dropped, s.weight('fc2.weight', [6, 3])], 'scores')], 15);
}

async function run(model: Model, outputs: string[], feeds: Record<string, Tensor>) {
  const session = await Session.create(model);
  const results = await session.run(feeds, outputs);
  await session.release();
  return outputs.map(name => results[name]!.numbers());
}

const rows = (values: number[], width: number) =>
  Array.from({ length: values.length / width }, (_, i) => values.slice(i * width, (i + 1) * width));
const logSoftmax = (row: number[]) => {
  const sum = Math.log(row.reduce((a, x) => a + Math.exp(x), 0));
  return row.map(x => x - sum);
};
const withInner = (model: Model, name: string) => {
  model.graph.addOutputs(model.graph.nodes.flatMap(n => n.outputs).find(v => v?.name === name)!);
  return model;
};
const mean = (list: number[]) => list.reduce((a, b) => a + b, 0) / list.length;

async function expected(T: number, alpha: number): Promise<number> {
  const [s] = await run(mlp(), ['logits'], { x: FEEDS.x! });
  const [t] = await run(teacher(), ['scores'], { features: FEEDS.x! });
  const labels = FEEDS.target!.numbers();
  const ce = mean(rows(s!, 3).map((row, i) => -logSoftmax(row)[labels[i]!]!));
  const kl = mean(
    rows(s!, 3).map((row, i) => {
      const p = logSoftmax(row.map(x => x / T));
      const q = logSoftmax(rows(t!, 3)[i]!.map(x => x / T));
      return T * T * q.reduce((sum, l, c) => sum + Math.exp(l) * (l - p[c]!), 0);
    }),
  );
  return (1 - alpha) * ce + alpha * kl;
}

const step = async (options: InjectOptions, model = mlp()) => {
  const injected = await inject(model, { optimizer: { name: 'sgd', lr: 0.1 }, ...options }, sessionShapes);
  return { ...injected, trainer: await Trainer.create(injected.model) };
};

it('a student learns from labels and a teacher, which stays as it is and is not exported', async () => {
  const { trainer, report } = await step({
    loss: { kind: 'cross-entropy' },
    teacherModel: teacher(),
    distill: ['kl:T=2,alpha=0.7'],
    train: ['*'],
  });
  expect(report.description.parameters.map(p => p.name)).toEqual([
    'fc1.weight',
    'fc1.bias',
    'fc2.weight',
    'fc2.bias',
  ]);
  expect(report.description.statistics).toEqual([]);
  const want = await expected(2, 0.7);
  const dataset = bindData(DATA, trainer.inputs, { labels: ['target'] });
  const { loss, metrics } = await trainer.evaluate(dataset.batches({ batchSize: 4 }));
  expect(loss).toBeCloseTo(want, 5);
  expect(metrics.accuracy).toBeDefined();
  expect((await trainer.step(FEEDS)).loss).toBeCloseTo(want, 5);
  const snapshot = trainer.snapshot();
  const frozen = [...snapshot.graph.initializers].filter(([v]) => v.name === 'teacher::fc1.weight');
  expect(frozen[0]![1].numbers()).toEqual([...teacher().graph.initializers.values()][0]!.numbers());
  const { graph } = await trainedModel(snapshot);
  const names = [...graph.initializers.keys(), ...graph.inputs, ...graph.outputs].map(v => v.name).sort();
  expect(names).toEqual(['fc1.bias', 'fc1.weight', 'fc2.bias', 'fc2.weight', 'logits', 'x']);
  await trainer.release();
});

it('a teacher alone is enough to learn from, at inner values too', async () => {
  const { trainer, report } = await step({
    teacherModel: teacher(),
    distill: ['kl:T=2,weight=1', 'cosine:logits=scores,weight=0.5'],
  });
  expect(trainer.inputs.map(i => i.name)).toEqual(['x']);
  expect(report.description.loss).toMatchObject({ output: 'logits', target: 'teacher::scores' });
  const before = (await trainer.step({ x: FEEDS.x! })).loss;
  for (let i = 0; i < 20; i++) await trainer.step({ x: FEEDS.x! });
  expect((await trainer.step({ x: FEEDS.x! })).loss).toBeLessThan(before);
  await trainer.release();
});

it.each([
  ['mse:a=hidden', "The teacher computes no value 'hidden'"],
  ['kl:alpha=2', 'alpha must be a number from 0 to 1'],
  ['cross-entropy', 'cross-entropy does not compare values'],
  [
    'kl:a=hidden_t',
    "'teacher::hidden_t' is float32 [batch,6], and kl of 'a' needs a target of float32 [batch,8]",
  ],
  ['kl:a=hidden_t', 'projects values to the width of the teacher if only their last axis differs'],
])('--distill %s is refused', async (distill, message) => {
  const refused = step({ loss: { kind: 'cross-entropy' }, teacherModel: teacher(), distill: [distill] });
  await expect(refused).rejects.toThrow(message);
});

it.each(['float16', 'float32'] as const)(
  'a teacher may be of another element type than a %s student, and its input too',
  async own => {
    const of = (dtype: 'float16' | 'float32', gain: number) => {
      const s = new Sketch();
      const x = s.input('x', ['n', 4], dtype);
      const h = s.add('MatMul', [x, s.weight('w', convert(spread([4, 3], [-gain, gain], 2), dtype))], 'h');
      return s.model([s.add('Tanh', [h], 'y')]);
    };
    const other = own === 'float16' ? 'float32' : 'float16';
    const { trainer } = await step(
      { teacherModel: of(other, 1), distill: ['kl:T=2', 'mse:h=h,weight=0.5'] },
      of(own, 0.5),
    );
    const same = await step(
      { teacherModel: of('float32', 1), distill: ['kl:T=2', 'mse:h=h,weight=0.5'] },
      of('float32', 0.5),
    );
    const x = spread([6, 4], [-1, 1]);
    const { loss } = await trainer.step({ x: convert(x, own) });
    expect(loss).toBeCloseTo((await same.trainer.step({ x })).loss, 3);
    await trainer.release();
    await same.trainer.release();
  },
);

const PROJECTED = { ...{ loss: { kind: 'cross-entropy' } as const }, distill: ['mse:a=hidden_t,weight=0.5'] };

it('values of another width are compared through a projection, which trains and is not exported', async () => {
  const weightIn = (model: Model) =>
    [...model.graph.initializers].find(([v]) => v.name === 'projection::a.weight')![1];
  for (const frozen of [{}, { freeze: ['*'], train: ['fc2.bias'] }, { unfreezeLast: 1 }]) {
    const options = { ...PROJECTED, teacherModel: teacher(), ...frozen };
    const { model, trainer, report } = await step(options);
    const trained = report.description.parameters.map(p => p.name);
    expect(trained).toContain('projection::a.weight');
    expect(trained.some(name => name.startsWith('teacher::'))).toBe(false);
    const before = weightIn(model);
    expect(before.dims).toEqual([8, 6]);
    const [a] = await run(withInner(mlp(), 'a'), ['a'], { x: FEEDS.x! });
    const [t] = await run(withInner(teacher(), 'hidden_t'), ['hidden_t'], { features: FEEDS.x! });
    const w = before.numbers();
    const difference = rows(a!, 8).map((row, n) =>
      rows(t!, 6)[n]!.map((want, o) => row.reduce((sum, x, i) => sum + x * w[i * 6 + o]!, 0) - want),
    );
    const ce = await expected(1, 0);
    const want = ce + 0.5 * mean(difference.flat().map(d => d * d));
    const dataset = bindData(DATA, trainer.inputs, { labels: ['target'] });
    expect((await trainer.evaluate(dataset.batches({ batchSize: 4 }))).loss).toBeCloseTo(want, 5);
    expect((await trainer.step(FEEDS)).loss).toBeCloseTo(want, 5);
    // d mse / dW = 2 / (n outputs) a^T (a W - t), times the weight 0.5 and the rate 0.1.
    const snapshot = trainer.snapshot();
    weightIn(snapshot)
      .numbers()
      .forEach((x, at) => {
        const [i, o] = [Math.floor(at / 6), at % 6];
        const slope = rows(a!, 8).reduce((sum, row, n) => sum + row[i]! * difference[n]![o]!, 0) / 60;
        expect(x).toBeCloseTo(w[at]! - 0.1 * slope, 6);
      });
    const { graph } = await trainedModel(snapshot);
    const names = [...graph.initializers.keys(), ...graph.inputs, ...graph.outputs].map(v => v.name).sort();
    expect(names).toEqual(['fc1.bias', 'fc1.weight', 'fc2.bias', 'fc2.weight', 'logits', 'x']);
    await trainer.release();
  }
});

it('adapters and rounding are of the model alone, not of the teacher or a projection', async () => {
  const { report } = await step({ ...PROJECTED, teacherModel: teacher(), lora: [{ match: '*', r: 2 }] });
  expect(report.description.parameters.map(p => p.name)).toEqual([
    'projection::a.weight',
    ...['fc1.lora_A', 'fc1.lora_B', 'fc2.lora_A', 'fc2.lora_B'].map(name => name.replace('.', '.weight.')),
  ]);
});

it.each(['float16', 'float32'] as const)(
  'channels of a %s student are projected by a convolution',
  async dtype => {
    const of = (channels: number) => {
      const s = new Sketch();
      const w = convert(spread([channels, 2, 3, 3], [-0.5, 0.5], channels), dtype);
      const h = s.add('Conv', [s.input('x', ['n', 2, 6, 6], dtype), s.weight('w', w)], 'h');
      return s.model([s.add('Relu', [h], 'y')]);
    };
    const { trainer, report } = await step({ teacherModel: of(5), distill: ['mse:y=y'] }, of(3));
    expect(report.parameters.filter(p => p.trains).map(p => `${p.value.name} ${p.value.shape}`)).toEqual([
      'w 3,2,3,3',
      'projection::y.weight 5,3,1,1',
    ]);
    const x = convert(spread([4, 2, 6, 6], [-1, 1]), dtype);
    const { loss } = await trainer.step({ x });
    for (let i = 0; i < 20; i++) await trainer.step({ x });
    expect((await trainer.step({ x })).loss).toBeLessThan(loss);
    await trainer.release();
  },
);

/** mean over classes of (logits - wanted)^2: one number for each sample, with a constant of its own. */
function lossGraph(perSample: boolean): Model {
  const s = new Sketch();
  const e = s.add('Sub', [s.input('logits', ['n', 3]), s.input('wanted', ['n', 3])], 'e');
  const half = s.add(
    'Mul',
    [s.add('Mul', [e, e], 'square'), s.weight('half', floatsOf([0.5], []))],
    'halves',
  );
  return s.model(
    [s.add('ReduceMean', [half], 'loss', perSample ? { axes: [1], keepdims: 0 } : { keepdims: 0 })],
    13,
  );
}

it.each([true, false])('a loss may be an ONNX graph, with a number for each sample: %s', async perSample => {
  const { trainer } = await step({ lossGraph: lossGraph(perSample), train: ['*'] });
  expect(trainer.inputs.map(i => i.name).sort()).toEqual(['wanted', 'x']);
  const wanted = floatsOf(
    Array.from({ length: 30 }, (_, i) => Math.sin(i)),
    [10, 3],
  );
  const [s] = await run(mlp(), ['logits'], { x: FEEDS.x! });
  const want = mean(s!.map((y, i) => (y - Math.sin(i)) ** 2 / 2));
  const dataset = bindData(
    new Map([
      ['x', FEEDS.x!],
      ['wanted', wanted],
    ]),
    trainer.inputs,
    {},
  );
  expect((await trainer.evaluate(dataset.batches({ batchSize: 4 }))).loss).toBeCloseTo(want, 5);
  expect((await trainer.step({ x: FEEDS.x!, wanted })).loss).toBeCloseTo(want, 5);
  expect(trainer.description.parameters.some(p => p.name.includes('half'))).toBe(false);
  const { graph } = await trainedModel(trainer.snapshot());
  expect([...graph.inputs, ...graph.outputs].map(v => v.name)).toEqual(['x', 'logits']);
  await trainer.release();
});

it('a loss graph that reads nothing of the model is refused', async () => {
  const other = lossGraph(true);
  other.graph.inputs[0]!.name = 'scores';
  await expect(step({ lossGraph: other })).rejects.toThrow(
    "The loss model reads 'scores', 'wanted', none of which is an output of the model: 'logits'.",
  );
});

it('the alphas of a distillation leave the loss no less than nothing', async () => {
  const refused = step({
    loss: { kind: 'cross-entropy' },
    teacherModel: teacher(),
    distill: ['kl:alpha=0.75', 'mse:logits=scores,alpha=0.5'],
  });
  await expect(refused).rejects.toThrow('--distill: the alphas must add up to at most 1, not 1.25.');
});

it('alphas that add up to 1 in decimal leave no loss of the labels, and their sum is shown in decimal', async () => {
  const shares = (distill: string[]) =>
    step({ loss: { kind: 'cross-entropy' }, teacherModel: teacher(), distill });
  const { trainer } = await shares([
    'kl:alpha=0.34',
    'mse:logits=scores,alpha=0.56',
    'l1:logits=scores,alpha=0.1',
  ]);
  await trainer.release();
  await expect(shares(['kl:alpha=0.7', 'mse:logits=scores,alpha=0.6'])).rejects.toThrow(
    '--distill: the alphas must add up to at most 1, not 1.3.',
  );
});
