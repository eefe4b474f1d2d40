import { describe, expect, it } from 'vitest';
import { checkGraph } from '../../../src/graph/check-graph.js';
import { allGraphs, type Model, Node, Value } from '../../../src/graph/ir.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { type AttrInit, toAttrs } from '../../../src/ops/core/builder.js';
import { isWideSplit, narrowSplits } from '../../../src/passes/common/narrow-splits.js';
import { inject } from '../../../src/passes/inject.js';
import { Session, sessionShapes } from '../../../src/runtime/session.js';
import { spread } from '../../ops/vjp.js';
import { Sketch } from '../../sample.js';

/** x[2, extent] split into `count` outputs along the second axis. */
function split(count: number, extent: number, sizes?: Value | Tensor, attrs: AttrInit = {}): Model {
  const s = new Sketch();
  const x = s.input('x', [2, extent]);
  const given = sizes instanceof Tensor ? s.weight('sizes', sizes) : sizes;
  const outputs = Array.from({ length: count }, (_, i) => new Value(`y${i}`));
  s.graph.append(new Node('Split', given ? [x, given] : [x], outputs, toAttrs({ axis: 1, ...attrs })));
  return s.model(outputs);
}

async function run(model: Model, extent: number) {
  const session = await Session.create(model);
  const results = await session.run({ x: spread([2, extent]) });
  await session.release();
  return Object.entries(results).map(([name, t]) => [name, t.dims, t.numbers()]);
}

const widths = ({ graph }: Model) =>
  [...allGraphs(graph)].flatMap(g => g.nodes).flatMap(n => (n.opType === 'Split' ? [n.outputs.length] : []));

describe('narrow-splits', () => {
  const sizes = (count: number) => Array.from({ length: count }, (_, i) => i % 3);
  const total = (count: number) => sizes(count).reduce((sum, n) => sum + n, 0);
  it.each([8, 14, 20, 50, 120])('splits into %d outputs in Splits of at most 7', async count => {
    const extent = total(count);
    const make = () => split(count, extent, Tensor.ints(sizes(count)));
    const model = make();
    expect(narrowSplits(model)).toBe(true);
    checkGraph(model.graph);
    expect(Math.max(...widths(model))).toBeLessThanOrEqual(7);
    expect(await run(model, extent)).toEqual(await run(make(), extent));
    expect(narrowSplits(model)).toBe(false);
  });

  it('knows the sizes of equal parts, of which the last may be smaller', async () => {
    const make = () => split(9, 26, undefined, { num_outputs: 9, axis: -1 });
    const model = make();
    expect(narrowSplits(model)).toBe(true);
    expect(widths(model)).toEqual([2, 7, 2]);
    expect(await run(model, 26)).toEqual(await run(make(), 26));
  });

  it('leaves narrow ones, and those whose sizes are computed', () => {
    expect(narrowSplits(split(7, 14, undefined, { num_outputs: 7 }))).toBe(false);
    const model = split(8, 16, new Value('sizes'));
    expect(narrowSplits(model)).toBe(false);
    expect(model.graph.nodes.filter(isWideSplit)).toHaveLength(1);
  });

  it('is part of a training step for WebGPU alone', async () => {
    const s = new Sketch();
    let x = s.input('x', ['batch', 3]);
    for (let i = 0; i < 9; i++) x = s.add('Add', [x, s.weight(`bias${i}`, [3])], `y${i}`);
    const source = s.model([x]);
    const widest = async (provider: 'cpu' | 'webgpu') => {
      const { model } = await inject(source, { loss: { kind: 'mse' }, provider }, sessionShapes);
      return Math.max(...widths(model));
    };
    expect(await widest('cpu')).toBe(9);
    expect(await widest('webgpu')).toBe(7);
  });
});
