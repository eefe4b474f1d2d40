import { expect, it } from 'vitest';
import type { Tensor } from '../../../src/graph/tensor.js';
import { withValues } from '../../../src/passes/normalize/with-values.js';
import { floatsOf, ints } from '../../ops/vjp.js';
import { Sketch } from '../../sample.js';

/** x + w + b, where w is an input of any length, and b an initializer whose declared type is of any length too. */
function sum() {
  const s = new Sketch();
  const [x, w, b] = [s.input('x', [2]), s.input('w', ['n']), s.weight('b', floatsOf([1, 2]))];
  b.type = { kind: 'tensor', dtype: 'float32', shape: ['m'] };
  return s.model([s.add('Sum', [x, w, b], 'y')]);
}

const typed = (values: Record<string, Tensor>) => {
  const { graph } = withValues(sum(), new Map(Object.entries(values)));
  return [...graph.initializers].map(([v, t]) => [v.name, v.shape, t.numbers()]);
};

it('gives inputs and initializers values, and their types', () => {
  expect(typed({ w: floatsOf([3, 4]), b: floatsOf([5, 6]), other: floatsOf([7]) })).toEqual([
    ['b', [2], [5, 6]],
    ['w', [2], [3, 4]],
  ]);
});

it('leaves the model that it is given as it is', () => {
  const model = sum();
  withValues(model, new Map([['w', floatsOf([3, 4])]]));
  expect([...model.graph.initializers.keys()].map(v => v.name)).toEqual(['b']);
  expect(model.graph.inputs[1]!.shape).toEqual(['n']);
});

it.each<[string, Record<string, Tensor>, { code: string; message: string }]>([
  [
    'another type',
    { w: ints([3, 4]) },
    { code: 'bad-dtype', message: "The value of 'w' is float32, not int64." },
  ],
  [
    'another shape than the value before',
    { b: floatsOf([5, 6, 7]) },
    { code: 'bad-shape', message: "The value of 'b' has shape [2], not [3]." },
  ],
  [
    'no name of the model’s',
    { other: floatsOf([7]) },
    {
      code: 'no-such-value',
      message: 'None of the parameters given is an input or initializer of the model.',
    },
  ],
])('refuses a value of %s', (_, values, error) => {
  expect(() => typed(values)).toThrow(expect.objectContaining(error));
});
