import { expect, it } from 'vitest';
import { refill } from '../../src/graph/refill.js';

it('takes more items than a call takes arguments, and keeps the array', () => {
  const array = [1, 2, 3];
  const items = Array.from({ length: 300_000 }, (_, i) => i);
  refill(array, items);
  expect(array).toEqual(items);
});
