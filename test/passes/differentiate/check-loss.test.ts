import { expect, it } from 'vitest';
import type { Model } from '../../../src/graph/ir.js';
import { Tensor } from '../../../src/graph/tensor.js';
import type { LossKind } from '../../../src/ops/losses/index.js';
import { inject } from '../../../src/passes/inject.js';
import type { LossSpec } from '../../../src/passes/options.js';
import { bindData } from '../../../src/runtime/data/bind.js';
import { gradients } from '../../../src/runtime/gradients.js';
import { sessionShapes } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { trainingLoop } from '../../../src/runtime/train/training-loop.js';
import { mlpData, Sketch } from '../../sample.js';

/** x[batch,4] -> scores[batch,3] -> the output of these operators. */
function ending(...ops: string[]): Model {
  const s = new Sketch();
  let y = s.add('MatMul', [s.input('x', ['batch', 4]), s.weight('w', [4, 3])], 'scores');
  for (const op of ops) y = s.add(op, [y], op.toLowerCase());
  return s.model([y]);
}

const warnings = async (model: Model, kind: LossKind, output?: string) =>
  (await inject(model, { loss: { kind, output } }, sessionShapes)).report.warnings;

it.each<[string[], LossKind, string]>([
  [['Softmax'], 'cross-entropy', 'Use --loss cross-entropy --output scores, the scores before it.'],
  [['Softmax', 'Identity'], 'cross-entropy', "Output 'identity' is already a Softmax"],
  [['Sigmoid'], 'cross-entropy', 'Use --loss bce, or --loss cross-entropy --output scores'],
  [['Softmax'], 'nll', 'nll expects log-probabilities. Use --loss cross-entropy --output scores'],
  [[], 'nll', 'computed by MatMul, but nll expects log-probabilities. Use --loss cross-entropy.'],
  [['Sigmoid'], 'bce-with-logits', 'Use --loss bce, or --loss bce-with-logits --output scores'],
  [['Softmax'], 'bce-with-logits', 'Use --loss bce, or --loss cross-entropy --output scores'],
  [[], 'bce', 'bce expects probabilities. Use --loss bce-with-logits.'],
])('an output that ends in %s warns of %s', async (ops, kind, advice) => {
  expect(await warnings(ending(...ops), kind)).toEqual([expect.stringContaining(advice)]);
});

it.each<[string[], LossKind]>([
  [[], 'cross-entropy'],
  [[], 'mse'],
  [['LogSoftmax'], 'cross-entropy'],
  [['LogSoftmax'], 'nll'],
  [[], 'bce-with-logits'],
  [['Sigmoid'], 'bce'],
  [['Softmax'], 'mse'],
  [['Relu'], 'nll'],
])('an output that ends in %s fits %s', async (ops, kind) => {
  expect(await warnings(ending(...ops), kind)).toEqual([]);
});

it('knows a softmax that is written out', async () => {
  const s = new Sketch();
  const scores = s.add('MatMul', [s.input('x', ['batch', 4]), s.weight('w', [4, 3])], 'scores');
  const exp = s.add('Exp', [scores], 'exp');
  const axes = s.weight('axes', Tensor.ints([1]));
  const model = s.model([s.add('Div', [exp, s.add('ReduceSum', [exp, axes], 'sum')], 'p')]);
  expect(await warnings(model, 'cross-entropy')).toEqual([expect.stringContaining('--output scores')]);
});

it('knows the scores of a classifier by what the model makes of them', async () => {
  const [warning] = await warnings(ending('Softmax'), 'mse', 'scores');
  expect(warning).toContain('class scores, to which the model applies Softmax');
  expect(await warnings(ending('Softmax'), 'kl', 'scores')).toEqual([]);
  const { warnings: found } = await gradients(
    ending('Softmax'),
    { loss: { kind: 'cross-entropy' } },
    Object.fromEntries(mlpData(4)),
  );
  expect(found).toEqual([expect.stringContaining('--output scores')]);
});

it('trains on an inner value, and evaluates on it, as the model without its end', async () => {
  const run = async (model: Model, output?: string) => {
    const { model: injected, report } = await inject(
      model,
      { loss: { kind: 'cross-entropy', output } },
      sessionShapes,
    );
    const t = await Trainer.create(injected);
    const data = bindData(mlpData(32), t.inputs);
    const losses: number[] = [];
    let metrics: unknown;
    for await (const event of trainingLoop(t, data, { epochs: 1, batchSize: 8, validation: data }))
      if (event.type === 'step') losses.push(event.loss);
      else if (event.type === 'epoch') metrics = event.validation;
    const { range } = t.inputs.find(input => input.name === 'target')!;
    await t.release();
    return { losses, metrics, range, outputs: report.description.outputs };
  };
  const inner = await run(ending('Softmax'), 'scores');
  const plain = await run(ending());
  expect(inner).toEqual({ ...plain, outputs: ['softmax'] });
  expect(inner.range).toMatchObject({ least: 0, most: 2 });
});

it('trains nothing of the loss itself: neither class weights nor bounds', async () => {
  const specs: LossSpec[] = [
    { kind: 'cross-entropy', classWeights: [1, 2, 0.5], labelSmoothing: 0.1, ignoreIndex: 2 },
    { kind: 'bce' },
  ];
  for (const loss of specs) {
    const model = ending('Softmax');
    const { report } = await inject(model, { loss }, sessionShapes);
    expect(report.parameters.map(p => p.value.name)).toEqual(['w']);
    const target = loss.kind === 'bce' ? Tensor.filled('float32', [4, 3], 0) : mlpData(4).get('target')!;
    const found = await gradients(model, { loss }, { x: mlpData(4).get('x')!, target });
    expect([...found.gradients.keys()]).toEqual(['w']);
  }
});

it('notes targets that are one-hot classes', () => {
  const x = Tensor.filled('float32', [2, 4], 0);
  const inputs = [
    { name: 'x', dtype: 'float32' as const, shape: ['batch', 4] },
    { name: 'target', dtype: 'float32' as const, shape: ['batch', 3] },
  ];
  const notes = (values: number[]) =>
    bindData(
      new Map([
        ['x', x],
        ['target', Tensor.from('float32', [2, 3], Float32Array.from(values))],
      ]),
      inputs,
      { labels: ['target'] },
    ).notes;
  expect(notes([0, 1, 0, 0, 0, 1])).toEqual([expect.stringContaining("'target' holds one-hot classes")]);
  expect(notes([0, 1, 1, 0, 0, 1])).toEqual([]);
  expect(notes([0, 0.5, 0.5, 0, 0, 1])).toEqual([]);
});
