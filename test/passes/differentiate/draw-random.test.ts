import { describe, expect, it } from 'vitest';
import { Graph, type Model, Node, type Shape, Value } from '../../../src/graph/ir.js';
import { Names } from '../../../src/graph/names.js';
import { encodeModel } from '../../../src/graph/proto/codec.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { type AttrInit, Builder, float, toAttrs } from '../../../src/ops/core/builder.js';
import { drawRandom, numberBatches } from '../../../src/passes/differentiate/draw-random.js';
import { Session } from '../../../src/runtime/session.js';
import { floatsOf } from '../../ops/vjp.js';
import { Sketch } from '../../sample.js';

/** What the output `y` is in each of some batches; `from` is the number of the first. */
async function draw(
  model: Model,
  { seed = 0, batches = 1, from = 0, feeds = {} as Record<string, Tensor>, stream = -1 } = {},
): Promise<number[][]> {
  const g = new Builder(model.graph, { names: Names.of(model), opsets: model.opsetImports });
  const batch = g.input('batch_number', { kind: 'tensor', dtype: 'int64', shape: [] });
  const worker = () => g.input('stream', { kind: 'tensor', dtype: 'int64', shape: [] }).value;
  numberBatches(g, drawRandom(g, seed, stream < 0 ? undefined : worker), () => batch);
  const more: Record<string, Tensor> = stream < 0 ? {} : { stream: Tensor.filled('int64', [], stream) };
  const session = await Session.create(encodeModel(model));
  const drawn: number[][] = [];
  for (let i = 0; i < batches; i++) {
    const { y } = await session.run({
      ...feeds,
      ...more,
      batch_number: Tensor.filled('int64', [], from + i),
    });
    drawn.push(y!.numbers());
  }
  await session.release();
  return drawn;
}

function single(opType: string, attrs: AttrInit, inputs: (s: Sketch) => Value[] = () => []): Model {
  const s = new Sketch();
  return s.model([s.add(opType, inputs(s), 'y', attrs)], 17);
}

const mean = (x: readonly number[]) => x.reduce((sum, v) => sum + v, 0) / x.length;
/** Correlation of elements so far apart, in standard deviations of that of independent numbers. */
function correlation(x: readonly number[], y: readonly number[], lag = 0): number {
  const [mx, my] = [mean(x), mean(y)];
  let [xy, xx, yy] = [0, 0, 0];
  for (let i = lag; i < x.length; i++) {
    const [a, b] = [x[i]! - mx, y[i - lag]! - my];
    xy += a * b;
    xx += a * a;
    yy += b * b;
  }
  return (xy / Math.sqrt(xx * yy)) * Math.sqrt(x.length);
}

const COUNT = 1 << 17;

describe('uniform numbers', () => {
  const uniform = () => single('RandomUniform', { shape: [COUNT], low: float(0), high: float(1) });

  it('fall into equal shares of their range equally often', async () => {
    for (const [x] of await Promise.all([1, 2, 3].map(seed => draw(uniform(), { seed })))) {
      const counts = Array(256).fill(0);
      for (const u of x!) counts[Math.floor(u * 256)]++;
      const expected = COUNT / 256;
      const chi2 = counts.reduce((sum, n) => sum + (n - expected) ** 2 / expected, 0);
      // 255 degrees of freedom: five standard deviations.
      expect(Math.abs(chi2 - 255)).toBeLessThan(5 * Math.sqrt(2 * 255));
      expect(Math.min(...x!.slice(0, 1000))).toBeGreaterThan(0);
    }
  });
  it('are independent of their neighbours in row and column, and of the previous batch', async () => {
    const [x, y] = await draw(uniform(), { batches: 2 });
    for (const lag of [1, 2, 3, 64, 1023, 1024, 1025, 2048, 4096])
      expect(Math.abs(correlation(x!, x!, lag)), `${lag}`).toBeLessThan(5);
    for (const lag of [0, 1, 1024]) expect(Math.abs(correlation(x!, y!, lag)), `${lag}`).toBeLessThan(5);
  });
  it('are independent of each other in rectangles of the underlying matrix', async () => {
    const [x] = await draw(uniform());
    const products: number[] = [];
    for (let row = 0; row + 1 < COUNT / 1024; row += 2)
      for (let column = 0; column + 1 < 1024; column += 2) {
        const at = (r: number, c: number) => Math.sign(x![(row + r) * 1024 + column + c]! - 0.5);
        products.push(at(0, 0) * at(0, 1) * at(1, 0) * at(1, 1));
      }
    expect(Math.abs(mean(products)) * Math.sqrt(products.length)).toBeLessThan(5);
  });
  it('of workers differ, of however many and in however late a batch', async () => {
    const few = () => single('RandomUniform', { shape: [2000], low: float(0), high: float(1) });
    const alone = await draw(few(), { batches: 3 });
    expect(await draw(few(), { batches: 3, stream: 0 })).toEqual(alone);
    const drawn = new Set(alone.map(String));
    const streams = [1, 2, 63, 64, 65, 127, 128, 512, 1024];
    for (const stream of streams) {
      const found = await draw(few(), { batches: 3, stream });
      for (const x of found) drawn.add(String(x));
      for (const lag of [0, 1, 1024]) {
        expect(Math.abs(correlation(alone[0]!, found[0]!, lag))).toBeLessThan(5);
        expect(Math.abs(correlation(alone[1]!, found[0]!, lag))).toBeLessThan(5);
      }
    }
    expect(drawn.size).toBe(3 * (streams.length + 1));
  });
  it('lie in the range that is asked for, in the type that is asked for', async () => {
    const model = single('RandomUniform', { shape: [3, 5], low: float(-3), high: float(-1), dtype: 11 });
    const [x] = await draw(model);
    expect(x).toHaveLength(15);
    expect(x!.every(v => v > -3 && v < -1)).toBe(true);
  });
});

