import { expect, it } from 'vitest';
import { Graph, Value } from '../../../src/graph/ir.js';
import { Names } from '../../../src/graph/names.js';
import { Builder } from '../../../src/ops/core/builder.js';
import { scattered } from '../../../src/ops/core/scatter.js';

/** A value of this shape that nothing is known of. */
function setUp() {
  const g = new Builder(new Graph('test'), { names: new Names(), opsets: new Map([['', 18]]) });
  const input = (shape: readonly (number | string)[], dtype: 'float32' | 'int64' = 'float32') =>
    g.of(new Value('input', { kind: 'tensor', dtype, shape }));
  return { x: input(['N', 4]), indices: input(['N', 1], 'int64'), values: input(['N', 1]), input };
}

it('knows zeros with one number per line', () => {
  const { x, indices, values } = setUp();
  const made = x.zeros().scatterElements(indices, values, -1, 'add');
  expect(scattered(made, 1)?.indices.value).toBe(indices.value);
  expect(scattered(made, 1)?.values.value).toBe(values.value);
});

it('knows no others', () => {
  const { x, indices, values, input } = setUp();
  const others = [
    x,
    x.scatterElements(indices, values, 1, 'add'),
    x.ones().scatterElements(indices, values, 1, 'add'),
    x.zeros().scatterElements(indices, values, 1, 'mul'),
    x.zeros().scatterElements(input(['N', 2], 'int64'), input(['N', 2]), 1, 'add'),
    x.zeros().scatterElements(input(['M', 1], 'int64'), input(['M', 1]), 1, 'add'),
    x.zeros().scatterElements(indices, values, 0, 'add'),
  ];
  for (const made of others) expect(scattered(made, 1)).toBeUndefined();
});
