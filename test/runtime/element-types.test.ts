/** Models of float16 and float64: they train where the runtime has kernels, and where not the error says which. */
import { describe, expect, it } from 'vitest';
import type { Model, Value } from '../../src/graph/ir.js';
import { encodeModel } from '../../src/graph/proto/codec.js';
import { Tensor } from '../../src/graph/tensor.js';
import { inject } from '../../src/passes/inject.js';
import { convert } from '../../src/runtime/data/convert.js';
import { gradients } from '../../src/runtime/gradients.js';
import { Session, sessionShapes } from '../../src/runtime/session.js';
import { Trainer } from '../../src/runtime/train/trainer.js';
import { ints, spread } from '../ops/vjp.js';
import { Sketch } from '../sample.js';

type Float = 'float32' | 'float16' | 'float64';

/** A model of one element type: what comes between its input and the scores of three classes. */
type Layers = (s: Sketch, x: Value, weight: (name: string, dims: readonly number[]) => Value) => Value;

function make(dtype: Float, shape: readonly number[], layers: Layers): Model {
  const s = new Sketch();
  const weight = (name: string, dims: readonly number[]) =>
    s.weight(name, convert(spread(dims, [-0.5, 0.5], name.length), dtype));
  return s.model([layers(s, s.input('x', ['n', ...shape], dtype), weight)]);
}

const perceptron: Layers = (s, x, weight) => {
  const normed = s.add('LayerNormalization', [x, weight('scale', [4]), weight('bias', [4])], 'normed');
  const h = s.add('Tanh', [s.add('MatMul', [normed, weight('hidden', [4, 8])], 'product')], 'h');
  const gate = s.add('Softmax', [h], 'gate');
  return s.add('Gemm', [s.add('Mul', [gate, h], 'gated'), weight('last', [8, 3])], 'y');
};

const convolution: Layers = (s, x, weight) => {
  const h = s.add('Conv', [x, weight('kernel', [4, 2, 3, 3]), weight('bias', [4])], 'h');
  const pool = s.add('MaxPool', [s.add('Relu', [h], 'positive')], 'pool', { kernel_shape: [2, 2] });
  const mean = s.add('GlobalAveragePool', [pool], 'mean');
  return s.add('Gemm', [s.add('Flatten', [mean], 'flat'), weight('last', [4, 3])], 'y');
};

const embedding: Layers = (s, x, weight) => {
  const rows = s.add('Gather', [weight('table', [5, 4]), s.input('ids', ['n'], 'int64')], 'rows');
  const h = s.add('Concat', [x, rows], 'h', { axis: 1 });
  return s.add('MatMul', [s.add('Sigmoid', [h], 'sigmoid'), weight('last', [8, 3])], 'y');
};

const batch = (dtype: Float, shape: readonly number[]) => ({
  x: convert(spread([6, ...shape], [-1, 1]), dtype),
  ids: ints([0, 4, 2, 2, 1, 0]),
  target: ints([0, 1, 2, 0, 1, 2]),
});
const loss = { kind: 'cross-entropy' } as const;

describe.each<[name: string, layers: Layers, shape: number[], dtypes: Float[]]>([
  ['a perceptron with attention to itself', perceptron, [4], ['float16', 'float64']],
  ['a convolution', convolution, [2, 6, 6], ['float16']],
  ['an embedding', embedding, [4], ['float16', 'float64']],
])('%s', (_, layers, shape, dtypes) => {
  it.each(dtypes)('of %s has the gradients of float32', async dtype => {
    const of = async (type: Float) =>
      (await gradients(make(type, shape, layers), { loss }, batch(type, shape))).gradients;
    const [want, got] = [await of('float32'), await of(dtype)];
    expect(got.size).toBe(want.size);
    for (const [name, gradient] of got) {
      expect(gradient.dtype).toBe(dtype);
      const reference = want.get(name)!.numbers();
      const scale = Math.max(...reference.map(Math.abs));
      const worst = Math.max(...gradient.numbers().map((g, i) => Math.abs(g - reference[i]!))) / scale;
      expect(worst, name).toBeLessThan(dtype === 'float16' ? 1e-2 : 1e-5);
    }
  });

  it.each(dtypes)('of %s trains, and stays of that type', async dtype => {
    const { model } = await inject(
      make(dtype, shape, layers),
      { loss, optimizer: { lr: 0.05 } },
      sessionShapes,
    );
    const trainer = await Trainer.create(model);
    const losses: number[] = [];
    for (let step = 0; step < 12; step++) losses.push((await trainer.step(batch(dtype, shape))).loss);
    expect(losses.at(-1)).toBeLessThan(0.8 * losses[0]!);
    expect(trainer.state.get('last')!.dtype).toBe(dtype);
    await trainer.release();
  });
});

