import { expect, it } from 'vitest';
import { Tensor } from '../../src/graph/tensor.js';
import { inspect } from '../../src/passes/inspect.js';
import { sessionShapes } from '../../src/runtime/session.js';
import { floatsOf, spread } from '../ops/vjp.js';
import { Sketch } from '../sample.js';

/** A model with one of everything that looks like a parameter. */
function everything() {
  const s = new Sketch();
  const x = s.input('x', ['batch', 3]);
  const hidden = s.add('MatMul', [x, s.weight('weight', [3, 3])], 'xw');
  const biased = s.add('Add', [hidden, s.weight('bias', [3])], 'biased');
  const shifted = s.add('Add', [biased, s.weight('epsilon', floatsOf([1e-5]))], 'shifted');
  const scaled = s.add('Mul', [shifted, s.weight('scale', floatsOf([0.5], []))], 'scaled');
  const masked = s.add('Add', [scaled, s.weight('mask', floatsOf([0, 0, -1e9]))], 'masked');
  const kept = s.add('Mul', [masked, s.weight('keep', floatsOf([1, 0, 1]))], 'kept');
  const clipped = s.add(
    'Clip',
    [kept, s.weight('low', floatsOf([-3], [])), s.weight('high', floatsOf([3], []))],
    'clipped',
  );
  const constant = s.add('Constant', [], 'hidden_weight', { value: spread([3, 1]) });
  const unit = s.add('MatMul', [clipped, constant], 'unit');
  const y = s.add('Add', [unit, s.weight('unit.bias', floatsOf([0.1]))], 'y');
  s.weight('unused', [2]);
  s.weight('integers', Tensor.ints([1, 2]));
  return s.model([y]);
}

const trained = (found: Awaited<ReturnType<typeof inspect>>) =>
  found.parameters.filter(p => p.trains).map(p => p.name);

it('takes weights and leaves constants of the arithmetic, with reasons', async () => {
  const found = await inspect(everything(), {}, sessionShapes);
  expect(trained(found)).toEqual(['weight', 'bias', 'unit.bias', 'hidden_weight']);
  const why = Object.fromEntries(found.parameters.map(p => [p.name, p.why]));
  expect(why).toMatchObject({
    epsilon: 'a constant of the arithmetic',
    scale: 'a constant of the arithmetic',
    mask: 'a mask',
    keep: 'a mask',
    low: 'a setting of Clip',
    unused: expect.stringContaining('does not depend'),
  });
});

it('is overruled by globs, of which freezing is the stronger', async () => {
  expect(
    trained(await inspect(everything(), { train: ['scale'], freeze: ['*bias'] }, sessionShapes)),
  ).toEqual(['weight', 'scale', 'hidden_weight']);
  expect(
    trained(await inspect(everything(), { train: ['bias'], freeze: ['bias'] }, sessionShapes)),
  ).not.toContain('bias');
});

it('does not read what lies outside the main job: kinds of models', async () => {
  const found = await inspect(everything(), {}, sessionShapes);
  expect(found.kind).toBe('forward');
  expect(found.operators.find(o => o.operator === 'MatMul')).toMatchObject({
    count: 2,
    gradient: 'yes',
    onPath: true,
  });
});
