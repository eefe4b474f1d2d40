import { beforeAll, expect, it } from 'vitest';
import { Graph, Model, Value } from '../../../src/graph/ir.js';
import { Names } from '../../../src/graph/names.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { backward } from '../../../src/ir.js';
import { Builder } from '../../../src/ops/core/builder.js';
import { type AdahessianOptions, adahessian } from '../../../src/ops/optimizers/adahessian.js';
import { defaultsOf } from '../../../src/ops/optimizers/optimizer.js';
import { coins } from '../../../src/ops/rademacher.js';
import { inject } from '../../../src/passes/inject.js';
import { splitStep } from '../../../src/passes/run/split-step.js';
import { hessianProducts } from '../../../src/passes/update/hessian-products.js';
import { output } from '../../../src/passes/update/transition.js';
import { type Feeds, Session, sessionShapes } from '../../../src/runtime/session.js';
import { spread } from '../../ops/vjp.js';
import { mlpData, Sketch } from '../../sample.js';

const SHAPES = { W1: [3, 4], b: [4], W2: [4, 2] };
type Name = keyof typeof SHAPES;
const NAMES = Object.keys(SHAPES) as Name[];
const SIZE = 12 + 4 + 8;
const SEED = 5;

const wide = (t: Tensor) => Tensor.from('float64', t.dims, Float64Array.from(t.numbers()));

/** Of loss = mean((tanh(x W1 + b) W2 - y)^2), in float64: gradients, signs, and the Hessian's products with them. */
async function session(): Promise<Session> {
  const model = new Model(new Graph('second'));
  model.opsetImports = new Map([['', 18]]);
  const g = new Builder(model.graph, { names: Names.of(model), opsets: model.opsetImports });
  const input = (name: string, dtype: 'float64' | 'int64', shape: number[]) => {
    const value = new Value(name, { kind: 'tensor', dtype, shape });
    model.graph.inputs.push(value);
    return value;
  };
  const params = NAMES.map(name => input(name, 'float64', SHAPES[name]));
  for (const p of params) model.graph.initializers.set(p, Tensor.zeros('float64', SHAPES[p.name as Name]));
  const step = g.of(input('step', 'int64', []));
  const [W1, b, W2] = params.map(p => g.of(p));
  const [x, y] = [g.tensor(wide(spread([5, 3]))), g.tensor(wide(spread([5, 2], [-1, 1], 9)))];
  const off = x.matmul(W1!).add(b!).tanh().matmul(W2!).sub(y);
  const loss = off.square().mean();
  const grads = backward(g, new Map([[loss.value, loss.ones()]]), params).map((e, i) =>
    g.of(output(g, e!, `${NAMES[i]}_grad`)),
  );
  model.graph.addOutputs(...hessianProducts(g, params, grads, step, SEED).map(e => e!.value));
  output(g, coins(step, SIZE, SEED).cast('float64').mul(2).sub(1), 'signs');
  for (const p of params) model.graph.initializers.delete(p);
  return Session.create(model);
}

let run: (w: readonly number[], step: number) => Promise<Record<'grad' | 'product' | 'signs', number[]>>;
beforeAll(async () => {
  const s = await session();
  run = async (w, step) => {
    let at = 0;
    const feeds: Feeds = { step: Tensor.filled('int64', [], step) };
    for (const [name, shape] of Object.entries(SHAPES)) {
      const size = shape.reduce((n, d) => n * d, 1);
      feeds[name] = Tensor.from('float64', shape, Float64Array.from(w.slice(at, at + size)));
      at += size;
    }
    const results = await s.run(feeds);
    const all = (suffix: string) => NAMES.flatMap(name => results[`${name}_${suffix}`]!.numbers());
    return { grad: all('grad'), product: all('hessian_product'), signs: results.signs!.numbers() };
  };
});

const W = spread([SIZE], [-0.8, 0.8], 3).numbers();
const EPSILON = 1e-5;

/** The derivative of the gradient along `v`, by central differences. */
async function along(v: readonly number[]): Promise<number[]> {
  const at = async (sign: number) =>
    (
      await run(
        W.map((w, i) => w + sign * EPSILON * v[i]!),
        1,
      )
    ).grad;
  const [up, down] = [await at(1), await at(-1)];
  return up.map((x, i) => (x - down[i]!) / (2 * EPSILON));
}

it('multiplies the Hessian, as differences of gradients show', async () => {
  for (const step of [0, 1, 17]) {
    const { product, signs } = await run(W, step);
    expect(new Set(signs)).toEqual(new Set([-1, 1]));
    const want = await along(signs);
    for (const [i, x] of product.entries()) expect(x).toBeCloseTo(want[i]!, 8);
  }
});

it('gives the diagonal of the Hessian on average', async () => {
  const count = 2000;
  const mean = Array<number>(SIZE).fill(0);
  for (let step = 0; step < count; step++) {
    const { product, signs } = await run(W, step);
    for (const [i, x] of product.entries()) mean[i]! += (x * signs[i]!) / count;
  }
  for (let i = 0; i < SIZE; i++) {
    const row = await along(W.map((_, j) => (i === j ? 1 : 0)));
    const deviation = Math.hypot(...row.map((x, j) => (i === j ? 0 : x))) / Math.sqrt(count);
    expect(Math.abs(mean[i]! - row[i]!), `coordinate ${i}`).toBeLessThan(4 * deviation);
  }
});

