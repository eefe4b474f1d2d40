/** Training and evaluation with sums of losses, and with losses between outputs of the model. */
import { describe, expect, it } from 'vitest';
import type { Model } from '../../src/graph/ir.js';
import { inject } from '../../src/passes/inject.js';
import { parseLoss } from '../../src/passes/options/parse-loss.js';
import { bindData } from '../../src/runtime/data/bind.js';
import { evaluate } from '../../src/runtime/evaluate/evaluate-model.js';
import { sessionShapes } from '../../src/runtime/session.js';
import { Trainer } from '../../src/runtime/train/trainer.js';
import { floatsOf, ints, spread } from '../ops/vjp.js';
import { Sketch } from '../sample.js';

const N = 10;

/** Tokens [batch, 3, 4] -> logits [batch, 3, 5] and a vector [batch, 3, 2] for each. */
function twoHeads(batch: string | number = 'batch'): Model {
  const s = new Sketch();
  const x = s.input('x', [batch, 3, 4]);
  return s.model([
    s.add('MatMul', [x, s.weight('w1', [4, 5])], 'logits'),
    s.add('MatMul', [x, s.weight('w2', [4, 2])], 'aux'),
  ]);
}

const labels = Array.from({ length: N * 3 }, (_, i) => (i * 7) % 5);
const maskValues = Array.from({ length: N * 3 }, (_, i) => (i % 3 === 0 || (i >> 1) % 2 ? 1 : 0));
const DATA = new Map([
  ['x', spread([N, 3, 4], [-1, 1], 3)],
  ['target', ints(labels, [N, 3])],
  ['aux_target', spread([N, 3, 2], [-1, 1], 5)],
  ['mask', ints(maskValues, [N, 3])],
]);
const SPEC = parseLoss('cross-entropy(logits, target, mask=mask) + 0.5*mse(aux, aux_target)');

/** The mean over the masked tokens, and over all numbers of the second output, in plain numbers. */
function expected(): number {
  const weights = new Map([...twoHeads().graph.initializers].map(([v, t]) => [v.name, t.numbers()]));
  const x = DATA.get('x')!.numbers();
  const product = (w: number[], width: number, row: number) =>
    Array.from({ length: width }, (_, j) =>
      [0, 1, 2, 3].reduce((sum, k) => sum + x[row * 4 + k]! * w[k * width + j]!, 0),
    );
  let [ce, weight, squares] = [0, 0, 0];
  const t = DATA.get('aux_target')!.numbers();
  for (let row = 0; row < N * 3; row++) {
    const logits = product(weights.get('w1')!, 5, row);
    const sum = Math.log(logits.reduce((a, l) => a + Math.exp(l), 0));
    ce += maskValues[row]! * (sum - logits[labels[row]!]!);
    weight += maskValues[row]!;
    product(weights.get('w2')!, 2, row).forEach((y, j) => {
      squares += (y - t[row * 2 + j]!) ** 2;
    });
  }
  return ce / weight + (0.5 * squares) / (N * 6);
}

describe('a sum of losses', () => {
  it.each([3, 4, N])('is evaluated as over one batch, in batches of %i', async batchSize => {
    const found = await evaluate(twoHeads(), DATA, { loss: SPEC, batchSize });
    expect(found.loss).toBeCloseTo(expected(), 5);
    expect(found.metrics.accuracy).toBeDefined();
  });
  it('is so where a fixed batch is filled up', async () => {
    const found = await evaluate(twoHeads(4), DATA, { loss: SPEC });
    expect(found.loss).toBeCloseTo(expected(), 5);
    expect(found.samples).toBe(N);
  });
  it('trains, and an injected model is validated with it', async () => {
    const { model } = await inject(
      twoHeads(),
      { loss: SPEC, optimizer: { name: 'sgd', lr: 0.5 } },
      sessionShapes,
    );
    const trainer = await Trainer.create(model);
    expect(trainer.inputs.map(i => i.name).sort()).toEqual(['aux_target', 'mask', 'target', 'x']);
    const dataset = bindData(DATA, trainer.inputs, { labels: ['target'] });
    const before = await trainer.evaluate(dataset.batches({ batchSize: 3 }));
    expect(before.loss).toBeCloseTo(expected(), 5);
    const { loss } = await trainer.step(Object.fromEntries(DATA));
    expect(loss).toBeCloseTo(expected(), 5);
    const after = await trainer.evaluate(dataset.batches({ batchSize: 3 }));
    expect(after.loss).toBeLessThan(before.loss);
    await trainer.release();
  });
});

