import { expect, test } from 'vitest';
import { parseScale } from '../../src/passes/options.js';

test.each([
  ['1/255', 1 / 255],
  ['0.5', 0.5],
  ['1e-3', 1e-3],
  ['-2/4', -0.5],
])('%s', (text, scale) => {
  expect(parseScale(text)).toBe(scale);
});

test.each(['', '/', '1/', '1/0', '0', '1/2/3', 'x', '1/x', 'Infinity', '0/0'])("'%s' is refused", text => {
  expect(() => parseScale(text)).toThrow(expect.objectContaining({ code: 'bad-option' }));
});
