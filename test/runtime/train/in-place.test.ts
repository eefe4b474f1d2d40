import { expect, it, vi } from 'vitest';
import { AgdError } from '../../../src/graph/errors.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { inject } from '../../../src/passes/inject.js';
import { scanSteps } from '../../../src/passes/run/scan-steps.js';
import { Session, sessionShapes } from '../../../src/runtime/session.js';
import { replacedStates } from '../../../src/runtime/train/in-place.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { spread } from '../../ops/vjp.js';
import { Sketch } from '../../sample.js';

it('a runtime that does not write into arrays trains with copies of the state', async () => {
  const runInto = vi.spyOn(Session.prototype, 'runInto');
  runInto.mockRejectedValue(new AgdError('runtime', 'ONNX Runtime stopped'));
  const s = new Sketch();
  const y = s.add('MatMul', [s.input('x', ['n', 3]), s.weight('w', [3, 2])], 'y');
  const model = s.model([s.add('ReduceMean', [s.add('Mul', [y, y], 'square')], 'loss', { keepdims: 0 })]);
  const { model: injected } = await inject(
    model,
    { loss: { kind: 'output', output: 'loss' } },
    sessionShapes,
  );
  const trainer = await Trainer.create(injected);
  expect(trainer.writesInPlace).toBe(false);
  const [before, after] = [0, 1].map(() => trainer.step({ x: spread([4, 3], [-1, 1]) }));
  expect((await after!).loss).toBeLessThan((await before!).loss);
  expect(runInto).toHaveBeenCalledTimes(1);
  await trainer.release();
});

it.each([
  [2 ** 26, true],
  [2 ** 26 - 4, false],
])('a state of %i bytes is replaced in place: %s, tensors of 256 KiB or more', async (bytes, isLarge) => {
  const s = new Sketch();
  const [large, small] = [s.weight('large', [16, 4096]), s.weight('small', [4096, 15])];
  const y = s.add('MatMul', [s.add('MatMul', [s.input('x', ['n', 16]), large], 'h'), small], 'y');
  const options = { loss: { kind: 'mse' }, optimizer: { name: 'sgd', momentum: 0 } } as const;
  const { model } = await inject(s.model([y]), options, sessionShapes);
  const { model: run } = scanSteps(model);
  const state = { all: Tensor.zeros('uint8', [bytes]) };
  expect([...(await replacedStates(run, state, {}))]).toEqual(isLarge ? ['large'] : []);
});
