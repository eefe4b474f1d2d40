/** Adapted models train: a new head alone as in PyTorch, layer by layer, at rates that fall with depth. */
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { loadModel } from '../../../src/graph/files.js';
import type { Model } from '../../../src/graph/ir.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { adapt, type Feeds, inject, inspect } from '../../../src/index.js';
import { withValues } from '../../../src/passes/normalize/with-values.js';
import type { InjectOptions } from '../../../src/passes/options.js';
import { groupLayers } from '../../../src/passes/select/group-layers.js';
import { readSafetensors } from '../../../src/runtime/data/safetensors.js';
import { gradients } from '../../../src/runtime/gradients.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { spread } from '../../ops/vjp.js';
import { mlp } from '../../sample.js';

const LOSS = { kind: 'cross-entropy' } as const;
const CASES = ['resnet', 'squeezenet', 'bert'].flatMap(name => [
  [name, 'legacy'] as const,
  [name, 'dynamo'] as const,
]);
const load = (name: string, exporter: string) =>
  loadModel(join(import.meta.dirname, `${name}-${exporter}.onnx`));

const HEADS = new Map([
  ['resnet', 'fc'],
  ['squeezenet', 'classifier.1'],
  ['bert', 'net.classifier'],
]);

describe('a head on a frozen backbone has the gradients of PyTorch', () => {
  it.each(CASES)('%s as the %s exporter writes it', async (name, exporter) => {
    const { tensors } = await readSafetensors(join(import.meta.dirname, `${name}.safetensors`));
    const { model, report } = await adapt(await load(name, exporter), { classes: 5 });
    const head = HEADS.get(name)!;
    const [weight, bias] = [`${head}.weight`, `${head}.bias`];
    expect(report.parameters).toEqual([weight, bias]);
    const values = new Map([
      [weight, tensors.get('weight')!],
      [bias, tensors.get('bias')!],
    ]);
    const ready = withValues(model, values);
    const inputs = ready.graph.inputs.map(v => [v.name, tensors.get(v.name)!] as const);
    const feeds: Feeds = { ...Object.fromEntries(inputs), target: tensors.get('target')! };
    const options = { loss: LOSS, freeze: ['backbone'], batchNorm: 'eval', dropout: 'eval' } as const;
    for (const frozen of [ready, withoutRecord(ready)]) {
      const found = await gradients(frozen, options, feeds);
      expect(found.loss).toBeCloseTo(tensors.get('loss')!.numbers()[0]!, 5);
      expect([...found.gradients.keys()]).toEqual([weight, bias]);
      for (const [name, part] of [
        [weight, 'weight'],
        [bias, 'bias'],
      ] as const) {
        const [ours, theirs] = [found.gradients.get(name)!.numbers(), tensors.get(`${part}_grad`)!.numbers()];
        const scale = Math.max(...theirs.map(Math.abs));
        expect(Math.max(...ours.map((x, i) => Math.abs(x - theirs[i]!)))).toBeLessThan(2e-5 * scale);
      }
    }
  });
});

/** Without the names of the head, which is then found as `adapt` finds it. */
function withoutRecord(model: Model): Model {
  const metadata = new Map([...model.metadata].filter(([key]) => key !== 'agd.head'));
  return Object.assign(Object.create(Object.getPrototypeOf(model)), model, { metadata });
}

/** Trains for so many steps on one batch; the state by name after each step, and the trainer. */
async function trained(model: Model, options: InjectOptions, feeds: Feeds, steps: number) {
  const { model: injected } = await inject(model, options);
  const trainer = await Trainer.create(injected);
  const states = [stateOf(trainer)];
  const losses: number[] = [];
  for (let i = 0; i < steps; i++) {
    losses.push((await trainer.step(feeds)).loss);
    states.push(stateOf(trainer));
  }
  return { trainer, losses, states };
}

const stateOf = (trainer: Trainer) =>
  new Map([...trainer.snapshot().graph.initializers].map(([v, tensor]) => [v.name, tensor.numbers()]));

const batch = { x: spread([16, 4], [-1, 1], 5), target: labels(16, 3) };

function labels(count: number, classes: number): Tensor {
  return Tensor.from(
    'int64',
    [count],
    BigInt64Array.from({ length: count }, (_, i) => BigInt(i % classes)),
  );
}

