/** Random models, trained with and without the passes that are for a session alone. */
import { expect, it } from 'vitest';
import type { Model, Value } from '../../../src/graph/ir.js';
import { Tensor } from '../../../src/graph/tensor.js';
import type { OptimizerSpec } from '../../../src/ops/optimizers/index.js';
import { inject } from '../../../src/passes/inject.js';
import type { InjectOptions } from '../../../src/passes/options.js';
import { type Feeds, sessionShapes } from '../../../src/runtime/session.js';
import type { TrainerOptions } from '../../../src/runtime/train/load-step.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { ints, spread } from '../../ops/vjp.js';
import { Sketch } from '../../sample.js';

/** Samples, words in each, numbers for each, heads and words that there are. */
const [N, T, C, H, V] = [16, 4, 64, 4, 11];

/** A number below `n`, the same for each seed. */
type Draw = (n: number) => number;
function drawFrom(seed: number): Draw {
  let state = seed * 2654435761;
  return n => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((n * state) / 2 ** 32);
  };
}

/** Blocks of layers whose weights may be used again: as they are, transposed, scaled or reshaped. */
class RandomModel {
  readonly s = new Sketch();
  readonly #weights: Value[] = [];
  #count = 0;

  constructor(private readonly draw: Draw) {}

  add(opType: string, inputs: (Value | null)[], attrs = {}): Value {
    return this.s.add(opType, inputs, `v${this.#count++}`, attrs);
  }

  /** Not trained. */
  constant(values: readonly number[], dims?: readonly number[]): Value {
    return this.add('Constant', [], { value: ints(values, dims) });
  }

