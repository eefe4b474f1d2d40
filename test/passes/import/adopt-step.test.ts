import { expect, it } from 'vitest';
import { type Attr, type Model, Value } from '../../../src/graph/ir.js';
import { decodeModel, encodeModel } from '../../../src/graph/proto/codec.js';
import { algorithmInfo } from '../../../src/graph/proto/training.js';
import { Tensor } from '../../../src/graph/tensor.js';
import type { AttrInit } from '../../../src/ops/core/builder.js';
import { readDescription } from '../../../src/passes/file/step-metadata.js';
import { trainingInfoForm } from '../../../src/passes/file/write-training-info.js';
import { inject } from '../../../src/passes/inject.js';
import type { InjectOptions } from '../../../src/passes/options.js';
import { bindData } from '../../../src/runtime/data/bind.js';
import { sessionShapes } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { floatsOf } from '../../ops/vjp.js';
import { mlp, mlpData, Sketch } from '../../sample.js';

const LOSS = { kind: 'cross-entropy' } as const;
const written = async (options: Partial<InjectOptions> = {}) => {
  const joint = (await inject(mlp(), { loss: LOSS, ...options }, sessionShapes)).model;
  return { joint, file: decodeModel(encodeModel(trainingInfoForm(joint))) };
};

async function trained(model: Parameters<typeof Trainer.create>[0]) {
  const trainer = await Trainer.create(model);
  const losses: number[] = [];
  for await (const { inputs } of bindData(mlpData(64), trainer.inputs).chunks({ batchSize: 16 }, () => 2))
    losses.push(...(await trainer.steps(inputs)));
  const bits = (name: string) => Buffer.from(trainer.state.get(name)!.bytes).toString('hex');
  const parameters = ['fc1.weight', 'fc1.bias', 'fc2.weight', 'fc2.bias'].map(bits);
  const { accuracy, loss } = await trainer.evaluate(
    bindData(mlpData(32, 2), trainer.inputs).batches({ batchSize: 32 }),
  );
  await trainer.release();
  return { losses, parameters, accuracy, loss };
}

it.each([
  ['as it is', {}],
  ['with all that a step may do', { accumulate: 2, ema: 0.9, clipGradNorm: 1, onNonfinite: 'skip' }],
] as const)('a step %s, written as training_info and read again, has the same bits', async (_, options) => {
  const { joint, file } = await written(options);
  const read = (await inject(file, {}, sessionShapes)).model;
  const [a, b] = [await trained(joint), await trained(read)];
  expect(b.losses).toEqual(a.losses);
  expect(b.parameters).toEqual(a.parameters);
  expect(new Set(a.losses).size).toBe(4);
  expect(b.loss).toBeCloseTo(a.loss, 6);
});

it('leaves the inference graph as it was, and holds each parameter once', async () => {
  const { file } = await written();
  expect(file.graph.nodes.map(n => n.opType)).toEqual(mlp().graph.nodes.map(n => n.opType));
  expect(file.graph.outputs.map(v => v.name)).toEqual(['logits']);
  expect([...file.graph.initializers.keys()].map(v => v.name)).toEqual(
    [...mlp().graph.initializers.keys()].map(v => v.name),
  );
  expect(file.trainingInfo[0]!.updates).toContainEqual({ state: 'fc1.weight', value: 'fc1.weight_new' });
});

it('rejects options that the step determines, and replaces the optimizer on request', async () => {
  const { file } = await written();
  const ignored: InjectOptions[] = [
    { ema: 0.9 },
    { scalars: 'float32' },
    { tile: true },
    { checkpointActivations: true },
    { groups: [{ match: ['*'], options: {} }] },
    { optimizer: { name: 'sgd' } },
  ];
  for (const options of ignored)
    await expect(inject(file, options, sessionShapes)).rejects.toThrow(
      new RegExp(`'${Object.keys(options.optimizer ?? options)[0]}' cannot be combined.*--replace-optimizer`),
    );
  await expect(inject(mlp(), { loss: LOSS, replaceOptimizer: true }, sessionShapes)).rejects.toThrow(
    /no optimizer to replace/,
  );
  expect(readDescription((await inject(file, {}, sessionShapes)).model).optimizer.name).toBe('own');
});

it('takes lists of options that are empty as not given', async () => {
  const { file } = await written();
  const { model } = await inject(file, { groups: [], train: [], lazyRows: [] }, sessionShapes);
  expect(readDescription(model).optimizer.name).toBe('own');
});

it('remembers which input takes the target', async () => {
  const { file, joint } = await written();
  const loss = { kind: 'output', output: readDescription(joint).loss.name, target: 'target' } as const;
  const { model } = await inject(file, { loss }, sessionShapes);
  expect(readDescription(model).loss.target).toBe('target');
});

/**
 * y = x w, and an algorithm of ONNX's own operators: Gradient of the mean squared error, and Momentum; with `other`,
 * another output that may be the loss.
 */