describe('adapted models learn other classes', () => {
  it.each(['legacy', 'dynamo'])('images, by a residual network of the %s exporter', async exporter => {
    const { model } = await adapt(await load('resnet', exporter), { classes: 3, headMlp: [12] });
    // Where a bright stripe lies: left, in the middle, right.
    const image = new Float32Array(48 * 64);
    const noise = spread([48, 64], [-0.3, 0.3], 9).numbers();
    for (let n = 0; n < 48; n++)
      for (let p = 0; p < 64; p++)
        image[64 * n + p] = noise[64 * n + p]! + (Math.floor((p % 8) / 3) === n % 3 ? 1 : 0);
    const feeds = { image: Tensor.from('float32', [48, 1, 8, 8], image), target: labels(48, 3) };
    const options: InjectOptions = { loss: LOSS, optimizer: { name: 'agd', lr: 5e-3 }, layerDecay: 0.9 };
    const { trainer, losses } = await trained(model, options, feeds, 60);
    const { accuracy } = await evaluated(trainer, feeds);
    await trainer.release();
    expect(losses[0]!).toBeGreaterThan(0.8);
    expect(accuracy).toBeGreaterThan(0.95);
  });

  it.each(['legacy', 'dynamo'])('texts, by a BERT of the %s exporter', async exporter => {
    const { model } = await adapt(await load('bert', exporter), { classes: 2 });
    // Whether the token 7 is in the text.
    const ids = Array.from({ length: 32 * 6 }, (_, i) => {
      const [row, at] = [Math.floor(i / 6), i % 6];
      return row % 2 && at === 1 + ((row * 3) % 5) ? 7 : 10 + ((row * 7 + at * 5) % 25);
    });
    const feeds = {
      input_ids: Tensor.from('int64', [32, 6], BigInt64Array.from(ids, BigInt)),
      attention_mask: Tensor.filled('int64', [32, 6], 1),
      target: labels(32, 2),
    };
    const options: InjectOptions = { loss: LOSS, optimizer: { name: 'agd', lr: 5e-3 } };
    const { trainer, losses } = await trained(model, options, feeds, 60);
    const { accuracy } = await evaluated(trainer, feeds);
    await trainer.release();
    expect(losses[0]!).toBeGreaterThan(0.5);
    expect(accuracy).toBeGreaterThan(0.95);
  });
});

async function evaluated(trainer: Trainer, feeds: Feeds): Promise<{ accuracy: number }> {
  const [size] = feeds.target!.dims as [number];
  const { accuracy } = await trainer.evaluate([{ inputs: feeds, size }]);
  return { accuracy: accuracy! };
}

describe('layers begin to train one after the other', () => {
  const PARAMETERS = ['fc1.weight', 'fc1.bias', 'fc2.weight', 'fc2.bias'];
  const OPTIMIZERS: InjectOptions[] = [
    { optimizer: { name: 'agd', lr: 1e-2, weightDecay: 0.1 } },
    { optimizer: { name: 'adamw', lr: 1e-2, weightDecay: 0.1 }, clipGradNorm: 0.05 },
    { optimizer: { name: 'sgd', lr: 1e-2, weightDecay: 0.1, momentum: 0.9 }, tile: false },
  ];

  it.each(OPTIMIZERS)('%j', async given => {
    const options: InjectOptions = { loss: LOSS, ...given };
    const gradual = await trained(mlp(), { ...options, unfreezeEvery: { updates: 3 } }, batch, 5);
    const frozen = await trained(mlp(), { ...options, freeze: ['fc1.*'] }, batch, 3);
    const [first, third] = [gradual.states[0]!, gradual.states[3]!];
    for (const [name, values] of first)
      if (name.startsWith('fc1.')) expect([name, third.get(name)]).toEqual([name, values]);
    for (const name of ['fc2.weight', 'fc2.bias'])
      expect(third.get(name)).toEqual(frozen.states[3]!.get(name));
    // From then on as an optimizer that begins.
    const weights = new Map(
      [...gradual.trainer.snapshot().graph.initializers].flatMap(([v, { dtype, dims }]) =>
        PARAMETERS.includes(v.name)
          ? [[v.name, Tensor.ofNumbers(dtype as 'float32', dims, third.get(v.name)!)]]
          : [],
      ),
    );
    const fresh = await trained(
      withValues(mlp(), weights as never),
      { ...options, clipGradNorm: undefined },
      batch,
      1,
    );
    if (options.clipGradNorm === undefined)
      for (const name of ['fc1.weight', 'fc1.bias'])
        expect(gradual.states[4]!.get(name)).toEqual(fresh.states[1]!.get(name));
    expect(gradual.states[4]!.get('fc1.weight')).not.toEqual(third.get('fc1.weight'));
    for (const { trainer } of [gradual, frozen, fresh]) await trainer.release();
  });

  it('with the same numbers where gradients are added up over batches', async () => {
    const options: InjectOptions = { loss: LOSS, unfreezeEvery: { updates: 1 }, accumulate: 2 };
    const { states, trainer } = await trained(mlp(), options, batch, 4);
    await trainer.release();
    expect(states[3]!.get('fc1.weight')).toEqual(states[0]!.get('fc1.weight'));
    expect(states[2]!.get('fc2.weight')).not.toEqual(states[0]!.get('fc2.weight'));
    expect(states[4]!.get('fc1.weight')).not.toEqual(states[0]!.get('fc1.weight'));
  });

  it('as steps say that PyTorch counts, and goes on from these', async () => {
    const options: InjectOptions = { loss: LOSS, unfreezeEvery: { updates: 3 } };
    const { model } = await inject(mlp(), options);
    const [one, other] = [await Trainer.create(model), await Trainer.create(model)];
    for (let i = 0; i < 5; i++) await one.step(batch);
    const saved = one.checkpoint();
    expect(saved.get('fc1.weight.step')!.numbers()).toEqual([2]);
    expect(saved.get('fc2.weight.step')!.numbers()).toEqual([5]);
    other.restore(saved);
    await Promise.all([one.step(batch), other.step(batch)]);
    const [a, b] = [stateOf(one), stateOf(other)];
    expect(b.get('step')).toEqual([6]);
    for (const name of PARAMETERS)
      for (const [i, value] of a.get(name)!.entries()) expect(b.get(name)![i]).toBeCloseTo(value, 6);
    await one.release();
    await other.release();
  });

  it('in updates, where no data say how long an epoch is', () =>
    expect(inject(mlp(), { loss: LOSS, unfreezeEvery: { epochs: 1 } })).rejects.toThrow(
      'Epochs of --unfreeze-every have a length only where there are data',
    ));
});

