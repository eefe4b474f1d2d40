import { describe, it } from 'vitest';
import { checkVjp } from './vjp.js';

const broadcasts: [number[], number[]][] = [
  [
    [2, 3],
    [2, 3],
  ],
  [[2, 3], [3]],
  [
    [2, 1],
    [1, 3],
  ],
  [[], [2, 2]],
  [
    [4, 1, 3],
    [2, 1],
  ],
];

describe.each(['Add', 'Sub', 'Mul', 'Div'])('%s', op => {
  it.each(broadcasts)('of %j and %j', async (a, b) => {
    await checkVjp(op, [a, b], { range: [0.5, 2] });
    await checkVjp(op, [a, b], { range: [0.5, 2], symbolic: true });
  });
});

it.each(['Neg', 'Abs', 'Exp'])('%s', op => checkVjp(op, [[3, 4]]));
it.each(['Log', 'Sqrt', 'Reciprocal'])('%s', op => checkVjp(op, [[3, 4]], { range: [0.5, 3] }));
