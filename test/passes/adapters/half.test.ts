/** Adapters beside layers of 16 bits: they are float32, and the model goes on computing in 16 bits. */
import { expect, it } from 'vitest';
import { decodeModel, encodeModel } from '../../../src/graph/proto/codec.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { applyAdapters } from '../../../src/passes/adapters/apply-adapters.js';
import { mergeAdapters } from '../../../src/passes/adapters/merge-adapters.js';
import { inject } from '../../../src/passes/inject.js';
import { Session, sessionShapes } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { spread } from '../../ops/vjp.js';
import { Sketch } from '../../sample.js';

const half = (t: Tensor) => Tensor.ofNumbers('float16', t.dims, t.floats());

/** x[batch,4] -> y[batch,3] in 16 bits. */
function model() {
  const s = new Sketch();
  const x = s.input('x', ['batch', 4], 'float16');
  const [w, bias] = [
    s.weight('w', half(spread([4, 3], [-1, 1], 1))),
    s.weight('bias', half(spread([3], [-1, 1], 2))),
  ];
  return s.model([s.add('Gemm', [x, w, bias], 'y')]);
}

const x = half(spread([8, 4], [-1, 1], 3));
const target = half(spread([8, 3], [-1, 1], 4));

it.each([
  [{ lora: [{ match: 'w', r: 2, dora: true, dropout: 0.1 }] }, ['lora_A', 'lora_B', 'lora_magnitude_vector']],
  [{ ia3: [{ match: 'w' }] }, ['ia3_l']],
  [{ ia3: [{ match: 'w', feedforward: true }] }, ['ia3_l']],
])('%j trains, and is merged into 16 bits', async (options, names) => {
  const loss = { kind: 'mse', output: 'y' } as const;
  const optimizer = { name: 'sgd', lr: 0.3, momentum: 0 } as const;
  const { model: step } = await inject(model(), { ...options, loss, optimizer }, sessionShapes);
  const trainer = await Trainer.create(step);
  const losses: number[] = [];
  for (let i = 0; i < 20; i++) losses.push((await trainer.step({ x, target })).loss);
  const after = trainer.snapshot();
  await trainer.release();
  expect(losses.at(-1)).toBeLessThan(0.9 * losses[0]!);
  const adapted = applyAdapters(model(), options);
  for (const [value] of adapted.graph.initializers)
    for (const [trained, tensor] of after.graph.initializers)
      if (trained.name === value.name) adapted.graph.initializers.set(value, tensor);
  const kinds = [...adapted.graph.initializers].flatMap(([v, t]) =>
    names.some(name => v.name.endsWith(name)) ? [t.dtype] : [],
  );
  expect(kinds).toEqual(names.map(() => 'float32'));
  const { model: merged } = mergeAdapters(adapted);
  const outputs = await Promise.all(
    [adapted, merged].map(async each => {
      const session = await Session.create(decodeModel(encodeModel(each)));
      const { y } = await session.run({ x });
      await session.release();
      return y!.numbers();
    }),
  );
  const worst = Math.max(...outputs[0]!.map((v, i) => Math.abs(v - outputs[1]![i]!)));
  expect(worst).toBeLessThan(4e-3);
});
