/** What validation tells: means over all samples and targets, whatever the batches. */
import { expect, it } from 'vitest';
import { type Model, type Shape, Value } from '../../../src/graph/ir.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { inject } from '../../../src/passes/inject.js';
import type { LossSpec } from '../../../src/passes/options.js';
import { bindData } from '../../../src/runtime/data/bind.js';
import { evaluate } from '../../../src/runtime/evaluate/evaluate-model.js';
import { gradients } from '../../../src/runtime/gradients.js';
import { sessionShapes } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { trainingLoop } from '../../../src/runtime/train/training-loop.js';
import { spread } from '../../ops/vjp.js';
import { mlpData, Sketch } from '../../sample.js';

/** x[batch,4] -> logits[batch,3], or with a batch axis of this extent. */
function linear(batch: number | string = 'batch', shape: Shape = [batch, 4]): Model {
  const s = new Sketch();
  const x = s.input('x', shape);
  return s.model([s.add('MatMul', [x, s.weight('w', [4, 3])], 'logits')]);
}

const made = async (model: Model, loss: LossSpec) =>
  Trainer.create((await inject(model, { loss }, sessionShapes)).model);

const arrays = (count: number, labels?: readonly number[]) => {
  const data = mlpData(count);
  if (labels) data.set('target', Tensor.ints(labels));
  return data;
};

/** Loss of all samples as one batch, and the metrics of batches of 4. */
async function both(loss: LossSpec, data: Map<string, Tensor>, batch: number | string = 'batch') {
  const whole = await gradients(linear(), { loss }, Object.fromEntries(data));
  const t = await made(linear(batch), loss);
  const batches = bindData(data, t.inputs).batches({ batchSize: 4, pad: true });
  const metrics = await t.evaluate(batches);
  await t.release();
  return { loss: whole.loss!, metrics };
}

it('counts every sample of a model with a fixed batch once', async () => {
  const { loss, metrics } = await both({ kind: 'cross-entropy' }, arrays(10), 4);
  const { metrics: free } = await both({ kind: 'cross-entropy' }, arrays(10));
  expect(metrics.samples).toBe(10);
  expect(metrics.loss).toBeCloseTo(loss, 6);
  expect(metrics.accuracy).toBe(free.accuracy);
});

it.each<LossSpec>([{ kind: 'mse' }, { kind: 'l1' }, { kind: 'huber' }, { kind: 'bce-with-logits' }])(
  'is the mean over all samples of $kind too',
  async spec => {
    const data = arrays(10).set('target', spread([10, 3], [0, 1], 5));
    const { loss, metrics } = await both(spec, data, 4);
    const { metrics: free } = await both(spec, data);
    const names = spec.kind === 'bce-with-logits' ? ['mae'] : ['mae', 'rmse', 'r2'];
    expect(Object.keys(metrics.metrics)).toEqual(names);
    const close = Object.entries(free.metrics).map(([name, x]) => [name, expect.closeTo(x, 6)]);
    expect(metrics).toEqual({
      samples: 10,
      loss: expect.closeTo(loss, 6),
      metrics: Object.fromEntries(close),
    });
  },
);

it('weighs targets, not batches, where some are ignored or classes weigh differently', async () => {
  const labels = [0, 9, 9, 9, 1, 2, 0, 1, 9, 9];
  const spec: LossSpec = {
    kind: 'cross-entropy',
    ignoreIndex: 9,
    classWeights: [1, 5, 0.5],
    labelSmoothing: 0.1,
  };
  for (const batch of ['batch', 4]) {
    const { loss, metrics } = await both(spec, arrays(10, labels), batch);
    expect(metrics.loss).toBeCloseTo(loss, 6);
  }
});

it('ignores the class that an injected model does, when the loss is named again', async () => {
  const labels = [0, -100, 2, 1];
  const data = arrays(4, labels);
  const { model } = await inject(
    linear(),
    { loss: { kind: 'cross-entropy', ignoreIndex: -100 } },
    sessionShapes,
  );
  const { loss } = await evaluate(model, data);
  expect((await evaluate(model, data, { loss: { kind: 'cross-entropy' } })).loss).toBe(loss);
  await expect(evaluate(model, data, { loss: { kind: 'cross-entropy', ignoreIndex: 9 } })).rejects.toThrow(
    '-100',
  );
});

