/** Evaluating and predicting with plain models, injected ones and trainers. */
import { describe, expect, it } from 'vitest';
import type { Model } from '../../../src/graph/ir.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { inject } from '../../../src/passes/inject.js';
import { type Recipe, withRecipe } from '../../../src/passes/recipe/recipe.js';
import { bindData } from '../../../src/runtime/data/bind.js';
import { evaluate } from '../../../src/runtime/evaluate/evaluate-model.js';
import { predict, predictBatches } from '../../../src/runtime/evaluate/predict.js';
import { Session, sessionShapes } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { spread } from '../../ops/vjp.js';
import { mlp, mlpData, Sketch } from '../../sample.js';

const LOSS = { kind: 'cross-entropy' } as const;
const data = mlpData(10);
const x = new Map([['x', data.get('x')!]]);

async function scoresOf(model: Model): Promise<number[][]> {
  const session = await Session.create(model);
  const { logits } = await session.run({ x: data.get('x')! });
  await session.release();
  const values = logits!.numbers();
  return Array.from({ length: 10 }, (_, i) => values.slice(3 * i, 3 * i + 3));
}

const softmax = (scores: readonly number[]) => {
  const e = scores.map(Math.exp);
  const sum = e.reduce((a, b) => a + b, 0);
  return e.map(p => p / sum);
};

/** A model whose batch is fixed at 4. */
function fixed(): Model {
  const model = mlp();
  model.graph.inputs[0]!.type = { kind: 'tensor', dtype: 'float32', shape: [4, 4] };
  return model;
}

const trained = async () => {
  const { model } = await inject(mlp(), { loss: LOSS }, sessionShapes);
  const trainer = await Trainer.create(model);
  const batches = bindData(mlpData(64), trainer.inputs).batches({ batchSize: 16 });
  for await (const { inputs } of batches) await trainer.step(inputs, { lr: 0.1 });
  return trainer;
};

describe('evaluate', () => {
  it('of a plain model, its state and its trainer is the same', async () => {
    const trainer = await trained();
    const batches = bindData(data, trainer.inputs).batches({ batchSize: 4 });
    const wanted = await trainer.evaluate(batches, { metrics: ['accuracy', 'log-loss', 'auc'] });
    const options = { metrics: ['accuracy', 'log-loss', 'auc'], batchSize: 3 };
    const state = trainer.snapshot();
    const found = await evaluate(state, data, options);
    expect(found.loss).toBeCloseTo(wanted.loss, 5);
    expect(found.metrics['log-loss']).toBeCloseTo(wanted.loss, 5);
    expect(found).toMatchObject({ samples: 10, accuracy: wanted.accuracy });
    const { readOriginal } = await import('../../../src/passes/file/embed-original.js');
    const plain = await evaluate(readOriginal(state), Object.fromEntries(data), { ...options, loss: LOSS });
    expect(plain).toEqual(found);
    await trainer.release();
  });
  it('fills the last batch of a model with a fixed one', async () => {
    const free = await evaluate(mlp(), data, { loss: LOSS });
    const found = await evaluate(fixed(), data, { loss: LOSS });
    expect(found.samples).toBe(10);
    expect(found.loss).toBeCloseTo(free.loss, 5);
    expect(found.metrics).toEqual(free.metrics);
  });
  it('says what is missing', async () => {
    await expect(evaluate(mlp(), data)).rejects.toThrow('Choose a loss with --loss');
    await expect(evaluate(mlp(), x, { loss: LOSS })).rejects.toThrow("'target'");
    await expect(evaluate(mlp(), data, { loss: LOSS, metrics: ['r2'] })).rejects.toThrow('does not apply');
    await expect(evaluate(mlp(), data, { loss: LOSS, ema: true })).rejects.toThrow('average of the weights');
  });
});