it('draws signs that are as even and independent as those of coins', async () => {
  const [steps, sums] = [2000, Array.from({ length: SIZE }, () => Array<number>(SIZE).fill(0))];
  let [even, last, repeated] = [0, Array<number>(SIZE).fill(0), 0];
  for (let step = 0; step < steps; step++) {
    const { signs } = await run(W, step);
    signs.forEach((a, i) => {
      even += a;
      repeated += a * last[i]!;
      for (let j = 0; j < i; j++) sums[i]![j]! += a * signs[j]!;
    });
    last = signs;
  }
  const deviation = Math.sqrt(steps * SIZE);
  expect(Math.abs(even)).toBeLessThan(3 * deviation);
  expect(Math.abs(repeated)).toBeLessThan(3 * deviation);
  // The largest of 276 pairs, in standard deviations.
  expect(Math.max(...sums.flat().map(Math.abs)) / Math.sqrt(steps)).toBeLessThan(4);
});

/** x[batch,4] -> 6 units, normalized by the batch, tanh -> logits[batch,3]. */
function normalized(): Model {
  const s = new Sketch();
  const h = s.add('Gemm', [s.input('x', ['batch', 4]), s.weight('W1', [4, 6]), s.weight('b1', [6])], 'h');
  const [scale, bias, mean] = ['scale', 'bias', 'mean'].map(name => s.weight(name, [6]));
  const variance = s.weight('var', spread([6], [0.5, 1.5]));
  const n = s.add('BatchNormalization', [h, scale!, bias!, mean!, variance], 'n');
  return s.model([s.add('MatMul', [s.add('Tanh', [n], 'a'), s.weight('W2', [6, 3])], 'logits')]);
}

/** The signs that `coins` draws, in whole numbers of any size. */
function signsOf(step: number, count: number): number[] {
  const p = 2n ** 31n - 1n;
  return Array.from({ length: count }, (_, i) => {
    let x = (BigInt(i) * 1103515245n + BigInt(step) * 754877669n + BigInt(SEED) * 1597334677n) % p;
    for (let round = 0; round < 2; round++) x = (x * x + 1n) % p;
    return x < p / 2n ? 1 : -1;
  });
}

it('is right through normalization by the batch, whose statistics follow from the weights', async () => {
  const options = { loss: { kind: 'cross-entropy' }, optimizer: { name: 'adahessian' }, seed: SEED } as const;
  const { model, report } = await inject(normalized(), options, sessionShapes);
  const { gradients, state } = await splitStep(model, sessionShapes);
  const [s, first] = [await Session.create(gradients), await Session.create(state)];
  const begin: Feeds = { ...(await first.run({})), ...Object.fromEntries(mlpData(16)) };
  const { parameters } = report.description;
  const sizes = parameters.map(p => begin[p.name]!.size);
  const signs = signsOf(
    0,
    sizes.reduce((a, b) => a + b, 0),
  );
  const gradientAt = async (distance: number) => {
    let at = 0;
    const moved = parameters.map(({ name }) => {
      const { dims, size } = begin[name]!;
      const values = begin[name]!.numbers().map((w, i) => w + distance * signs[at + i]!);
      at += size;
      return [name, Tensor.from('float32', dims, Float32Array.from(values))];
    });
    const all: Feeds = { ...begin, ...Object.fromEntries(moved) };
    return s.run(Object.fromEntries(s.inputs.map(name => [name, all[name]!])));
  };
  const [here, up, down] = [await gradientAt(0), await gradientAt(1e-2), await gradientAt(-1e-2)];
  for (const { name, grad, hessianProduct } of parameters)
    for (const [i, x] of here[hessianProduct!]!.numbers().entries()) {
      const difference = (up[grad]!.numbers()[i]! - down[grad]!.numbers()[i]!) / 2e-2;
      expect(Math.abs(x - difference), `${name}[${i}]`).toBeLessThan(1e-3);
    }
  expect(Math.max(...here.scale_hessian_product!.numbers().map(Math.abs))).toBeGreaterThan(0.05);
  await s.release();
  await first.release();
});

it('averages the diagonal over the kernel of a convolution, unless told not to', async () => {
  const model = new Model(new Graph('kernel'));
  model.opsetImports = new Map([['', 18]]);
  const g = new Builder(model.graph, { names: Names.of(model), opsets: model.opsetImports });
  const kernel = g.tensor(Tensor.from('float32', [1, 2, 1, 2], Float32Array.of(1, -3, -5, 6)));
  const matrix = kernel.reshape([2, 2]);
  const defaults = defaultsOf<AdahessianOptions>(adahessian);
  output(g, adahessian.diagonal!(kernel, defaults), 'mean');
  output(g, adahessian.diagonal!(kernel, { ...defaults, averageConvKernel: false }), 'own');
  output(g, adahessian.diagonal!(matrix, defaults), 'matrix');
  const s = await Session.create(model);
  const { mean, own, matrix: plain } = await s.run({});
  expect(mean!.numbers()).toEqual([2, 2, 5.5, 5.5]);
  expect(own!.numbers()).toEqual([1, 3, 5, 6]);
  expect(plain!.numbers()).toEqual([1, 3, 5, 6]);
  await s.release();
});
