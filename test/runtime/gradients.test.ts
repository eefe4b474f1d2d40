import { expect, it } from 'vitest';
import { Tensor } from '../../src/graph/tensor.js';
import { gradients } from '../../src/runtime/gradients.js';
import { Body, float32, model } from '../ops/body.js';
import { floatsOf } from '../ops/vjp.js';

it('takes the number of axes that inference leaves open from the batch', async () => {
  const main = new Body('main');
  const x = main.input('x', float32([2]));
  const cond = main.input('cond', { kind: 'tensor', dtype: 'bool', shape: [] });
  const w = main.input('w', float32([2, 2]));
  const [row, column] = [new Body('row'), new Body('column')];
  const axis = main.constant('axis', Tensor.ints([0]));
  const branches = {
    then_branch: row.outputs(row.add('Unsqueeze', [x, axis], 'row')),
    else_branch: column.outputs(column.add('Neg', [x], 'negative')),
  };
  const chosen = main.add('If', [cond], 'chosen', branches);
  const made = model(main, [main.add('MatMul', [chosen, w], 'y')]);
  const feeds = (taken: number, dims: number[]) => ({
    x: floatsOf([3, 5]),
    w: Tensor.from('float32', [2, 2], Float32Array.of(1, 2, 4, 8)),
    cond: Tensor.filled('bool', [], taken),
    y_cotangent: Tensor.from('float32', dims, Float32Array.of(1, 10)),
  });
  const options = { cotangents: ['y'], wrt: ['x'] };
  const taken = await gradients(made, options, feeds(1, [1, 2]));
  expect(taken.gradients.get('x')!.numbers()).toEqual([21, 84]);
  const other = await gradients(made, options, feeds(0, [2]));
  expect(other.gradients.get('x')!.numbers()).toEqual([-21, -84]);
});