describe('predict', () => {
  it('gives classes and probabilities, by the loss, whatever the batches', async () => {
    const scores = await scoresOf(mlp());
    const found = await predict(mlp(), x, { loss: LOSS, batchSize: 4 });
    expect(found).toMatchObject({ samples: 10, output: 'logits' });
    expect(found.classes!.numbers()).toEqual(scores.map(row => row.indexOf(Math.max(...row))));
    expect(found.probabilities!.dims).toEqual([10, 3]);
    const far = found.probabilities!.numbers().map((p, i) => p - scores.flatMap(softmax)[i]!);
    expect(Math.max(...far.map(Math.abs))).toBeLessThan(1e-6);
    const padded = await predict(fixed(), x, { loss: LOSS });
    expect(padded.probabilities!.dims).toEqual([10, 3]);
    expect(padded.classes!.numbers()).toEqual(found.classes!.numbers());
  });
  it('gives numbers where nothing says that they are scores, and what is asked for', async () => {
    const found = await predict(mlp(), x);
    expect(Object.keys(found)).toEqual(['samples', 'outputs', 'output']);
    expect(found.outputs.logits!.dims).toEqual([10, 3]);
    const two = await predict(mlp(), x, { outputs: ['logits', 'a'], activation: 'sigmoid' });
    expect(Object.keys(two.outputs)).toEqual(['logits', 'a']);
    expect(two.probabilities!.numbers()[0]).toBeCloseTo(
      1 / (1 + Math.exp(-two.outputs.logits!.numbers()[0]!)),
      6,
    );
    await expect(predict(mlp(), x, { outputs: ['nope'] })).rejects.toThrow("no output or inner value 'nope'");
    const none = await predict(mlp(), x, { loss: LOSS, activation: 'none' });
    expect(none.classes).toBeUndefined();
  });
  it('knows a Softmax and a Sigmoid at the end of the model', async () => {
    const ending = (op: string) => {
      const s = new Sketch();
      const y = s.add('MatMul', [s.input('x', ['batch', 4]), s.weight('w', [4, 3])], 'y');
      return s.model([s.add(op, [y], 'p')]);
    };
    const classes = await predict(ending('Softmax'), x);
    expect(classes.classes!.dims).toEqual([10]);
    expect(classes.probabilities!.numbers()).toEqual(classes.outputs.p!.numbers());
    const labels = await predict(ending('Sigmoid'), x);
    expect(labels.classes!.dims).toEqual([10, 3]);
    expect(labels.classes!.numbers()).toEqual(labels.outputs.p!.numbers().map(p => (p > 0.5 ? 1 : 0)));
    const logs = await predict(ending('LogSoftmax'), x);
    expect(logs.probabilities!.numbers()[0]).toBeCloseTo(Math.exp(logs.outputs.p!.numbers()[0]!), 6);
  });
  it('names the classes that the recipe of the model has', async () => {
    const names = ['ape', 'bear', 'cat'];
    const step = { step: 'class', names } as const;
    const recipe: Recipe = {
      version: 1,
      target: 'target',
      inputs: [
        {
          input: 'target',
          dtype: 'int64',
          dims: [],
          columns: [{ column: 'kind', kind: 'text', width: 1, steps: [{ ...step, names }] }],
        },
      ],
    };
    const found = await predict(withRecipe(mlp(), recipe), x);
    expect(found.classNames).toEqual(names);
    expect(found.classes!.dims).toEqual([10]);
  });
  it('gives the pixels of images in the shape of the output', async () => {
    const s = new Sketch();
    const image = s.input('image', ['batch', 1, 3, 3]);
    const model = s.model([s.add('Conv', [image, s.weight('w', [2, 1, 1, 1])], 'y')]);
    const images = new Map([['image', spread([5, 1, 3, 3])]]);
    const found = await predict(model, images, { loss: LOSS, batchSize: 2 });
    expect(found.classes!.dims).toEqual([5, 3, 3]);
    expect(found.probabilities!.dims).toEqual([5, 2, 3, 3]);
    const [p, y] = [found.probabilities!.numbers(), found.outputs.y!.numbers()];
    for (let i = 0; i < 9; i++) {
      expect(p[i]! + p[i + 9]!).toBeCloseTo(1, 6);
      expect(found.classes!.numbers()[i]).toBe(y[i]! >= y[i + 9]! ? 0 : 1);
    }
  });
  it('refuses an output without rows for the samples', async () => {
    const s = new Sketch();
    const y = s.add('MatMul', [s.input('x', ['batch', 4]), s.weight('w', [4, 3])], 'y');
    const model = s.model([s.add('ReduceMean', [y], 'mean', { keepdims: 0 })]);
    await expect(predict(model, x)).rejects.toThrow(
      "Output 'mean' [] does not have a row for each of the 10 samples",
    );
  });
  it('is the same by a trainer, with its parameters of the moment', async () => {
    const trainer = await trained();
    const dataset = bindData(
      x,
      trainer.inputs.filter(({ name }) => name === 'x'),
    );
    const parts: number[] = [];
    for await (const { classes, samples } of trainer.predict(dataset.batches({ batchSize: 4 }))) {
      expect(classes!.dims).toEqual([samples]);
      parts.push(...classes!.numbers());
    }
    const whole = await predict(trainer.snapshot(), x);
    expect(parts).toEqual(whole.classes!.numbers());
    await trainer.release();
  });
  it('comes batch by batch', async () => {
    const sizes: number[] = [];
    for await (const { samples } of predictBatches(mlp(), x, { batchSize: 4 })) sizes.push(samples);
    expect(sizes).toEqual([4, 4, 2]);
  });
});

it('rotary caches that all samples share, as PyTorch exports them, serve any batch', async () => {
  const s = new Sketch();
  const [cos, sin] = [1, 2].map(seed => s.weight(`t${seed}`, spread([1, 3, 2], [-1, 1], seed)));
  const input = s.input('x', ['batch', 2, 3, 4]);
  const model = s.model([s.add('RotaryEmbedding', [input, cos!, sin!], 'turned')], 23);
  const samples = spread([2, 2, 3, 4], [-1, 1], 3);
  const alone = await Session.create(model);
  const turned: number[] = [];
  for (const i of [0, 1]) {
    const x = Tensor.from(
      'float32',
      [1, 2, 3, 4],
      Float32Array.from(samples.numbers().slice(24 * i, 24 * i + 24)),
    );
    turned.push(...(await alone.run({ x })).turned!.numbers());
  }
  await alone.release();
  const { outputs } = await predict(model, new Map([['x', samples]]));
  const differences = outputs.turned!.numbers().map((y, i) => Math.abs(y - turned[i]!));
  expect(differences).toHaveLength(turned.length);
  expect(Math.max(...differences)).toBeLessThan(1e-6);
});