  weight(dims: readonly number[], range: [number, number] = [-0.15, 0.15]): Value {
    return this.s.weight(`w${this.#count++}`, spread(dims, range, this.#count));
  }

  square(): Value {
    const { draw } = this;
    const known = draw(3) ? undefined : this.#weights[draw(this.#weights.length)];
    const w = known ?? this.weight([C, C]);
    if (!known) this.#weights.push(w);
    const half = () => this.add('Constant', [], { value: Tensor.filled('float32', [], 0.5) });
    switch (draw(6)) {
      case 0:
        return this.add('Transpose', [w], { perm: [1, 0] });
      case 1:
        return this.add('Mul', [w, half()]);
      case 2:
        return this.add('Div', [this.add('Transpose', [w], { perm: [1, 0] }), half()]);
      default:
        return w;
    }
  }

  readonly blocks: readonly ((h: Value) => Value)[] = [
    h => this.add('Add', [this.add('MatMul', [h, this.square()]), this.weight([C])]),
    h => this.add('MatMul', [this.add('Tanh', [h]), this.square()]),
    h => this.add('LayerNormalization', [h, this.weight([C], [0.5, 1]), this.weight([C])]),
    h => this.attention(h),
    h => this.lstm(h),
    h => this.convolution(h),
  ];

  attention(h: Value): Value {
    const heads = (perm: number[]) =>
      this.add('Transpose', [this.reshape(this.add('MatMul', [h, this.square()]), [N, T, H, C / H])], {
        perm,
      });
    const scores = this.add('MatMul', [heads([0, 2, 1, 3]), heads([0, 2, 3, 1])]);
    let p = this.add('Softmax', [scores], { axis: -1 });
    const zero = () => this.add('Constant', [], { value: Tensor.filled('float32', [], 0) });
    if (this.draw(2)) p = this.add('Where', [this.add('IsNaN', [p]), zero(), p]);
    const y = this.add('MatMul', [p, heads([0, 2, 1, 3])]);
    return this.reshape(this.add('Transpose', [y], { perm: [0, 2, 1, 3] }), [N, T, C]);
  }

  lstm(h: Value): Value {
    const words = this.add('Transpose', [h], { perm: [1, 0, 2] });
    const weights = [[4 * C, C], [4 * C, C], [8 * C]].map(dims => this.weight([1, ...dims]));
    const y = this.add('LSTM', [words, ...weights], { hidden_size: C });
    return this.add('Transpose', [this.add('Squeeze', [y, this.constant([1])])], { perm: [1, 0, 2] });
  }

  convolution(h: Value): Value {
    const image = this.reshape(h, [N, 16, 4, 4]);
    const kernel = this.weight([16, 16, 3, 3]);
    return this.reshape(this.add('Conv', [image, kernel], { pads: [1, 1, 1, 1] }), [N, T, C]);
  }

  reshape(value: Value, dims: readonly number[]): Value {
    return this.add('Reshape', [value, this.constant(dims)]);
  }

  model(): Model {
    const { draw, s } = this;
    const table = s.weight('table', spread([V, C], [-0.5, 0.5], 2));
    const words = this.add('Gather', [table, s.input('words', [N, T], 'int64')]);
    let h = this.add('Add', [s.input('x', [N, T, C]), words]);
    for (let i = 2 + draw(3); i > 0; i--) {
      const next = this.blocks[draw(this.blocks.length)]!(h);
      h = draw(2) ? this.add('Add', [h, next]) : next;
    }
    const y = draw(2) ? this.add('MatMul', [h, this.add('Transpose', [table], { perm: [1, 0] })]) : h;
    return s.model([s.add('ReduceMean', [this.add('Mul', [y, y])], 'loss', { keepdims: 0 })]);
  }
}

const OPTIMIZERS = ['agd', 'sgd', 'adamw', 'lion', 'adan', 'prodigy', 'lamb', 'adafactor'];
const OPTIONS: readonly InjectOptions[] = [
  {},
  { clipGradNorm: 1 },
  { ema: 0.9 },
  { accumulate: 2 },
  { schedule: { kind: 'cosine', total: 6 } as never },
];

const STEPS = 4;
const batches = (seed: number): Feeds => ({
  x: spread([STEPS, N, T, C], [-1, 1], seed),
  words: ints(
    Array.from({ length: STEPS * N * T }, (_, i) => (i * 7 + seed) % V),
    [STEPS, N, T],
  ),
});

/** The batches of some steps. */
const part = (all: Feeds, from: number, to: number): Feeds =>
  Object.fromEntries(
    Object.entries(all).map(([name, { dtype, dims, bytes }]) => {
      const size = bytes.length / STEPS;
      return [name, new Tensor(dtype, [to - from, ...dims.slice(1)], bytes.slice(from * size, to * size))];
    }),
  );

async function trained(model: Model, data: Feeds, perRun: number, options: TrainerOptions) {
  const trainer = await Trainer.create(model, { threads: 1, inPlace: false, ...options });
  const losses: number[] = [];
  for (let i = 0; i < STEPS; i += perRun)
    losses.push(...(await trainer.steps(part(data, i, i + perRun), { lr: 1e-3 })));
  const state = [...trainer.state].map(([name, tensor]) => [name, tensor.numbers()] as const);
  await trainer.release();
  return { losses, state };
}

const seeds = process.env.SEEDS?.split('-').map(Number) ?? [1, 8];
it.each(Array.from({ length: seeds[1]! - seeds[0]! + 1 }, (_, i) => seeds[0]! + i))(
  'a random model learns the same in each way of running it: %i',
  async seed => {
    const draw = drawFrom(seed);
    for (let i = 0; i < 4; i++) draw(2);
    const made = new RandomModel(draw).model();
    const optimizer = { name: OPTIMIZERS[draw(OPTIMIZERS.length)] } as OptimizerSpec;
    const options = {
      loss: { kind: 'output', output: 'loss' },
      optimizer,
      ...OPTIONS[draw(OPTIONS.length)],
    } as const;
    const { model } = await inject(made, options, sessionShapes);
    const data = batches(seed);
    const plain = await trained(model, data, 1, {});
    expect(await trained(model, data, 1, { inPlace: true })).toEqual(plain);
    expect(await trained(model, data, 2, { inPlace: true })).toEqual(plain);
    expect(await trained(model, data, 4, {})).toEqual(plain);
    const asWritten = await trained(model, data, 1, { optimize: false });
    for (const [i, loss] of plain.losses.entries())
      expect(Math.abs(loss - asWritten.losses[i]!) / Math.abs(loss)).toBeLessThan(1e-4);
  },
);