it('draws normal numbers of the mean and scale that are asked for', async () => {
  const [x] = await draw(single('RandomNormal', { shape: [COUNT + 1], mean: float(2), scale: float(3) }));
  const z = x!.map(v => (v - 2) / 3);
  const moment = (n: number) => mean(z.map(v => v ** n));
  // Standard deviations of the mean of powers of normal numbers.
  for (const [n, want, variance] of [
    [1, 0, 1],
    [2, 1, 2],
    [3, 0, 15],
    [4, 3, 96],
  ] as const)
    expect(Math.abs(moment(n) - want), `${n}`).toBeLessThan(5 * Math.sqrt(variance / z.length));
  const half = Math.floor(z.length / 2);
  expect(Math.abs(correlation(z.slice(0, half), z.slice(half, 2 * half)))).toBeLessThan(5);
});

it('draws as many numbers as an input has', async () => {
  const x = floatsOf(Array(600).fill(0.25), [20, 30]);
  for (const opType of ['RandomNormalLike', 'RandomUniformLike', 'Bernoulli']) {
    const model = single(opType, {}, s => [s.input('x', ['n', 30])]);
    const [y] = await draw(model, { feeds: { x } });
    expect(y).toHaveLength(600);
    if (opType !== 'Bernoulli') continue;
    expect(y!.every(v => v === 0 || v === 1)).toBe(true);
    expect(Math.abs(mean(y!) - 0.25)).toBeLessThan(0.09);
  }
});

it('draws classes by their probabilities', async () => {
  const logits = floatsOf([Math.log(1), Math.log(2), Math.log(5), 0, Number.NEGATIVE_INFINITY, 0], [2, 3]);
  const model = single('Multinomial', { sample_size: 4000 }, s => [s.input('x', ['n', 3])]);
  const [y] = await draw(model, { feeds: { x: logits } });
  const share = (row: number, c: number) => mean(y!.slice(4000 * row, 4000 * (row + 1)).map(v => +(v === c)));
  for (const [row, c, want] of [
    [0, 0, 1 / 8],
    [0, 1, 2 / 8],
    [0, 2, 5 / 8],
    [1, 0, 1 / 2],
    [1, 1, 0],
    [1, 2, 1 / 2],
  ] as const)
    expect(Math.abs(share(row, c) - want)).toBeLessThan(0.04);
});

it('draws by seed and number of the batch alone', async () => {
  const normal = () => single('RandomNormal', { shape: [50] });
  const whole = await draw(normal(), { seed: 4, batches: 5 });
  expect(await draw(normal(), { seed: 4, batches: 2, from: 3 })).toEqual(whole.slice(3));
  expect(new Set(whole.map(String)).size).toBe(5);
  expect(await draw(normal(), { seed: 5, batches: 5 })).not.toEqual(whole);
});

it('draws other numbers for every node', async () => {
  const s = new Sketch();
  const drawn = ['a', 'b'].map(name => s.add('RandomUniform', [], name, { shape: [COUNT] }));
  const [y] = await draw(s.model([s.add('Concat', drawn, 'y', { axis: 0 })], 17));
  expect(Math.abs(correlation(y!.slice(0, COUNT), y!.slice(COUNT)))).toBeLessThan(5);
});

/** y: `steps` times what a body draws. */
function looped(opType: 'Loop' | 'Scan', steps: number): Model {
  const s = new Sketch();
  const body = new Graph('body');
  const drawn = new Value('drawn');
  const stacked = new Value('y');
  body.append(new Node('RandomUniform', [], [drawn], toAttrs({ shape: [4] })));
  const typed = (name: string, dtype: 'int64' | 'bool' | 'float32', shape: Shape = []) =>
    new Value(name, { kind: 'tensor', dtype, shape });
  if (opType === 'Loop') {
    const on = typed('on', 'bool');
    body.inputs = [typed('i', 'int64'), on];
    const still = new Value('still');
    body.append(new Node('Identity', [on], [still]));
    body.outputs = [still, drawn];
    const count = s.weight('count', Tensor.from('int64', [], BigInt64Array.of(BigInt(steps))));
    const truth = s.weight('truth', new Tensor('bool', [], Uint8Array.of(1)));
    s.graph.append(new Node('Loop', [count, truth], [stacked], toAttrs({ body })));
  } else {
    body.inputs = [typed('slice', 'float32')];
    body.outputs = [drawn];
    const slices = s.weight('slices', floatsOf(Array(steps).fill(0), [steps]));
    s.graph.append(new Node('Scan', [slices], [stacked], toAttrs({ body, num_scan_inputs: 1 })));
  }
  return s.model([stacked], 17);
}

it.each(['Loop', 'Scan'] as const)('draws other numbers in every iteration of a %s', async opType => {
  const [first, second] = await draw(looped(opType, 6), { batches: 2 });
  expect(first).toHaveLength(24);
  expect(new Set([...first!, ...second!]).size).toBe(48);
});
