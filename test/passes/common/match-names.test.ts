import { expect, it } from 'vitest';
import { matcher } from '../../../src/passes/common/match-names.js';

const NAMES = ['embeddings.position', 'fc1.weight', 'fc1.bias'];

it('names what is close to a glob that matches nothing', () => {
  expect(() => matcher('--freeze', ['*fc1.wieght'], NAMES)).toThrow(
    "--freeze '*fc1.wieght' matches no floating-point initializer, but 'fc1.weight' is close; ",
  );
  expect(() => matcher('--freeze', ['conv*'], NAMES)).toThrow(
    "'conv*' matches no floating-point initializer; ",
  );
});
