import { describe, it } from 'vitest';
import { checkVjp, type Input, ints, type VjpCase } from './vjp.js';

/** Checks with known extents and with hidden ones. */
async function check(opType: string, inputs: readonly Input[], c: VjpCase = {}): Promise<void> {
  await checkVjp(opType, inputs, c);
  await checkVjp(opType, inputs, { ...c, symbolic: true });
}

describe('reading', () => {
  it.each([
    ['a scalar', ints([1], [])],
    ['some, one twice', ints([2, 0, 2])],
    ['a matrix, from the end', ints([-1, 0, 1, -1], [2, 2])],
  ])('Gather: %s', async (_, indices) => {
    for (const axis of [0, 1, -1]) await check('Gather', [[3, 4, 3], indices], { attrs: { axis } });
  });
  it('Gather of a vector', () => check('Gather', [[4], ints([3, 1, 3, 3])]));
  it.each([0, 1])('GatherElements along %i', axis =>
    check('GatherElements', [[3, 3], ints([0, -1, 1, 1, 2, 1], [2, 3])], { attrs: { axis } }),
  );
  it('GatherND', async () => {
    await check('GatherND', [[3, 2, 2], ints([0, 1, 2, -1, 0, 1], [3, 2])]);
    await check('GatherND', [[3, 2], ints([2, 0, 2], [3, 1])]);
    await check('GatherND', [[2, 3, 2], ints([1, 0], [2, 1])], { attrs: { batch_dims: 1 } });
  });
});
