import { expect, it } from 'vitest';
import type { Model } from '../../../src/graph/ir.js';
import { decodeModel, encodeModel } from '../../../src/graph/proto/codec.js';
import type { Tensor } from '../../../src/graph/tensor.js';
import { inject } from '../../../src/passes/inject.js';
import type { InjectOptions } from '../../../src/passes/options.js';
import { splitStep } from '../../../src/passes/run/split-step.js';
import { stateInputs } from '../../../src/passes/run/state-inputs.js';
import { type Feeds, Session, sessionShapes } from '../../../src/runtime/session.js';
import { spread } from '../../ops/vjp.js';
import { mlp, mlpData, Sketch } from '../../sample.js';

/** x[batch,4] -> batch normalization and dropout -> logits[batch,3]. */
function normalized(): Model {
  const s = new Sketch();
  const x = s.input('x', ['batch', 4]);
  const h = s.add('Gemm', [x, s.weight('fc1.weight', [4, 8]), s.weight('fc1.bias', [8])], 'h');
  const [one, zero] = [1, 0].map(n => spread([8], [n, n + 0.5], 3));
  const stats = ['scale', 'bias', 'mean', 'var'].map((name, i) =>
    s.weight(`bn.${name}`, i % 2 ? zero! : one!),
  );
  const y = s.add('BatchNormalization', [h, ...stats], 'y');
  const d = s.add('Dropout', [s.add('Relu', [y], 'r')], 'd');
  return s.model([s.add('Gemm', [d, s.weight('fc2.weight', [8, 3]), s.weight('fc2.bias', [3])], 'logits')]);
}

/** Products whose gradients are products: what a runtime might fuse with the sum that follows. */
function products(): Model {
  const s = new Sketch();
  const h = s.add('MatMul', [s.input('x', ['batch', 4]), s.weight('fc1.weight', [4, 8])], 'h');
  const active = s.add('Tanh', [h], 'a');
  return s.model([s.add('MatMul', [active, s.weight('fc2.weight', [8, 3])], 'logits')]);
}

const LOSS = { kind: 'cross-entropy' } as const;

/** Sessions of the halves, and the state in which they begin. */
async function halves(model: Model) {
  const { gradients, update, state } = await splitStep(model, sessionShapes);
  const open = (half: Model) => Session.create(decodeModel(encodeModel(half)));
  const [first, second, begin] = await Promise.all([gradients, update, state].map(open));
  const bound = [gradients, update].map(h => JSON.parse(h.metadata.get('agd.updates')!) as object);
  return { first: first!, second: second!, begin: await begin!.run({}), bound };
}

const bits = (state: Feeds) =>
  Object.fromEntries(Object.entries(state).map(([name, t]) => [name, Buffer.from(t.bytes).toString('hex')]));