function regression(other = false): Model {
  const s = new Sketch();
  const x = s.input('x', ['batch', 2]);
  const w = s.weight('w', floatsOf([0.5, -1]));
  const model = s.model([s.add('MatMul', [x, w], 'y')], 18);
  model.opsetImports.set('ai.onnx.preview.training', 1);
  const a = new Sketch();
  const [y] = model.graph.outputs;
  const target = a.input('t', ['batch']);
  const off = a.add('Sub', [y!, target], 'off');
  const loss = a.add('ReduceMean', [a.add('Mul', [off, off], 'square')], 'mse', { keepdims: 0 });
  const training = (opType: string, inputs: Value[], outputs: string[], attrs: AttrInit) => {
    a.add(opType, inputs, outputs[0]!, attrs);
    const node = a.graph.nodes.at(-1)!;
    node.domain = 'ai.onnx.preview.training';
    node.outputs = [...node.outputs, ...outputs.slice(1).map(name => new Value(name))];
    return node.outputs as Value[];
  };
  const xs: Attr = { type: 'strings', value: ['w'] };
  const [grad] = training('Gradient', [w], ['dw'], { xs, y: 'mse' });
  const rate = a.weight('rate', Tensor.filled('float32', [], 0.1));
  const count = a.weight('count', Tensor.filled('int64', [], 0));
  const velocity = a.weight('v', floatsOf([0, 0]));
  const settings = { alpha: 0.9, beta: 1, norm_coefficient: 0 };
  const numbers = Object.entries(settings).map(([k, value]) => [k, { type: 'float', value }] as const);
  const attrs = { mode: 'standard', ...Object.fromEntries(numbers) };
  training('Momentum', [rate, count, w, grad!, velocity], ['w_next', 'v_next'], attrs);
  a.add('Add', [count, a.weight('one', Tensor.filled('int64', [], 1))], 'count_next');
  a.graph.outputs = [loss, ...a.graph.nodes.slice(-2).flatMap(n => n.outputs as Value[])];
  if (other) a.graph.addOutputs(a.add('Sqrt', [loss], 'rmse'));
  const updates = ['w', 'v', 'count'].map(state => ({ state, value: `${state}_next` }));
  model.trainingInfo = [algorithmInfo(a.graph, updates)];
  return decodeModel(encodeModel(model));
}

const BATCH = {
  x: Tensor.from('float32', [1, 2, 2], Float32Array.of(1, 2, 3, 4)),
  t: Tensor.from('float32', [1, 2], Float32Array.of(1, 0)),
};
/** d mean((x w - t)^2) / dw at w = [0.5, -1]: off = [-2.5, -2.5]. */
const GRADIENT = [-10, -15];

it('trains a step of ONNX’s own operators', async () => {
  const trainer = await Trainer.create((await inject(regression(), {}, sessionShapes)).model);
  expect(await trainer.steps(BATCH)).toEqual([6.25]);
  expect(trainer.state.get('w')!.numbers()).toEqual([0.5 - 0.1 * GRADIENT[0]!, -1 - 0.1 * GRADIENT[1]!]);
  expect(trainer.state.get('v')!.numbers()).toEqual(GRADIENT);
  expect(trainer.stepCount).toBe(1);
  await trainer.release();
});

it('replaces its optimizer', async () => {
  const options = { replaceOptimizer: true, optimizer: { name: 'sgd', lr: 0.01 } } as const;
  const { model, report } = await inject(regression(), options, sessionShapes);
  expect(report.description.optimizer.name).toBe('sgd');
  const trainer = await Trainer.create(model);
  expect(await trainer.steps(BATCH)).toEqual([6.25]);
  const w = trainer.state.get('w')!.numbers();
  expect(w[0]).toBeCloseTo(0.5 - 0.01 * GRADIENT[0]!, 6);
  expect(w[1]).toBeCloseTo(-1 - 0.01 * GRADIENT[1]!, 6);
  expect(trainer.state.has('v')).toBe(false);
  await trainer.release();
});

it('asks which output is the loss, where several may be, and takes the one that is named', async () => {
  await expect(inject(regression(true), {}, sessionShapes)).rejects.toMatchObject({
    code: 'bad-option',
    message: expect.stringMatching(/Which output is the loss\? .*'mse'.*'rmse': name one with --loss-output/),
  });
  const loss = { kind: 'output', output: 'rmse' } as const;
  const trainer = await Trainer.create((await inject(regression(true), { loss }, sessionShapes)).model);
  expect(await trainer.steps(BATCH)).toEqual([2.5]);
  await trainer.release();
});

it('takes a file with one algorithm only', async () => {
  const { file } = await written();
  file.trainingInfo.push(file.trainingInfo[0]!);
  await expect(inject(file, {}, sessionShapes)).rejects.toThrow(
    "The model's training_info has 2 algorithms; only one is supported.",
  );
});
