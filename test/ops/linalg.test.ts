import { describe, it } from 'vitest';
import { float } from '../../src/ops/core/builder.js';
import { Body, float32, model } from './body.js';
import { checkModel, checkVjp, spread } from './vjp.js';

describe('MatMul', () => {
  it.each([
    [
      [2, 3],
      [3, 4],
    ],
    [
      [2, 2, 3],
      [3, 4],
    ],
    [
      [2, 3],
      [2, 3, 4],
    ],
    [
      [2, 1, 2, 3],
      [3, 3, 2],
    ],
    [[3], [3]],
    [[3], [3, 2]],
    [[2, 3], [3]],
    [[3], [2, 3, 2]],
    [[2, 2, 3], [3]],
  ])('of %j and %j', async (a, b) => {
    await checkVjp('MatMul', [a, b]);
    await checkVjp('MatMul', [a, b], { symbolic: true });
  });
});

it.each([
  [[2, 3, 2], 'more outputs'],
  [[3, 2], 'a matrix'],
])('MatMul of %j with a weight of %s that is read transposed', async x => {
  const main = new Body('main');
  const ins = [main.input('x', float32(x)), main.input('w', float32([5, 2]))];
  const b = main.add('Transpose', [ins[1]!], 'b', { perm: [1, 0] });
  const outs = [main.add('MatMul', [ins[0]!, b], 'y')];
  await checkModel(model(main, outs), ins, outs, [spread(x), spread([5, 2])]);
});

describe.each([
  [0, 0],
  [0, 1],
  [1, 0],
  [1, 1],
])('Gemm with transA %i, transB %i', (transA, transB) => {
  const a = transA ? [3, 2] : [2, 3];
  const b = transB ? [4, 3] : [3, 4];
  it.each([[[4]], [[2, 1]], [[2, 4]], [[]], [[1]]])('and C of shape %j', async c => {
    const attrs = { transA, transB, alpha: float(0.5), beta: float(1.5) };
    await checkVjp('Gemm', [a, b, c], { attrs });
    await checkVjp('Gemm', [a, b, c], { attrs, symbolic: true });
  });
  it('and no C', () => checkVjp('Gemm', [a, b], { attrs: { transA, transB } }));
});

describe('Det', () => {
  it.each([[[1, 1]], [[2, 2]], [[3, 3]], [[2, 4, 4]], [[2, 1, 2, 2]]])('of shape %j', shape =>
    checkVjp('Det', [shape]),
  );
  it('of unknown extents', () => checkVjp('Det', [[2, 3, 3]], { symbolic: true }));
});