describe('where the runtime has no kernel, the error names operator, element type and device', () => {
  const error = async (model: Model | Promise<Model>) => {
    try {
      const session = await Session.create(await model);
      await session.run({ x: convert(spread([1, 2, 2]), 'float64') });
    } catch (e) {
      return e as Error & { code: string };
    }
    throw new Error('It has one.');
  };
  const one = (op: string, attrs = {}, cast = false) => {
    const s = new Sketch();
    const x = s.input('x', [1, 2, 2], cast ? 'float32' : 'float64');
    const read = cast ? s.add('Cast', [x], 'wide', { to: 11 }) : s.add('Neg', [x], 'read');
    return s.model([s.add(op, [read], 'y', attrs)]);
  };

  it('as the model is loaded', async () => {
    const inject64 = inject(make('float64', [2, 6, 6], convolution), { loss, optimizer: {} }, sessionShapes);
    await expect(inject64).rejects.toMatchObject({
      code: 'no-kernel',
      message:
        "ONNX Runtime has no kernel for op 'Conv' (node 'h_node') version 11 of float64 on cpu. " +
        'Most operators have one of float32.',
    });
  });
  it.each([false, true])('of what is computed from other types (cast: %s)', async cast => {
    const { code, message } = await error(one('Erf', {}, cast));
    expect([code, message]).toEqual([
      'no-kernel',
      expect.stringContaining("'Erf' (node 'y_node') version 13 of float64 on cpu"),
    ]);
  });
  it('without the type where only the bytes are known', async () => {
    await expect(Session.create(encodeModel(one('Erf')))).rejects.toThrow(
      "'Erf' (node 'y_node') version 13 on cpu.",
    );
  });
  it('as the model runs', async () => {
    const s = new Sketch();
    const weight = (name: string, dims: number[]) => s.weight(name, convert(spread(dims), 'float64'));
    const x = s.input('x', [1, 2, 2], 'float64');
    const inputs = [x, weight('w', [1, 8, 2]), weight('r', [1, 8, 2])];
    const { code, message } = await error(s.model([s.add('LSTM', inputs, 'y', { hidden_size: 2 })]));
    expect([code, message]).toEqual([
      'no-kernel',
      expect.stringContaining("'LSTM' (node 'y_node') of float64 on cpu"),
    ]);
  });
});

it('a type that an operator is not defined for is the runtime\u2019s own error', async () => {
  const s = new Sketch();
  const x = s.input('x', [1, 1, 4, 4], 'int32');
  const model = s.model([s.add('Conv', [x, s.weight('w', Tensor.zeros('int32', [1, 1, 2, 2]))], 'y')]);
  await expect(Session.create(model)).rejects.toMatchObject({
    code: 'runtime',
    message: expect.stringMatching(/int32.*Conv/),
  });
});

describe('bfloat16, which the runtime hardly runs, is one line that says what to do', () => {
  it.each([
    ["an operator's", 'Conv', [2, 3, 4, 4], "op 'Conv' (node 'y_node') in bfloat16"],
    ["an input's", 'Cast', [2], 'models with inputs or states of bfloat16'],
  ] as const)('as %s type', async (_, op, shape, what) => {
    const s = new Sketch();
    const x = s.input('x', shape, 'bfloat16');
    const w = op === 'Conv' ? [s.weight('w', convert(spread([1, 3, 2, 2]), 'bfloat16'))] : [];
    const model = s.model([s.add(op, [x, ...w], 'y', op === 'Cast' ? { to: 1 } : {})]);
    await expect(Session.create(model)).rejects.toMatchObject({
      code: 'unsupported-type',
      message: `ONNX Runtime does not run ${what} here. Convert the model to float32: --precision bf16 then trains it in bfloat16.`,
    });
  });
});

it('a Cast of float16 to float16, as optimizers of files leave it, does not stop the shapes from being inferred', async () => {
  const s = new Sketch();
  const x = s.input('x', ['n', 4], 'float16');
  const y = s.add('Sqrt', [s.add('Cast', [s.add('Sqrt', [x], 'root')], 'cast', { to: 10 })], 'y');
  const types = await sessionShapes(s.model([y]));
  expect(types.get('y')).toMatchObject({ dtype: 'float16', shape: ['n', 4] });
});
