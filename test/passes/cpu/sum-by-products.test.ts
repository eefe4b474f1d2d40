import { describe, expect, it } from 'vitest';
import { Graph, Model, Value } from '../../../src/graph/ir.js';
import { Names } from '../../../src/graph/names.js';
import { Builder } from '../../../src/ops/core/builder.js';
import { sumByProducts } from '../../../src/passes/cpu/sum-by-products.js';
import { Session } from '../../../src/runtime/session.js';
import { spread } from '../../ops/vjp.js';

type Case = {
  x: readonly (number | string)[];
  axes: readonly number[];
  keepdims?: boolean;
  dtype?: 'float32' | 'float64';
  turned?: boolean;
};

/** The sum of x, or of its transpose, over these axes. */
function sum({ x, axes, keepdims = false, dtype = 'float32', turned = false }: Case): Model {
  const graph = new Graph('sum');
  graph.inputs = [new Value('x', { kind: 'tensor', dtype, shape: [...x] })];
  const model = Object.assign(new Model(graph), { irVersion: 8, opsetImports: new Map([['', 17]]) });
  const g = new Builder(graph, { names: Names.of(model), opsets: model.opsetImports });
  const given = g.of(graph.inputs[0]!);
  const y = new Value('y');
  g.identity((turned ? given.transpose([1, 0]) : given).sum(axes, { keepdims }).value, y);
  graph.addOutputs(y);
  return model;
}

async function run(model: Model, dims: readonly number[]) {
  const session = await Session.create(model);
  const { y } = await session.run({ x: spread(dims, [-1, 1]) });
  await session.release();
  return y!;
}

const operators = ({ graph }: Model) => graph.nodes.map(node => node.opType);

describe('a sum over leading axes', () => {
  it.each<[string, Case]>([
    ['of rows', { x: [430, 20], axes: [0] }],
    ['of rows of a transpose', { x: [20, 430], axes: [0], turned: true }],
    ['of sequences', { x: [4, 130, 20], axes: [0, 1] }],
    ['that are kept', { x: [4, 130, 20], axes: [0, 1], keepdims: true }],
    ['of matrices', { x: [140, 3, 20], axes: [0] }],
    ['of single columns', { x: [8200, 1], axes: [0] }],
    ['of a batch of any size', { x: ['batch', 30, 20], axes: [0, 1] }],
  ])('%s is the same as a product with ones', async (_, given) => {
    const dims = given.x.map(d => (typeof d === 'number' ? d : 3));
    const model = sum(given);
    const before = await run(model, dims);
    expect(sumByProducts(model)).toBe(true);
    expect(operators(model)).toContain('MatMul');
    expect(operators(model)).not.toContain('ReduceSum');
    const after = await run(model, dims);
    expect(after.dims).toEqual(before.dims);
    const was = before.numbers();
    const off = after.numbers().map((v, i) => Math.abs(v - was[i]!));
    // Each of so many additions rounds a sum of up to some tens.
    const rows = dims.reduce((n, d) => n * d, 1) / was.length;
    expect(Math.max(...off)).toBeLessThan(4e-7 * rows);
  });

  it.each<[string, Case]>([
    ['of few elements', { x: [130, 20], axes: [0] }],
    ['over all axes', { x: [430, 20], axes: [0, 1] }],
    ['over later axes', { x: [4, 130, 20], axes: [1] }],
    ['over axes that are apart', { x: [4, 130, 20], axes: [0, 2] }],
    ['of columns of unknown number', { x: [4000, 'width'], axes: [0] }],
    ['of another type', { x: [430, 20], axes: [0], dtype: 'float64' }],
  ])('%s stays', (_, given) => {
    const model = sum(given);
    expect(sumByProducts(model)).toBe(false);
    expect(operators(model)).toContain('ReduceSum');
  });
});
