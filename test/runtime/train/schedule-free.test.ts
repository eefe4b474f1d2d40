/** Of a Schedule-Free optimizer, the loss of a step is that at y, and everything else has x. */
import { describe, expect, it } from 'vitest';
import { Tensor } from '../../../src/graph/tensor.js';
import type { OptimizerSpec } from '../../../src/ops/optimizers/index.js';
import { inject } from '../../../src/passes/inject.js';
import type { InjectOptions } from '../../../src/passes/options.js';
import { convert } from '../../../src/runtime/data/convert.js';
import { evaluate } from '../../../src/runtime/evaluate/evaluate-model.js';
import { trainedModel } from '../../../src/runtime/export.js';
import { type Feeds, sessionShapes } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { mlp, mlpData } from '../../sample.js';

const LOSS = { kind: 'cross-entropy' } as const;
const batch: Feeds = Object.fromEntries(mlpData(16));
const trainer = async (optimizer: OptimizerSpec, options: InjectOptions = {}, model = mlp()) =>
  Trainer.create((await inject(model, { loss: LOSS, optimizer, ...options }, sessionShapes)).model);

/** The model with these parameters. */
function withWeights(values: (name: string) => Tensor) {
  const model = mlp();
  for (const v of [...model.graph.initializers.keys()]) model.graph.initializers.set(v, values(v.name));
  return model;
}

describe.each([
  [{ name: 'schedule-free-adamw', lr: 0.05, weightDecay: 0.01 }, 0.9],
  [{ name: 'schedule-free-sgd', lr: 0.5, momentum: 0.6 }, 0.6],
] as [OptimizerSpec, number][])('%j', (optimizer, momentum) => {
  it('takes the loss at y, and evaluates and exports x', async () => {
    const own = await trainer(optimizer);
    for (let k = 0; k < 5; k++) await own.step(batch);
    const [x, z] = ['', '_z'].map(end => (name: string) => own.state.get(`${name}${end}`)!.numbers());
    const y = (name: string) => {
      const far = z!(name);
      const values = x!(name).map((value, i) => momentum * value + (1 - momentum) * far[i]!);
      return Tensor.from('float32', own.state.get(name)!.dims, Float32Array.from(values));
    };
    const exported = await trainedModel(own.snapshot());
    for (const [v, tensor] of exported.graph.initializers)
      expect(tensor.numbers(), v.name).toEqual(x!(v.name));
    const data = mlpData(16);
    const { loss } = await evaluate(exported, data, { loss: LOSS });
    const ofState = await evaluate(own.snapshot(), data, {});
    expect(ofState.loss).toBeCloseTo(loss, 6);
    const there = await evaluate(withWeights(y), data, { loss: LOSS });
    expect(there.loss).not.toBeCloseTo(loss, 4);
    expect((await own.step(batch)).loss).toBeCloseTo(there.loss, 5);
    await own.release();
  });

  it('trains float16 weights as float32 ones', async () => {
    const half = mlp();
    for (const [v, tensor] of [...half.graph.initializers]) {
      half.graph.initializers.set(v, convert(tensor, 'float16'));
      v.type = { kind: 'tensor', dtype: 'float16', shape: tensor.dims };
    }
    half.graph.inputs[0]!.type = { kind: 'tensor', dtype: 'float16', shape: ['batch', 4] };
    const [own, wide] = [await trainer(optimizer, {}, half), await trainer(optimizer)];
    const small: Feeds = { ...batch, x: convert(batch.x!, 'float16') };
    for (let k = 0; k < 20; k++) {
      await own.step(small);
      await wide.step(batch);
    }
    for (const name of ['fc1.weight', 'fc2.weight'])
      for (const [i, value] of own.state.get(name)!.numbers().entries())
        expect(Math.abs(value - wide.state.get(name)!.numbers()[i]!), name).toBeLessThan(0.02);
    await own.release();
    await wide.release();
  });
});