describe('a contrastive loss', () => {
  const pairs = (batch: string | number) => {
    const s = new Sketch();
    const [a, b] = [s.input('a', [batch, 4]), s.input('b', [batch, 4])];
    return s.model([
      s.add('MatMul', [a, s.weight('wa', [4, 3])], 'image'),
      s.add('MatMul', [b, s.weight('wb', [4, 3])], 'text'),
    ]);
  };
  const data = new Map([
    ['a', spread([N, 4], [-1, 1], 3)],
    ['b', spread([N, 4], [-1, 1], 4)],
  ]);
  it('needs no target, and trains', async () => {
    const loss = parseLoss('contrastive(image, text)');
    const { model } = await inject(
      pairs('batch'),
      { loss, optimizer: { name: 'sgd', lr: 0.05 } },
      sessionShapes,
    );
    const trainer = await Trainer.create(model);
    const losses: number[] = [];
    for (let i = 0; i < 20; i++) losses.push((await trainer.step(Object.fromEntries(data))).loss);
    expect(losses.at(-1)).toBeLessThan(losses[0]!);
    const dataset = bindData(data, trainer.inputs, {});
    const { samples, metrics } = await trainer.evaluate(dataset.batches({ batchSize: N }));
    expect([samples, metrics]).toEqual([N, {}]);
    await trainer.release();
  });
  it('leaves out samples that do not fill a fixed batch, as others would count as their negatives', async () => {
    const found = await evaluate(pairs(4), data, { loss: parseLoss('contrastive(image, text)') });
    expect([found.samples, found.leftOut]).toEqual([8, 2]);
  });
});

it('a target may be an output of the model, and a target of two losses is one input', async () => {
  const loss = parseLoss('mse(aux, other) + cross-entropy(logits, y) + 2*focal(logits, y)');
  const s = new Sketch();
  const x = s.input('x', ['batch', 4]);
  const y = s.add('MatMul', [x, s.weight('w', [4, 3])], 'logits');
  const model = s.model([y, s.add('Tanh', [y], 'aux'), s.add('Sigmoid', [y], 'other')]);
  const { model: injected } = await inject(model, { loss }, sessionShapes);
  expect(
    injected.graph.inputs.map(v => v.name).filter(n => ['x', 'y', 'other', 'target'].includes(n)),
  ).toEqual(['x', 'y']);
  const step = await Trainer.create(injected);
  await step.step({ x: floatsOf([1, 2, 3, 4], [1, 4]), y: ints([2]) });
  await step.release();
});

it.each([
  ['cross-entropy(logits', "expected ',' or ')' at position 21, found the end."],
  ['0.5 mse(a)', "expected '*' at position 5"],
  ['mse(a, b) mse(c)', "expected '+' or the end at position 11"],
  ['mze(a, b)', "Unknown loss 'mze'; did you mean 'mse'?"],
  ['mse(a, b, margin=1)', "Unknown option of mse 'margin'"],
  ['mse(a, b, c)', 'mse takes an output and a target, not 3 names: a, b, c.'],
  ['kl(a, b, T=0)', '--loss: T of kl must be a number above 0, not 0.'],
])('%s cannot be read', (text, message) => {
  expect(() => parseLoss(text)).toThrow(message);
});
