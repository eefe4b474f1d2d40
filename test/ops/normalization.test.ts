import { describe, expect, it } from 'vitest';
import { Tensor } from '../../src/graph/tensor.js';
import { float } from '../../src/ops/core/builder.js';
import { bools, checkVjp, floatsOf, spread, vjpOf } from './vjp.js';

const both = async (...[op, inputs, c]: Parameters<typeof checkVjp>) => {
  await checkVjp(op, inputs, c);
  await checkVjp(op, inputs, { ...c, symbolic: true });
};

const positive = (n: number) => spread([n], [0.5, 2], 7);

describe('BatchNormalization', () => {
  it.each([[[4, 3]], [[2, 3, 4]], [[2, 2, 2, 3]]])('with given statistics, of %j', async dims => {
    const c = dims[1]!;
    await both('BatchNormalization', [dims, [c], [c], [c], positive(c)]);
  });
  it.each([[[4, 3]], [[2, 3, 4]], [[2, 2, 2, 3]]])('with those of the batch, of %j', async dims => {
    const c = dims[1]!;
    const attrs = { training_mode: 1, momentum: float(0.7), epsilon: float(1e-2) };
    await both('BatchNormalization', [dims, [c], [c], [c], positive(c)], {
      attrs,
      outputs: 3,
      cotangents: [0],
      wrt: [0, 1, 2],
    });
  });
  it.each([true, false])('with those of a batch of large images, its size hidden: %s', async isHidden => {
    const x = [2, 2, 25, 24];
    const inputs = [spread(x), spread([2]), spread([2]), spread([2]), positive(2)];
    const c = {
      attrs: { training_mode: 1 },
      outputs: 3,
      wrt: [0, 1, 2],
      symbolic: (input: number, axis: number) => isHidden && input === 0 && axis === 0,
    };
    const dy = spread(x, [-1, 1], 9);
    const byRows = await vjpOf('BatchNormalization', inputs, dy, c);
    const usual = await vjpOf('BatchNormalization', inputs, dy, { ...c, provider: 'cuda' });
    const off = byRows.map((d, i) =>
      Math.max(...d.numbers().map((v, k) => Math.abs(v - usual[i]!.numbers()[k]!))),
    );
    expect(off.map((d, i) => d / Math.max(...usual[i]!.numbers().map(Math.abs)) < 1e-5)).toEqual([
      true,
      true,
      true,
    ]);
  });
  it('passes the cotangents of the running statistics on', async () => {
    const attrs = { training_mode: 1, momentum: float(0.7) };
    const inputs = [[5, 2], [2], [2], [2], positive(2)] as const;
    await both('BatchNormalization', inputs, { attrs, outputs: 3 });
    await both('BatchNormalization', inputs, { attrs, outputs: 3, cotangents: [1, 2], wrt: [0, 3, 4] });
  });
});

describe('LayerNormalization', () => {
  it.each([-1, 0, 1, 2])('from axis %i on', async axis => {
    const dims = [2, 3, 4];
    const scale = dims.slice(axis < 0 ? axis + 3 : axis);
    await both('LayerNormalization', [dims, scale, scale], { attrs: { axis } });
    await both('LayerNormalization', [dims, scale], { attrs: { axis, epsilon: float(0.1) } });
  });
  it('passes the cotangents of mean and deviation on', async () => {
    await both('LayerNormalization', [[2, 3, 4], [4], [4]], { outputs: 3 });
    await both('LayerNormalization', [[3, 4], [4]], { outputs: 3, cotangents: [1], wrt: [0] });
    await both('LayerNormalization', [[3, 4], [4]], { outputs: 3, cotangents: [2], wrt: [0] });
  });
});

// One row: dx = inv * (dy - mean(dy) - xhat * mean(dy * xhat)).
it('LayerNormalization of float64 has a gradient of float64', async () => {
  const double = (values: readonly number[]) =>
    Tensor.from('float64', [1, values.length], Float64Array.from(values));
  const [x, dy] = [
    [0.3, -1.7, 2.1, 0.9],
    [1, -2, 0.5, 3],
  ] as const;
  const mean = (values: readonly number[]) => values.reduce((a, b) => a + b) / values.length;
  const centered = x.map(v => v - mean(x));
  const inv = 1 / Math.sqrt(mean(centered.map(v => v * v)) + 1e-5);
  const xhat = centered.map(v => v * inv);
  const slope = mean(xhat.map((v, i) => v * dy[i]!));
  const want = dy.map((d, i) => inv * (d - mean(dy) - xhat[i]! * slope));
  const ones = Tensor.filled('float64', [4], 1);
  const [dx] = await vjpOf('LayerNormalization', [double(x), ones], double(dy));
  for (const [i, got] of dx!.numbers().entries()) expect(got).toBeCloseTo(want[i]!, 12);
});