it('rates fall with the distance from the head, those of groups too', async () => {
  const sgd = { loss: LOSS, optimizer: { name: 'sgd', lr: 0.5 } } as const;
  const groups = [{ match: 'fc1.bias', options: { lr: 0.25 } }];
  const [plain, decayed] = [
    await trained(mlp(), sgd, batch, 1),
    await trained(mlp(), { ...sgd, layerDecay: 0.5, groups }, batch, 1),
  ];
  const moved = ({ states: [before, after] }: typeof plain, name: string) =>
    after!.get(name)!.map((x, i) => x - before!.get(name)![i]!);
  for (const [name, factor] of Object.entries({
    'fc2.weight': 1,
    'fc2.bias': 1,
    'fc1.weight': 0.5,
    'fc1.bias': 0.25,
  })) {
    const [all, own] = [moved(plain, name), moved(decayed, name)];
    for (const [i, x] of all.entries()) expect(own[i]).toBeCloseTo(x * factor, 6);
  }
  await plain.trainer.release();
  await decayed.trainer.release();
});

describe('what trains', () => {
  const trains = async (model: Model, options: Parameters<typeof inspect>[1]) =>
    (await inspect(model, options)).parameters.filter(p => p.trains).map(p => p.name);

  it.each([
    [{ freeze: ['*'], train: ['fc2.*'] }, ['fc2.weight', 'fc2.bias']],
    [{ freeze: ['fc2.weight'], train: ['fc2.*'] }, ['fc1.weight', 'fc1.bias', 'fc2.bias']],
    [{ freeze: ['*.bias'], train: ['fc1.*'] }, ['fc1.weight', 'fc2.weight']],
    [{ freeze: ['fc?.bias'], train: ['*.bias'] }, ['fc1.weight', 'fc2.weight']],
    [{ freeze: ['backbone'] }, ['fc2.weight', 'fc2.bias']],
    [{ freeze: ['backbone', 'fc2.bias'], train: ['fc1.bias'] }, ['fc1.bias', 'fc2.weight']],
    [{ unfreezeLast: 1 }, ['fc2.weight', 'fc2.bias']],
    [{ unfreezeLast: 2, freeze: ['*.bias'] }, ['fc1.weight', 'fc2.weight']],
  ])('with %j', async (options, expected) => expect(await trains(mlp(), options)).toEqual(expected));

  it('with hidden layers of a new head', async () => {
    const { model } = await adapt(mlp(), { classes: 2, headMlp: [4] });
    expect(await trains(model, { freeze: ['backbone'] })).toEqual([
      ...['fc2.weight', 'fc2.bias', 'fc2.hidden.0.weight', 'fc2.hidden.0.bias'],
    ]);
  });

  it('is no more than there is', () =>
    expect(inject(mlp(), { loss: LOSS, unfreezeLast: 3 })).rejects.toThrow(
      '--unfreeze-last 3: the model has 2 layers that train: fc1, fc2.',
    ));
});

describe('layers are', () => {
  const layers = async (model: Model) => {
    const { initializers } = model.graph;
    const { parameters } = await inspect(model);
    const names = new Set(parameters.filter(p => p.trains).map(p => p.name));
    return groupLayers(
      model.graph,
      [...initializers.keys()].filter(v => names.has(v.name)),
    );
  };

  it.each(['legacy', 'dynamo'])('stem, blocks and head of a residual network: %s', async exporter => {
    const found = await layers(await load('resnet', exporter));
    expect(found.map(l => l.name)).toEqual(['conv1', 'layer1.0', 'layer1.1', 'fc']);
    expect(found.map(l => l.parameters.length)).toEqual([2, 6, 6, 2]);
  });

  it.each(['legacy', 'dynamo'])('embeddings, blocks, pooler and head of BERT: %s', async exporter => {
    const found = await layers(await load('bert', exporter));
    expect(found.map(l => l.name)).toEqual([
      'embeddings',
      ...['net.bert.encoder.layer.0', 'net.bert.encoder.layer.1', 'net.bert.pooler.dense', 'net.classifier'],
    ]);
    expect(found.map(l => l.parameters.length)).toEqual([5, 16, 16, 2, 2]);
  });
});
