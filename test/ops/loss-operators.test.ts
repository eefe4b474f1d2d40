import { describe, expect, it } from 'vitest';
import type { Model } from '../../src/graph/ir.js';
import { gradientModel } from '../../src/passes/differentiate.js';
import { sessionShapes } from '../../src/runtime/session.js';
import { Sketch } from '../sample.js';
import { checkVjp, type Input, ints, spread, type VjpCase } from './vjp.js';

const CLASSES = 4;
const weights = spread([CLASSES], [0.5, 2], 3);

/** Classes for scores of shape [N, C, ...]; the second is none of them if asked for. */
function classes(dims: readonly number[], ignored = false) {
  const shape = dims.filter((_, axis) => axis !== 1);
  const size = shape.reduce((n, d) => n * d, 1);
  const values = Array.from({ length: size }, (_, i) => (ignored && i === 1 ? -100 : (i * 7) % CLASSES));
  return ints(values, shape);
}

const both = async (opType: string, inputs: readonly Input[], c: VjpCase) => {
  await checkVjp(opType, inputs, { ...c, wrt: [0] });
  await checkVjp(opType, inputs, { ...c, wrt: [0], symbolic: true });
};

const SHAPES = [[[3, CLASSES]], [[2, CLASSES, 3]], [[2, CLASSES, 2, 2]]];
const REDUCTIONS = ['mean', 'sum', 'none'];

describe.each(['SoftmaxCrossEntropyLoss', 'NegativeLogLikelihoodLoss'])('%s', opType => {
  describe.each(REDUCTIONS)('reduction %s', reduction => {
    it.each(SHAPES)('of %j', async shape => {
      await both(opType, [shape, classes(shape)], { attrs: { reduction } });
      await both(opType, [shape, classes(shape), weights], { attrs: { reduction } });
      const attrs = { reduction, ignore_index: -100 };
      await both(opType, [shape, classes(shape, true)], { attrs });
      await both(opType, [shape, classes(shape, true), weights], { attrs });
    });
  });
});

it('ignores a class that is one of the scored', () =>
  both('SoftmaxCrossEntropyLoss', [[3, CLASSES], ints([1, 2, 1])], { attrs: { ignore_index: 1 } }));

it.each(REDUCTIONS)('passes the cotangents of log-probabilities on, reduction %s', async reduction => {
  const inputs = [[2, CLASSES, 3], classes([2, CLASSES, 3]), weights];
  await both('SoftmaxCrossEntropyLoss', inputs, { attrs: { reduction }, outputs: 2 });
  await both('SoftmaxCrossEntropyLoss', inputs, { attrs: { reduction }, outputs: 2, cotangents: [1] });
});

describe('the gradient of a choice by class', () => {
  const scattered = async (model: Model, loss: Parameters<typeof gradientModel>[1]['loss']) => {
    const { model: made } = await gradientModel(model, { loss, wrt: ['x'] }, sessionShapes);
    const { nodes } = made.graph;
    return nodes.flatMap(({ opType, inputs }) =>
      opType === 'ScatterElements' ? [nodes.find(n => n.outputs.includes(inputs[0]!))?.opType] : [],
    );
  };
  it.each([[['N', CLASSES]], [['N', 'T', CLASSES]], [['N', CLASSES, 'H', 'W']]])(
    'is made in one pass, of scores %j',
    async shape => {
      const s = new Sketch();
      const x = s.input('x', shape);
      const model = s.model([s.add('Neg', [x], 'scores')]);
      expect(await scattered(model, { kind: 'cross-entropy' })).toEqual(['Mul']);
    },
  );
  it('is that of the scores too where these are used otherwise', async () => {
    const s = new Sketch();
    const logp = s.add('LogSoftmax', [s.input('x', ['N', CLASSES])], 'logp', { axis: -1 });
    const target = s.input('target', ['N'], 'int64');
    const nll = s.add('NegativeLogLikelihoodLoss', [logp, target], 'nll');
    const mean = s.add('ReduceMean', [logp], 'mean', { keepdims: 0 });
    const model = s.model([s.add('Add', [nll, mean], 'sum')]);
    expect(await scattered(model, { kind: 'output', output: 'sum' })).toEqual(['Expand']);
  });
});
