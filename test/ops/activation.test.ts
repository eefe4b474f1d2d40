import { describe, expect, it } from 'vitest';
import { type AttrInit, float } from '../../src/ops/core/builder.js';
import { loadOperators, opDef } from '../../src/ops/index.js';
import { checkVjp, floatsOf } from './vjp.js';

await loadOperators();

const cases: [op: string, attrs: AttrInit][] = [
  ['Relu', {}],
  ['LeakyRelu', {}],
  ['LeakyRelu', { alpha: float(0.3) }],
  ['ThresholdedRelu', {}],
  ['ThresholdedRelu', { alpha: float(-0.4) }],
  ['Shrink', {}],
  ['Shrink', { lambd: float(0.9), bias: float(0.6) }],
  ['Elu', {}],
  ['Elu', { alpha: float(2.5) }],
  ['Selu', {}],
  ['Selu', { alpha: float(2), gamma: float(3) }],
  ['Celu', {}],
  ['Celu', { alpha: float(0.7) }],
  ['Sigmoid', {}],
  ['Tanh', {}],
  ['HardSigmoid', {}],
  ['HardSigmoid', { alpha: float(0.6), beta: float(0.3) }],
  ['HardSwish', {}],
  ['Mish', {}],
  ['Softplus', {}],
  ['Softsign', {}],
];

it.each(cases)('%s %j', (op, attrs) => checkVjp(op, [[4, 5]], { attrs, range: [-4, 4] }));
it.each(['none', 'tanh'])('Gelu approximated by %s', approximate =>
  checkVjp('Gelu', [[4, 5]], { attrs: { approximate }, opset: 20, range: [-4, 4] }),
);
it.each([1, 1.7])('Swish with alpha %d', alpha =>
  checkVjp('Swish', [[4, 5]], { attrs: { alpha: float(alpha) }, opset: 24, range: [-4, 4] }),
);

it.each(cases.filter(([op]) => /LeakyRelu|[ES]elu/.test(op)))('%s %j at 0', (op, attrs) =>
  checkVjp(op, [floatsOf([0, 0])], { attrs, step: 1e-3 }),
);

describe('PRelu', () => {
  it.each([[[3]], [[1]], [[2, 1]], [[4, 2, 3]]])('with a slope of shape %j', async slope => {
    await checkVjp('PRelu', [[4, 2, 3], slope]);
    await checkVjp('PRelu', [[4, 2, 3], slope], { symbolic: true });
  });
});

describe.each(['Softmax', 'LogSoftmax'])('%s', op => {
  it.each([0, 1, -1, -2])('along axis %i', axis => checkVjp(op, [[2, 3, 4]], { attrs: { axis } }));
  it('along the last axis by default', () => checkVjp(op, [[2, 3]], { symbolic: true }));
  it('of large numbers', () =>
    checkVjp(op, [floatsOf([1000, 1001, 999, -1000, -1001, -999], [2, 3])], {
      step: 1 / 64,
      tolerance: 2e-4,
    }));
});

it('Hardmax has no gradient by default', () =>
  expect(opDef({ domain: '', opType: 'Hardmax' })?.kind).toBe('zero'));
