import { describe, it } from 'vitest';
import { float } from '../../src/ops/core/builder.js';
import { checkVjp } from './vjp.js';

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
