import { expect, it } from 'vitest';
import { showShape } from '../../src/graph/ir.js';

it('a shape in a message has a mark for what is not known', () => {
  expect(showShape(['batch', 3, null])).toBe('[batch,3,?]');
  expect(showShape([])).toBe('[]');
  expect(showShape(undefined)).toBe('[...]');
});