it.each([-1, 1, 0])('RMSNormalization from axis %i on', async axis => {
  const dims = [2, 3, 4];
  await both('RMSNormalization', [dims, dims.slice(axis < 0 ? axis + 3 : axis)], {
    attrs: { axis },
    opset: 23,
  });
});

it('InstanceNormalization', () =>
  both('InstanceNormalization', [[2, 3, 2, 3], [3], [3]], { attrs: { epsilon: float(0.05) } }));

describe('GroupNormalization', () => {
  it.each([1, 2, 4])('in %i groups', async groups => {
    const attrs = { num_groups: groups, epsilon: float(0.05) };
    await both('GroupNormalization', [[2, 4, 3], [4], [4]], { attrs, opset: 21 });
    await both('GroupNormalization', [[2, 4, 3], [groups], [groups]], { attrs, opset: 18 });
  });
});

it('MeanVarianceNormalization', async () => {
  await both('MeanVarianceNormalization', [[2, 2, 2, 3]]);
  await both('MeanVarianceNormalization', [[2, 3, 2, 2]], { attrs: { axes: [2, 3] } });
});

describe('LpNormalization', () => {
  it.each([1, 2])('p = %i', async p => {
    await both('LpNormalization', [[3, 4]], { attrs: { p } });
    await both('LpNormalization', [[3, 4]], { attrs: { p, axis: 0 } });
  });
});

it.each([1, 3, 5])('LRN over %i channels', size =>
  both('LRN', [[2, 6, 1, 2]], { attrs: { size, alpha: float(0.9), beta: float(0.6), bias: float(1.5) } }),
);

describe('Dropout', () => {
  it('is the identity outside training', async () => {
    await checkVjp('Dropout', [[3, 4]]);
    await checkVjp('Dropout', [[3, 4], floatsOf([0.4], []), bools([0], [])], { wrt: [0] });
    await checkVjp('Dropout', [[3, 4], floatsOf([0.4], []), bools([0], [])], { wrt: [0], constants: [1, 2] });
  });
  it('drops the same places forward and backward', async () => {
    // y is linear in x: with one mask, sum(k y) = sum(x dx) to the last digits, and with two it is not.
    const [x, k] = [spread([6, 8], [1, 2]), spread([6, 8], [-1, 1], 9)];
    const { loss, gradient } = await dropout(x, k);
    const factors = gradient.map((g, i) => (g / k.numbers()[i]!) * 0.6);
    for (const factor of factors) expect([0, 1]).toContain(Number(factor.toFixed(5)));
    expect(new Set(factors.map(Math.round)).size).toBe(2);
    expect(loss).toBeCloseTo(
      x.numbers().reduce((sum, v, i) => sum + v * gradient[i]!, 0),
      4,
    );
  });
});

async function dropout(x: ReturnType<typeof spread>, k: ReturnType<typeof spread>) {
  const { Sketch } = await import('../sample.js');
  const { gradientModel } = await import('../../src/passes/differentiate.js');
  const { Session, sessionShapes } = await import('../../src/runtime/session.js');
  const { encodeModel } = await import('../../src/graph/proto/codec.js');
  const s = new Sketch();
  const ratio = s.weight('ratio', floatsOf([0.4], []));
  const on = s.weight('on', bools([1], []));
  const y = s.add('Dropout', [s.input('x', ['n', 8]), ratio, on], 'y', { seed: 7 });
  const sum = s.add('ReduceSum', [s.add('Mul', [y, s.weight('k', k)], 'ky')], 'sum', { keepdims: 0 });
  const loss = { kind: 'output', output: 'sum' } as const;
  const made = await gradientModel(s.model([sum]), { loss, wrt: ['x'] }, sessionShapes);
  const session = await Session.create(encodeModel(made.model));
  const results = await session.run({ x });
  await session.release();
  return {
    loss: results[made.loss!]!.numbers()[0]!,
    gradient: results[made.gradients.get('x')!]!.numbers(),
  };
}
