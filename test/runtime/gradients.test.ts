import { describe, expect, it } from 'vitest';
import { Tensor } from '../../src/graph/tensor.js';
import { checkGradients } from '../../src/runtime/check-gradients.js';
import { convert } from '../../src/runtime/data/convert.js';
import { gradients } from '../../src/runtime/gradients.js';
import { Body, float32, model } from '../ops/body.js';
import { floatsOf } from '../ops/vjp.js';
import { mlp, mlpData, Sketch } from '../sample.js';

it('takes the number of axes that inference leaves open from the batch', async () => {
  const main = new Body('main');
  const x = main.input('x', float32([2]));
  const cond = main.input('cond', { kind: 'tensor', dtype: 'bool', shape: [] });
  const w = main.input('w', float32([2, 2]));
  // The runtime need not be asked of what type this is, but has to have it to run the rest.
  const same = main.add('Identity', [x], 'same');
  const [row, column] = [new Body('row'), new Body('column')];
  const axis = main.constant('axis', Tensor.ints([0]));
  const branches = {
    then_branch: row.outputs(row.add('Unsqueeze', [same, axis], 'row')),
    else_branch: column.outputs(column.add('Neg', [same], 'negative')),
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

const LOSS = { kind: 'cross-entropy' } as const;

it('refuses a batch without samples, as training does', async () => {
  const batch = { x: Tensor.zeros('float32', [0, 4]), target: Tensor.zeros('int64', [0]) };
  await expect(gradients(mlp(), { loss: LOSS }, batch)).rejects.toMatchObject({
    code: 'bad-data',
    message: 'The data has no samples.',
  });
});

it('names the input that is not fed', () =>
  expect(gradients(mlp(), { loss: LOSS }, { x: mlpData(8).get('x')! })).rejects.toMatchObject({
    code: 'missing-data',
    message: "Input 'target' needs an array of that name; given: 'x'.",
  }));

it('takes the target under the name asked for, where the model has a value of that name', async () => {
  const model = mlp();
  model.graph.outputs[0]!.name = 'target';
  const feeds = Object.fromEntries(mlpData(8));
  const found = await gradients(model, { loss: LOSS }, feeds);
  expect(found.loss).toBeCloseTo((await gradients(mlp(), { loss: LOSS }, feeds)).loss!, 6);
  const checks = await checkGradients(model, { loss: LOSS }, feeds, found);
  expect(checks.every(c => c.passed)).toBe(true);
});

describe('names what is not finite', () => {
  const refuses = (found: Promise<unknown>, message: string) =>
    expect(found).rejects.toMatchObject({ code: 'non-finite', message });
  /** 1 / x, whose gradient is -1 / x^2. */
  const inverse = () => {
    const s = new Sketch();
    return s.model([s.add('Reciprocal', [s.input('x', [2])], 'y')]);
  };
  const loss = { kind: 'output', output: 'y' } as const;
  const root = (w: Tensor) => {
    const s = new Sketch();
    const terms = s.add(
      'Mul',
      [s.add('Sqrt', [s.weight('w', w)], 'root'), s.input('x', [2], w.dtype)],
      'terms',
    );
    return s.model([s.add('ReduceSum', [terms], 'y', { keepdims: 0 })]);
  };
  const ones = floatsOf([1, 1]);

  it('in the data', async () => {
    const batch = Object.fromEntries(mlpData(8));
    const x = floatsOf([Number.NaN, ...batch.x!.numbers().slice(1)], [8, 4]);
    await refuses(
      gradients(mlp(), { loss: LOSS }, { ...batch, x }),
      "Loss 'loss' is NaN: the data for 'x' are not finite.",
    );
  });
  it('in a parameter', () =>
    refuses(
      gradients(root(floatsOf([Number.POSITIVE_INFINITY, 1])), { loss }, { x: ones }),
      "Loss 'y' is Infinity: 'w' is not finite.",
    ));
  it('in a gradient alone', () =>
    refuses(gradients(root(floatsOf([0, 1])), { loss }, { x: ones }), "The gradient of 'w' is not finite."));
  it('in loss and gradient alone', () =>
    refuses(
      gradients(root(floatsOf([-1, 1])), { loss }, { x: ones }),
      "Loss 'y' is NaN: the gradient of 'w' is not finite.",
    ));
  it('in a vector-Jacobian product', () =>
    refuses(
      gradients(inverse(), { cotangents: ['y'], wrt: ['x'] }, { x: floatsOf([0, 1]), y_cotangent: ones }),
      "The gradient of 'x' is not finite.",
    ));
  it('in 16 bits', () => {
    const half = (...values: number[]) => convert(floatsOf(values), 'float16');
    return refuses(
      gradients(root(half(0, 1)), { loss }, { x: half(1, 1) }),
      "The gradient of 'w' is not finite.",
    );
  });
});
