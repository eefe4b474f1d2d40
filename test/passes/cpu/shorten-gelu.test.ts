import { describe, expect, it } from 'vitest';
import { Graph, Model, Value } from '../../../src/graph/ir.js';
import { Names } from '../../../src/graph/names.js';
import { Builder } from '../../../src/ops/core/builder.js';
import { loadOperators } from '../../../src/ops/index.js';
import { shortenGelu } from '../../../src/passes/cpu/shorten-gelu.js';
import { backward } from '../../../src/passes/differentiate/backward.js';
import { Session } from '../../../src/runtime/session.js';
import { spread } from '../../ops/vjp.js';

const DIMS = [4, 30];

type Case = { dtype?: 'float32' | 'float64'; one?: number; half?: number; product?: boolean };

/** y = x (1 + erf(x / sqrt(2))) / 2, as PyTorch exports it, and its gradient. */
async function gelu({ dtype = 'float32', one = 1, half = 0.5, product = false }: Case = {}): Promise<Model> {
  const graph = new Graph('gelu');
  graph.inputs = ['x', 'dy'].map(name => new Value(name, { kind: 'tensor', dtype, shape: DIMS }));
  const model = Object.assign(new Model(graph), { irVersion: 8, opsetImports: new Map([['', 17]]) });
  const g = new Builder(graph, { names: Names.of(model), opsets: model.opsetImports });
  const [x, dy] = graph.inputs.map(value => g.of(value));
  const u = product ? x!.mul(Math.SQRT1_2) : x!.div(Math.SQRT2);
  const y = x!.mul(u.erf().add(one)).mul(half);
  await loadOperators(graph);
  const [dx] = backward(g, new Map([[y.value, dy!]]), [x!.value]);
  for (const [name, e] of Object.entries({ y, dx })) {
    const out = new Value(name);
    g.identity(e!.value, out);
    graph.addOutputs(out);
  }
  return model;
}

async function run(model: Model) {
  const session = await Session.create(model);
  const result = await session.run({ x: spread(DIMS, [-6, 6]), dy: spread(DIMS, [-1, 1], 2) });
  await session.release();
  return { y: result.y!.numbers(), dx: result.dx!.numbers() };
}

describe('a GELU in parts and its gradient', () => {
  it('are the same in fewer passes', async () => {
    const model = await gelu();
    const before = await run(model);
    expect(shortenGelu(model)).toBe(true);
    const operators = model.graph.nodes.map(node => node.opType).filter(op => op !== 'Identity');
    expect(operators.join()).toBe('Div,Erf,HardSigmoid,Mul,Mul,Sub,Exp,Mul,Add,Mul');
    const after = await run(model);
    expect(after.y).toEqual(before.y);
    const off = after.dx.map((v, i) => Math.abs(v - before.dx[i]!));
    expect(Math.max(...off)).toBeLessThan(1e-6);
    expect(Math.max(...before.dx.map(Math.abs))).toBeGreaterThan(0.5);
  });

  it.each<[string, Case]>([
    ['of another type', { dtype: 'float64' }],
    ['with another sum', { one: 1.5 }],
    ['with another factor', { half: 0.25 }],
    ['of a product', { product: true }],
  ])('%s stay', async (_, given) => {
    expect(shortenGelu(await gelu(given))).toBe(false);
  });
});
