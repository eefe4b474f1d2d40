import { describe, expect, it } from 'vitest';
import { decodeModel, encodeModel } from '../../../src/graph/proto/codec.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { inject, type Model, plainStep } from '../../../src/index.js';
import type { InjectOptions } from '../../../src/passes/options.js';
import { type Feeds, Session } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { spread } from '../../ops/vjp.js';
import { mlp } from '../../sample.js';

const LOSS = { kind: 'cross-entropy' } as const;
const STEPS = 4;
const x = spread([STEPS, 6, 4], [-1, 1], 3);
const target = Tensor.from(
  'int64',
  [STEPS, 6],
  BigInt64Array.from({ length: 24 }, (_, i) => BigInt(i % 3)),
);

/** The batch of one step. */
function batchOf(step: number): Feeds {
  const cut = (t: Tensor) => {
    const size = t.byteLength / STEPS;
    return new Tensor(t.dtype, t.dims.slice(1), t.bytes.slice(step * size, (step + 1) * size));
  };
  return { x: cut(x), target: cut(target) };
}

const open = (model: Model) => Session.create(decodeModel(encodeModel(model)));

/** The state after a run, by the file's own account of names. */
function next(state: Feeds, results: Feeds, { metadata }: Model): Feeds {
  const updates: Record<string, string> = JSON.parse(metadata.get('agd.updates')!);
  return Object.fromEntries(
    Object.entries(state).map(([name, value]) => [name, results[updates[name]!] ?? value]),
  );
}

describe.each<[string, InjectOptions]>([
  ['AGD', {}],
  [
    'Adam with accumulation, averages, clipping and telemetry',
    {
      ...{ optimizer: { name: 'adam', amsgrad: true }, accumulate: 2, ema: 0.9 },
      ...{ clipGradNorm: 0.1, telemetry: 1, onNonfinite: 'skip' },
    },
  ],
])('the step with plain state: %s', (_, options) => {
  const injected = async () => (await inject(mlp(), { loss: LOSS, ...options })).model;

  /** Losses and parameters of the trainer, which runs the step as it is. */
  async function reference() {
    const trainer = await Trainer.create(await injected());
    const losses: number[] = [];
    for (let i = 0; i < STEPS; i++) losses.push((await trainer.step(batchOf(i))).loss);
    const state = new Map([...trainer.snapshot().graph.initializers].map(([v, t]) => [v.name, t.numbers()]));
    await trainer.release();
    return { losses, state };
  }

  it.each([1, undefined, STEPS])('has the numbers of training, %s steps a run', async count => {
    const { step, state: first } = plainStep(await injected(), count);
    const [session, begin] = [await open(step), await open(first)];
    expect(begin.inputs).toEqual([]);
    let state = await begin.run({});
    const losses: number[] = [];
    for (let i = 0; i < STEPS; i += count ?? 1) {
      const batch =
        count === STEPS
          ? { x, target }
          : Object.fromEntries(
              Object.entries(batchOf(i)).map(([name, t]) => [
                name,
                count ? new Tensor(t.dtype, [1, ...t.dims], t.bytes) : t,
              ]),
            );
      const known = Object.entries({ ...state, ...batch }).filter(([name]) => session.inputs.includes(name));
      const results = await session.run(Object.fromEntries(known));
      losses.push(...results.loss!.numbers());
      state = next(state, results, step);
    }
    const wanted = await reference();
    expect(losses).toEqual(wanted.losses);
    for (const [name, tensor] of Object.entries(state))
      expect([name, tensor.numbers()]).toEqual([name, wanted.state.get(name)]);
    await session.release();
    await begin.release();
  });
});

it('has no defaults, and the requested number of steps', async () => {
  const { model } = await inject(mlp(), { loss: LOSS });
  const { step } = plainStep(model, 3);
  const inputs = new Map(step.graph.inputs.map(v => [v.name, v.shape]));
  expect(inputs.get('x')).toEqual([3, 'batch', 4]);
  expect(inputs.get('fc1.weight')).toEqual([4, 8]);
  expect(step.graph.outputs.find(v => v.name === 'loss')!.shape).toEqual([3]);
  expect(step.graph.inputs.filter(v => step.graph.initializers.has(v))).toEqual([]);
  expect(step.metadata.has('agd.training')).toBe(false);
  expect(model.metadata.has('agd.training')).toBe(true);
});