it('is a number where all targets of a batch are ignored, and an error where all are', async () => {
  const spec: LossSpec = { kind: 'cross-entropy', ignoreIndex: -100 };
  const labels = [0, 1, 2, 1, -100, -100, -100, -100];
  const { loss, metrics } = await both(spec, arrays(8, labels));
  expect(metrics.loss).toBeCloseTo(loss, 6);
  const none = arrays(4, [-100, -100, -100, -100]);
  await expect(both(spec, none)).rejects.toThrow(
    "All targets in array 'target' are -100, which the loss ignores",
  );
  const t = await made(linear(), spec);
  const { x, target } = Object.fromEntries(none) as { x: Tensor; target: Tensor };
  const evaluation = t.evaluate([{ inputs: { x, target }, size: 4 }]);
  await expect(evaluation).rejects.toThrow('nothing to evaluate: all targets are -100, which is ignored');
  await expect(t.step({ x, target })).rejects.toThrow('all targets of the batch are -100, which is ignored');
  await t.release();
});

it('says how many samples it left out where the model itself computes the loss', async () => {
  const s = new Sketch();
  const y = s.add('Mul', [s.input('x', [4, 2]), s.weight('w', [2])], 'y');
  const model = s.model([s.add('ReduceMean', [y], 'mean', { keepdims: 0 })]);
  const t = await made(model, { kind: 'output', output: 'mean' });
  const data = bindData(new Map([['x', spread([10, 2], [-1, 1], 1)]]), t.inputs);
  expect(await t.evaluate(data.batches({ pad: true }))).toMatchObject({ samples: 8, leftOut: 2 });
  const few = bindData(new Map([['x', spread([3, 2], [-1, 1], 1)]]), t.inputs);
  await expect(t.evaluate(few.batches({ pad: true }))).rejects.toThrow('the 3 samples do not fill a batch');
  await expect(t.evaluate([])).rejects.toThrow('there are no batches');
  await t.release();
});

it('refuses a run without a single step', async () => {
  const t = await made(linear(64), { kind: 'cross-entropy' });
  const loop = (trainer: Trainer, count: number, epochs = 1) =>
    trainingLoop(trainer, bindData(arrays(count), trainer.inputs), { epochs, batchSize: 64 }).next();
  await expect(loop(t, 5)).rejects.toThrow(
    'The data has 5 samples, fewer than one batch of 64 that the model takes.',
  );
  await t.release();
  const options = { loss: { kind: 'cross-entropy' }, accumulate: 4 } as const;
  const accumulating = await Trainer.create((await inject(linear(), options, sessionShapes)).model);
  await expect(loop(accumulating, 65)).rejects.toThrow('An update takes 4 batches, but the run has only 2');
  await loop(accumulating, 65, 2);
  await accumulating.release();
});

it('takes no input that a step does not take: a size that the kernel of attention reads, but not its gradient', async () => {
  const s = new Sketch();
  const mask = s.input('mask', ['batch', 'time'], 'int64');
  const last = s.input('last', ['batch'], 'int32');
  const total = s.add('Cast', [s.add('Gather', [s.add('Shape', [mask], 'dims'), at(1)], 'time')], 'total', {
    to: 6,
  });
  const x = s.input('x', ['batch', 'time', 8]);
  const [q, k, v] = ['q', 'k', 'v'].map(name => s.add('MatMul', [x, s.weight(`w${name}`, [8, 16])], name));
  const attended = s.add('GroupQueryAttention', [q!, k!, v!, null, null, last, total], 'attended', {
    num_heads: 2,
    kv_num_heads: 2,
  });
  const node = s.graph.nodes.at(-1)!;
  node.domain = 'com.microsoft';
  node.outputs = [...node.outputs, new Value('present_k'), new Value('present_v')];
  const model = s.model([s.add('MatMul', [attended, s.weight('u', [16, 3])], 'y')]);
  model.opsetImports.set('com.microsoft', 1);
  const t = await made(model, { kind: 'mse' });
  expect(t.inputs.map(i => i.name)).toEqual(['last', 'x', 'target']);
  const lengths = Tensor.from('int32', [2], Int32Array.of(4, 2));
  const inputs = { last: lengths, x: spread([2, 5, 8]), target: spread([2, 5, 3]) };
  const { loss } = await t.step(inputs, { lr: 0 });
  expect((await t.evaluate([{ inputs, size: 2 }])).loss).toBeCloseTo(loss, 5);
  await t.release();
  function at(i: number) {
    return s.weight(`at${i}`, Tensor.from('int64', [], BigInt64Array.of(BigInt(i))));
  }
});
