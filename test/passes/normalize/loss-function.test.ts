/** Losses that are functions of expressions: the numbers of built-in losses and of PyTorch, and what cannot be read. */
import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { evaluate, fit as fitModel, inject, type LossFunction, Trainer } from '../../../src/index.js';
import { convert } from '../../../src/runtime/data/convert.js';
import { floatsOf, spread } from '../../ops/vjp.js';
import { mlp, mlpData, Sketch } from '../../sample.js';

const crossEntropy: LossFunction = ({ outputs, targets }) =>
  outputs
    .logits!.logSoftmax()
    .gatherElements(targets.int64('target', ['batch']).unsqueeze(1), 1)
    .neg();

type Values = { dims: number[]; values: number[] };
const KL: { loss: number; outputs: (Values & { gradient: number[] })[]; target: Values } = JSON.parse(
  readFileSync(new URL('../../ops/losses/losses.json', import.meta.url), 'utf8'),
)['kl of scores'];

it('has the value and the gradient of PyTorch', async () => {
  const [x] = KL.outputs as [(typeof KL.outputs)[0]];
  const s = new Sketch();
  const w = s.weight('w', floatsOf(Array(x.values.length).fill(0), x.dims));
  const model = s.model([s.add('Add', [s.input('x', x.dims), w], 'a')]);
  const T = 2;
  const loss: LossFunction = ({ outputs, targets }) => {
    const logq = targets.float32('t', KL.target.dims).div(T).logSoftmax();
    return logq
      .exp()
      .mul(logq.sub(outputs.a!.div(T).logSoftmax()))
      .sum(-1)
      .mean()
      .mul(T ** 2);
  };
  const { model: step } = await inject(model, { loss, train: ['w'], optimizer: { name: 'sgd', lr: 1 } });
  const trainer = await Trainer.create(step);
  const found = await trainer.step({
    x: floatsOf(x.values, x.dims),
    t: floatsOf(KL.target.values, KL.target.dims),
  });
  expect(found.loss).toBeCloseTo(KL.loss, 5);
  trainer.state
    .get('w')!
    .numbers()
    .forEach((v, i) => {
      expect(-v).toBeCloseTo(x.gradient[i]!, 5);
    });
  await trainer.release();
});

it('trains, evaluates and exports as the same built-in loss does, from a fixed seed', async () => {
  const data = mlpData(24);
  const run = (loss: LossFunction | 'cross-entropy') =>
    fitModel(mlp(), data, { loss, epochs: 2, batchSize: 7, accumulate: 2, seed: 1, validation: data });
  const [own, known] = [await run(crossEntropy), await run('cross-entropy')];
  expect(own.history.losses.length).toBe(known.history.losses.length);
  own.history.losses.forEach((v, i) => {
    expect(v).toBeCloseTo(known.history.losses[i]!, 5);
  });
  expect(own.model.graph.nodes.map(n => n.opType)).toEqual(known.model.graph.nodes.map(n => n.opType));
  const found = await evaluate(own.model, data, { loss: crossEntropy, batchSize: 5 });
  const wanted = await evaluate(own.model, data, { loss: { kind: 'cross-entropy' } });
  expect(found.loss).toBeCloseTo(wanted.loss, 5);
});

it('has where, matmul, gather, reshape, transpose, cast, extrema and any operator', async () => {
  const loss: LossFunction = ({ outputs, targets, op }) => {
    const { logits } = outputs;
    const t = targets.int64('target', ['batch']);
    const wide = logits!
      .matmul(logits!.transpose([1, 0]))
      .reshape([-1, 1])
      .mean();
    const near = logits!.abs().min(1).max(0.1).where(0, logits!);
    return near
      .onnx('Softplus')
      .sum(1)
      .add(op('Softplus', [logits!]).sum([1]))
      .add(wide)
      .sub(t.cast('float32').mul(0));
  };
  const fixed: LossFunction = context => {
    const { outputs } = context;
    const far = outputs.logits!.abs().greater(0.1);
    return far.where(outputs.logits!, 0).pow(2).add(outputs.logits!.relu().sqrt().mul(0)).mean();
  };
  const broken = inject(mlp(), { loss });
  await expect(broken).rejects.toThrow('Where');
  const { model } = await inject(mlp(), { loss: fixed });
  expect(model.graph.inputs.map(v => v.name)).not.toContain('target');
});

it('of a float16 model is computed in float32', async () => {
  const s = new Sketch();
  const w = s.weight('w', convert(spread([2, 2]), 'float16'));
  const y = s.add('MatMul', [s.input('x', ['n', 2], 'float16'), w], 'y');
  y.type = { kind: 'tensor', dtype: 'float16', shape: ['n', 2] };
  const model = s.model([y]);
  const loss: LossFunction = ({ outputs, targets }) =>
    outputs
      .y!.sub(targets.float32('t', ['n', 2]))
      .pow(2)
      .mean(1);
  const { model: step } = await inject(model, { loss });
  const trainer = await Trainer.create(step);
  const { loss: found } = await trainer.step({
    x: convert(floatsOf([0, 0], [1, 2]), 'float16'),
    t: floatsOf([300, 0], [1, 2]),
  });
  expect(found).toBe(45_000);
  await trainer.release();
});

const other: { e?: ReturnType<LossFunction> } = {};
it.each<[string, LossFunction, string]>([
  [
    'an unknown output',
    ({ outputs }) => outputs.logit!,
    "The loss: outputs.logit: the model has no such output; it has 'logits'.",
  ],
  ['no expression', () => 3 as never, 'The loss: the function must return an expression, not 3.'],
  [
    'no output',
    ({ targets }) => targets.float32('t', [1]).mul(2),
    "The loss t.mul(2) reads none of the outputs: 'logits'.",
  ],
  [
    'an operand that is none',
    ({ outputs }) => outputs.logits!.exp().add('x' as never),
    'The loss: logits.exp().add(): expected an expression of this loss or a number, not x.',
  ],
  [
    'axes that are none',
    ({ outputs }) => outputs.logits!.sum(0.5),
    'The loss: logits.sum(): expected whole numbers, not 0.5.',
  ],
  [
    'an element type that is none',
    ({ outputs }) => outputs.logits!.cast('float' as never),
    "The loss: logits.cast(): expected float32, float64, int64, int32, bool, not 'float'.",
  ],
  [
    'a target without a shape',
    ({ targets }) => targets.int64('t', undefined as never),
    "targets.int64('target', ['batch'])",
  ],
  [
    'an expression of another loss',
    ({ outputs }) => outputs.logits!.add(other.e!),
    'logits.add(): expected an expression of this loss, not one of another.',
  ],
  [
    'shapes that do not fit',
    ({ outputs, targets }) => outputs.logits!.sub(targets.float32('t', ['batch', 5])),
    'logits.sub(t)',
  ],
])('says what is wrong with %s', async (_, loss, message) => {
  await inject(mlp(), { loss: ({ outputs }) => (other.e = outputs.logits!) });
  await expect(inject(mlp(), { loss })).rejects.toThrow(message);
});
