import { expect, it } from 'vitest';
import type { Model } from '../../../src/graph/ir.js';
import { decodeModel, encodeModel } from '../../../src/graph/proto/codec.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { trainingInfoForm } from '../../../src/passes/file/write-training-info.js';
import { inject } from '../../../src/passes/inject.js';
import type { InjectOptions } from '../../../src/passes/options.js';
import { readSplitTable, type SplitTable, splitStep } from '../../../src/passes/run/split-step.js';
import { stateInputs } from '../../../src/passes/run/state-inputs.js';
import { type Feeds, Session, sessionShapes } from '../../../src/runtime/session.js';
import { floatsOf, ints, spread } from '../../ops/vjp.js';
import { mlp, mlpData, normalized, Sketch } from '../../sample.js';

/** Products whose gradients are products: what a runtime might fuse with the sum that follows. */
function products(): Model {
  const s = new Sketch();
  const h = s.add('MatMul', [s.input('x', ['batch', 4]), s.weight('fc1.weight', [4, 8])], 'h');
  const active = s.add('Tanh', [h], 'a');
  return s.model([s.add('MatMul', [active, s.weight('fc2.weight', [8, 3])], 'logits')]);
}

const LOSS = { kind: 'cross-entropy' } as const;
const withDropout = () => normalized({ dropout: true });

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
  ['in float16', withDropout(), { precision: 'fp16', seed: 3 }],
  ['normalized by batch', withDropout(), { seed: 3 }],
  [
    'with everything around the update',
    withDropout(),
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
    withDropout(),
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
    withDropout(),
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
  const { model } = await inject(withDropout(), { loss: LOSS }, sessionShapes);
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

/** ids[batch,2], or of a fixed size -> rows of a table -> logits[batch,3]. */
function lookups(batch: string | number = 'batch'): Model {
  const s = new Sketch();
  const ids = s.input('ids', [batch, 2], 'int64');
  const rows = s.add('Gather', [s.weight('table', [6, 4]), ids], 'looked');
  const flat = s.add('Reshape', [rows, s.weight('shape', Tensor.ints([-1, 8]))], 'flat');
  return s.model([s.add('MatMul', [s.add('Tanh', [flat], 'a'), s.weight('w', [8, 3])], 'logits')]);
}

const SAMPLES = 10;
const idsOf = (seed: number) =>
  ints(
    spread([2 * SAMPLES], [0, 6], seed)
      .numbers()
      .map(v => Math.min(5, Math.floor(v))),
    [SAMPLES, 2],
  );

/** Samples from `from` on, of every input. */
const samples = (feeds: Feeds, from: number, count: number): Feeds =>
  Object.fromEntries(
    Object.entries(feeds).map(([name, { dtype, dims, bytes }]) => {
      const size = bytes.length / dims[0]!;
      const part = bytes.slice(from * size, (from + count) * size);
      return [name, new Tensor(dtype, [count, ...dims.slice(1)], part)];
    }),
  );

/** What workers computed, made one as the table says. */
function exchanged({ exchange }: SplitTable, workers: readonly Feeds[]): Feeds {
  return Object.fromEntries(
    exchange.map(({ name, reduce, weighted, divisor }) => {
      const weights = workers.map(w => (divisor === undefined ? 1 : w[divisor]!.numbers()[0]!));
      const total = weights.reduce((n, w) => n + w, 0);
      const parts = workers.map((worker, i) => {
        const values = worker[name]!.numbers();
        return weighted ? values.map(v => (v * weights[i]!) / total) : values;
      });
      const { dtype, dims } = workers[0]![name]!;
      const numbers =
        reduce === 'concat'
          ? parts.flat()
          : parts[0]!.map((_, i) => parts.reduce((sum, part) => sum + part[i]!, 0));
      const shape =
        reduce === 'concat' ? [workers.reduce((n, w) => n + w[name]!.dims[0]!, 0), ...dims.slice(1)] : dims;
      return [name, dtype === 'int64' ? ints(numbers, shape) : floatsOf(numbers, shape)];
    }),
  );
}

/** Some labels do not count, and all hidden values do. */
const UNEVEN: InjectOptions['loss'] = {
  ...LOSS,
  ignoreIndex: 0,
  plus: [{ kind: 'mean', output: 'a', weight: 0.5 }],
};

it.each<[string, Model, InjectOptions, number[]]>([
  ['of different sizes', mlp(), {}, [7, 2, 1]],
  ['with padding', mlp(), { loss: { ...LOSS, ignoreIndex: 0 } }, [6, 4]],
  ['of which one is all padding', mlp(), { loss: { ...LOSS, ignoreIndex: 0 } }, [1, 8, 1]],
  ['with class weights', mlp(), { loss: { ...LOSS, classWeights: [0.2, 1, 3] } }, [6, 4]],
  ['for rows of a table', lookups(), { lazyRows: ['table'], loss: { ...LOSS, ignoreIndex: 1 } }, [5, 3, 2]],
  ['for rows of a table, of a fixed size', lookups(5), { lazyRows: ['table'] }, [5, 5]],
  [
    'for bounded gradients of rows',
    lookups(),
    { lazyRows: ['table'], clipGradNorm: 0.05, onNonfinite: 'skip' },
    [5, 3, 2],
  ],
  [
    'of second order',
    mlp(),
    { optimizer: { name: 'adahessian' }, loss: { ...LOSS, ignoreIndex: 0 } },
    [6, 4],
  ],
  ['that accumulate', mlp(), { accumulate: 2, loss: { ...LOSS, ignoreIndex: 0 }, ema: 0.9 }, [6, 4]],
  ['of private training', mlp(), { dpSgd: { clip: 0.1, noise: 0.5 }, seed: 3 }, [7, 3]],
  [
    'with running statistics that are used',
    withDropout(),
    { batchNorm: 'eval', dropout: 'eval', onNonfinite: 'skip' },
    [7, 3],
  ],
  ['whose losses count different positions', mlp(), { loss: UNEVEN, ema: 0.9 }, [7, 2, 1]],
  ['whose losses count different positions, accumulated', mlp(), { loss: UNEVEN, accumulate: 2 }, [6, 4]],
  [
    'whose losses count different positions, for rows of a table',
    lookups(),
    { loss: UNEVEN, lazyRows: ['table'] },
    [5, 3, 2],
  ],
])('parts of a batch on workers give the update of the whole batch: %s', async (_, source, given, parts) => {
  const options = { loss: LOSS, lossDivisor: true, optimizer: { lr: 0.1, delta: 0.1 }, ...given };
  const fixed = parts.every(n => n === parts[0]);
  const isLookup = source.graph.inputs[0]!.name === 'ids';
  const injected = (await inject(source, options, sessionShapes)).model;
  const whole = { ...options, lossDivisor: given.loss !== UNEVEN };
  const reference = (await inject(isLookup && fixed ? lookups() : source, whole, sessionShapes)).model;
  const updates = injected.trainingInfo.flatMap(i => i.updates);
  const joint = await Session.create(stateInputs(reference, updates));
  const { gradients, update, state, table } = await splitStep(injected, sessionShapes);
  expect(readSplitTable(decodeModel(encodeModel(gradients)))).toEqual(JSON.parse(JSON.stringify(table)));
  expect(readSplitTable(update)).toEqual(readSplitTable(gradients));
  const [first, second, begin] = await Promise.all([gradients, update, state].map(m => Session.create(m)));
  const start = await begin!.run({});
  let [joined, split] = [start, start];
  for (let step = 0; step < 4; step++) {
    const data = Object.fromEntries(mlpData(SAMPLES, 10 + step));
    const batch: Feeds = isLookup ? { ids: idsOf(step + 1), target: data.target! } : data;
    const run = async (session: Session, ...sources: Feeds[]) => {
      const all = Object.assign({}, ...sources);
      return session.run(Object.fromEntries(session.inputs.map(name => [name, all[name] as Tensor])));
    };
    const workers: Feeds[] = [];
    let from = 0;
    for (const count of parts) {
      workers.push(await run(first!, split, samples(batch, from, count)));
      from += count;
    }
    const one = exchanged(table, workers);
    const two = { ...one, ...(await run(second!, split, one)) };
    const results = await run(joint, joined, batch);
    const next = (state: Feeds, results: Feeds) => ({
      ...state,
      ...Object.fromEntries(updates.map(u => [u.state, results[u.value] ?? state[u.state]!])),
    });
    const loss = table.losses.reduce((sum, name) => sum + one[name]!.numbers()[0]!, 0);
    expect(loss).toBeCloseTo(results.loss!.numbers()[0]!, 6);
    [joined, split] = [next(joined, results), next(split, two)];
  }
  for (const [name, tensor] of Object.entries(joined)) {
    const found = split[name]!.numbers();
    tensor.numbers().forEach((value, i) => {
      expect(Math.abs(found[i]! - value), `${name}[${i}]`).toBeLessThan(2e-6 * Math.max(1, Math.abs(value)));
    });
  }
  expect(bits(split)).not.toEqual(bits(start));
});

it('reads nothing in the second half that the table does not name', async () => {
  const options = { loss: LOSS, lossDivisor: true, onNonfinite: 'skip', accumulate: 2 } as const;
  for (const source of [withDropout(), mlp()]) {
    const { model } = await inject(source, options, sessionShapes);
    const { gradients, update, table } = await splitStep(model, sessionShapes);
    const names = table.exchange.map(e => e.name);
    const outputs = gradients.graph.outputs.map(v => v.name);
    expect(outputs).toEqual(expect.arrayContaining(names));
    const states = new Set([table.lr, ...model.trainingInfo.flatMap(i => i.updates.map(u => u.state))]);
    const read = update.graph.inputs.map(v => v.name).filter(name => !states.has(name));
    expect(names).toEqual(expect.arrayContaining(read));
  }
});

it('has no divisor where the model computes its loss itself', async () => {
  const s = new Sketch();
  const y = s.add('MatMul', [s.input('x', ['batch', 2]), s.weight('w', [2, 2])], 'y');
  const source = s.model([s.add('ReduceMean', [y], 'own', { keepdims: 0 })]);
  const options: InjectOptions = { loss: { kind: 'output', output: 'own' }, lossDivisor: true };
  const { model } = await inject(source, options, sessionShapes);
  const { table } = await splitStep(model, sessionShapes);
  expect(table.divisor).toBeUndefined();
  expect(table.exchange).toEqual([
    { name: 'own', reduce: 'sum', weighted: true },
    { name: 'w_grad', reduce: 'sum', weighted: true },
  ]);
});

it('does not split a step that a model brings with it', async () => {
  const { model } = await inject(mlp(), { loss: LOSS }, sessionShapes);
  const own = (await inject(decodeModel(encodeModel(trainingInfoForm(model))), {}, sessionShapes)).model;
  await expect(splitStep(own, sessionShapes)).rejects.toThrow(
    'The model has a training step of its own, which cannot be split: start from the original model.',
  );
});
