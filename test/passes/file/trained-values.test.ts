/** What a rule reads of an initializer that trains, or is fed, is its value of the moment, never the one in the file. */
import { describe, expect, it } from 'vitest';
import { isFloat } from '../../../src/graph/dtype.js';
import type { Model, Value } from '../../../src/graph/ir.js';
import { Names } from '../../../src/graph/names.js';
import { encodeModel } from '../../../src/graph/proto/codec.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { inject, Trainer } from '../../../src/index.js';
import { backward } from '../../../src/ir.js';
import { Builder } from '../../../src/ops/core/builder.js';
import { inferShapes } from '../../../src/passes/normalize/infer-shapes.js';
import { sessionShapes } from '../../../src/runtime/session.js';
import { EXAMPLES, type Example, row, STRAIGHT_THROUGH } from '../../ops/examples.js';
import { floatsOf } from '../../ops/vjp.js';
import { Sketch } from '../../sample.js';

/** The backward pass of an example as bytes, where its floating-point inputs are initializers of `value` (none where undefined). */
async function written(example: Example, value?: number): Promise<Uint8Array> {
  const { model, ins, outs } = example.make(false);
  await inferShapes(model, sessionShapes);
  const { graph } = model;
  const wrt = [...new Set(ins)].filter((v): v is Value => !!v && isFloat(v.dtype));
  const before = new Map(wrt.map(v => [v, graph.initializers.get(v)]));
  for (const v of wrt) {
    graph.initializers.delete(v);
    if (value !== undefined) graph.initializers.set(v, Tensor.filled(v.dtype!, v.shape as number[], value));
  }
  const g = new Builder(graph, { names: Names.of(model), opsets: model.opsetImports });
  const names = new Set(outs.map(o => o.name));
  const results = graph.nodes.flatMap(n =>
    n.outputs.flatMap(v => (v && names.has(v.name) && isFloat(v.dtype) ? [v] : [])),
  );
  const seeds = new Map(results.map(v => [v, g.input('cotangent', v.type)]));
  const found = backward(g, seeds, wrt, { straightThrough: true });
  graph.outputs = found.flatMap(e => e?.value ?? []);
  for (const v of before.keys()) graph.initializers.delete(v);
  return encodeModel(model);
}

const scalarExponent = row('Pow', [[2, 3], floatsOf([3], [])], { range: [0.5, 2] });

describe.each(
  [...EXAMPLES, ...STRAIGHT_THROUGH, scalarExponent].map(e => [`${e.domain} ${e.op}`.trim(), e] as const),
)('%s', (_, example) => {
  it('does not depend on what the file holds', async () => {
    const open = await written(example);
    for (const value of [0, 1, 2]) expect(Buffer.compare(await written(example, value), open)).toBe(0);
  });
});

/** w^b, where both train: its gradients at any values of the two. */
function power(b: Tensor): Model {
  const s = new Sketch();
  const x = s.input('x', [1]);
  const p = s.add('Pow', [s.weight('w', floatsOf([1.5])), s.weight('b', b)], 'p');
  return s.model([s.add('Mul', [x, p], 'y')]);
}

it.each([
  ['a scalar', []],
  ['a vector', [1]],
])('trains an exponent that is %s', async (_, dims) => {
  const lr = 0.01;
  const made = await inject(power(floatsOf([2], dims)), {
    loss: { kind: 'mse' },
    train: ['b', 'w'],
    optimizer: { name: 'sgd', lr },
  });
  const trainer = await Trainer.create(made.model);
  const batch = { x: floatsOf([1]), target: floatsOf([0]) };
  // In JavaScript: loss (w^b)^2.
  const wanted = { w: 1.5, b: 2 };
  for (let step = 0; step < 3; step++) {
    await trainer.step(batch);
    const { w, b } = wanted;
    const y = w ** b;
    wanted.w -= lr * 2 * y * b * w ** (b - 1);
    wanted.b -= lr * 2 * y * y * Math.log(w);
  }
  const parameters = trainer.state;
  expect(parameters.get('w')!.numbers()[0]).toBeCloseTo(wanted.w, 5);
  expect(parameters.get('b')!.numbers()[0]).toBeCloseTo(wanted.b, 5);
  await trainer.release();
});