it.each<[string, Model, InjectOptions]>([
  ['plain', mlp(), {}],
  ['with decay added to the gradient', mlp(), { optimizer: { weightDecay: 0.1, weightDecouple: false } }],
  [
    'accumulating products',
    products(),
    { accumulate: 2, optimizer: { weightDecay: 0.1, weightDecouple: false } },
  ],
  ['products with decay', products(), { optimizer: { weightDecay: 0.1, weightDecouple: false } }],
  ['accumulating', mlp(), { accumulate: 2, clipGradNorm: 0.1 }],
  ['normalized by batch', normalized(), { seed: 3 }],
  [
    'with everything around the update',
    normalized(),
    {
      accumulate: 2,
      onNonfinite: 'skip',
      ema: 0.9,
      clipGradValue: 0.05,
      seed: 3,
      optimizer: { amsgrad: true, win: true },
    },
  ],
  [
    'with a schedule, groups, telemetry and what rounding leaves',
    normalized(),
    {
      schedule: { kind: 'cosine', total: 5, warmup: 1 },
      groups: [{ match: ['fc2.*'], options: { lr: 0.1, weightDecay: 0.1 } }],
      decayBiasNorm: false,
      telemetry: 2,
      compensate: true,
    },
  ],
  ['with scalars in float32, and tiles', mlp(), { scalars: 'float32', tile: true, batchNorm: 'eval' }],
  ['that computes activations again', products(), { checkpointActivations: 2, clipGradNorm: 0.1 }],
  ['of second order', mlp(), { optimizer: { name: 'adahessian' }, clipGradNorm: 0.1 }],
  [
    'of second order, with everything around the update',
    normalized(),
    {
      accumulate: 2,
      onNonfinite: 'skip',
      ema: 0.9,
      seed: 3,
      optimizer: { name: 'adahessian', weightDecay: 0.1, hessianPower: 0.5 },
    },
  ],
])('halves of the file, in sequence, give bit for bit what the step does: %s', async (_, source, options) => {
  const { model } = await inject(source, { loss: LOSS, ...options }, sessionShapes);
  const updates = model.trainingInfo.flatMap(i => i.updates);
  const joint = await Session.create(stateInputs(model, updates));
  const { first, second, begin, bound } = await halves(decodeModel(encodeModel(model)));
  const all = Object.assign({}, ...bound);
  expect(bound.flatMap(half => Object.keys(half))).toHaveLength(updates.length);
  expect(all).toEqual(Object.fromEntries(updates.map(u => [u.state, u.value])));
  const { lr, ...states } = begin;
  expect(Object.keys(states).sort()).toEqual(Object.keys(all).sort());
  let [whole, split] = [states, states];
  for (let step = 0; step < 5; step++) {
    const batch = Object.fromEntries(mlpData(16, 10 + step));
    const pick = (session: Session, ...sources: Feeds[]) => {
      const given = Object.assign({ lr }, ...sources);
      return Object.fromEntries(session.inputs.map(name => [name, given[name] as Tensor]));
    };
    const results = await joint.run(pick(joint, batch, whole));
    const one = await first.run(pick(first, batch, split));
    const two = { ...one, ...(await second.run(pick(second, one, split))) };
    expect(bits({ loss: one.loss! })).toEqual(bits({ loss: results.loss! }));
    whole = Object.fromEntries(updates.map(u => [u.state, results[u.value]!]));
    split = Object.fromEntries(updates.map(u => [u.state, two[u.value]!]));
    expect(bits(split)).toEqual(bits(whole));
  }
  expect(bits(split)).not.toEqual(bits(states));
});

it('asks a half for nothing that it does not need', async () => {
  const { model } = await inject(normalized(), { loss: LOSS }, sessionShapes);
  const { gradients, update } = await splitStep(model, sessionShapes);
  const params = ['fc1.weight', 'fc1.bias', 'bn.scale', 'bn.bias', 'fc2.weight', 'fc2.bias'];
  const grads = params.map(p => `${p}_grad`);
  const given = (m: Model) => m.graph.inputs.map(v => v.name);
  expect(given(gradients).sort()).toEqual(['x', 'target', 'step', 'bn.mean', 'bn.var', ...params].sort());
  expect(gradients.graph.outputs.map(v => v.name)).toEqual(expect.arrayContaining(['loss', ...grads]));
  expect(given(update)).not.toContain('x');
  expect(given(update)).toEqual(expect.arrayContaining([...grads, 'lr', 'step']));
  expect(JSON.parse(gradients.metadata.get('agd.updates')!)).toEqual({
    'bn.mean': 'bn.mean_new',
    'bn.var': 'bn.var_new',
  });
  expect(update.graph.nodes.some(n => n.opType === 'Gemm')).toBe(false);
});

it('hands products of the Hessian over as it does gradients', async () => {
  const options = { loss: LOSS, optimizer: { name: 'adahessian' } } as const;
  const { model, report } = await inject(mlp(), options, sessionShapes);
  const { parameters } = report.description;
  const { gradients, update } = await splitStep(model, sessionShapes);
  const handed = parameters.flatMap(p => [p.grad, p.hessianProduct!]);
  expect(gradients.graph.outputs.map(v => v.name)).toEqual(expect.arrayContaining(handed));
  const states = model.trainingInfo.flatMap(info => info.updates.map(u => u.state));
  expect(update.graph.inputs.map(v => v.name).sort()).toEqual([...handed, ...states, 'lr'].sort());
});
