import { expect, it } from 'vitest';
import type { Model } from '../../../src/graph/ir.js';
import { decodeModel, encodeModel } from '../../../src/graph/proto/codec.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { inject } from '../../../src/passes/inject.js';
import type { InjectOptions } from '../../../src/passes/options.js';
import { type Feeds, sessionShapes } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { floatsOf } from '../../ops/vjp.js';
import { mlpData, Sketch } from '../../sample.js';

/** `mlp` with dropout and noise of its hidden layer. */
function noisy(): Model {
  const s = new Sketch();
  const x = s.input('x', ['batch', 4]);
  const hidden = s.add('Gemm', [x, s.weight('fc1.weight', [4, 8]), s.weight('fc1.bias', [8])], 'h');
  const noise = s.add('RandomNormalLike', [hidden], 'noise');
  const active = s.add('Tanh', [s.add('Add', [hidden, noise], 'n')], 'a');
  const kept = s.add('Dropout', [active, s.weight('ratio', floatsOf([0.4], []))], 'd');
  return s.model([
    s.add('Gemm', [kept, s.weight('fc2.weight', [8, 3]), s.weight('fc2.bias', [3])], 'logits'),
  ]);
}

const STEPS = 12;
const batches = (from: number, to: number): Feeds => {
  const all = mlpData(8 * STEPS);
  return Object.fromEntries(
    [...all].map(([name, { dtype, dims, bytes }]) => {
      const size = bytes.length / STEPS;
      return [name, new Tensor(dtype, [to - from, 8, ...dims.slice(1)], bytes.slice(from * size, to * size))];
    }),
  );
};

/** The state after runs that end at these steps; with `anew` each in a session of its own, from a file's bytes. */
async function stateAfter(model: Model, ends: readonly number[], anew: boolean) {
  let trainer = await Trainer.create(model);
  let done = 0;
  for (const end of ends) {
    await trainer.steps(batches(done, end));
    done = end;
    if (!anew) continue;
    const kept = encodeModel(trainer.snapshot());
    await trainer.release();
    trainer = await Trainer.create(decodeModel(kept));
  }
  const state = [...trainer.state].map(([name, t]) => [name, Buffer.from(t.bytes).toString('hex')]);
  await trainer.release();
  return Object.fromEntries(state);
}

const OPTIONS: [string, Partial<InjectOptions>][] = [
  ['', {}],
  [', in the middle of an accumulation', { accumulate: 4 }],
  [', where steps may be skipped', { onNonfinite: 'skip' }],
  [', with the signs of AdaHessian', { optimizer: { name: 'adahessian' } }],
  [', recomputing activations', { checkpointActivations: true }],
];
it.each(OPTIONS)('draws what a run that never stopped would%s', async (_, options) => {
  const { model } = await inject(
    noisy(),
    { loss: { kind: 'cross-entropy' }, seed: 3, ...options },
    sessionShapes,
  );
  const whole = await stateAfter(model, [STEPS], false);
  expect(await stateAfter(model, [1, 6, 7, STEPS], false)).toEqual(whole);
  expect(await stateAfter(model, [5, 7, STEPS], true)).toEqual(whole);
  const other = await inject(
    noisy(),
    { loss: { kind: 'cross-entropy' }, seed: 4, ...options },
    sessionShapes,
  );
  expect(await stateAfter(other.model, [STEPS], false)).not.toEqual(whole);
});

it('lays out convolutions as a run that never stopped', async () => {
  const s = new Sketch();
  const image = s.add(
    'Reshape',
    [
      s.add(
        'Gemm',
        [s.input('x', ['batch', 4]), s.weight('fc1.weight', [4, 64]), s.weight('fc1.bias', [64])],
        'h',
      ),
      s.weight('shape', Tensor.ints([-1, 1, 8, 8])),
    ],
    'image',
  );
  const first = s.add('Relu', [s.add('Conv', [image, s.weight('conv1', [16, 1, 3, 3])], 'c1')], 'r1');
  const second = s.add('Relu', [s.add('Conv', [first, s.weight('conv2', [16, 16, 3, 3])], 'c2')], 'r2');
  const flat = s.add('Flatten', [second], 'flat');
  const logits = s.add('Gemm', [flat, s.weight('fc2.weight', [256, 3]), s.weight('fc2.bias', [3])], 'logits');
  const { model } = await inject(s.model([logits]), { loss: { kind: 'cross-entropy' } }, sessionShapes);
  const whole = await stateAfter(model, [STEPS], false);
  expect(await stateAfter(model, [4, STEPS], true)).toEqual(whole);
});
