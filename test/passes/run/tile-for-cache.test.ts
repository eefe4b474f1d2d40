import { mkdir, mkdtemp, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { Graph, Model, type Node, Value } from '../../../src/graph/ir.js';
import { Names } from '../../../src/graph/names.js';
import { Builder } from '../../../src/ops/core/builder.js';
import type { Expr } from '../../../src/ops/core/expr.js';
import { scan } from '../../../src/ops/core/scan.js';
import { inject } from '../../../src/passes/inject.js';
import { scanSteps } from '../../../src/passes/run/scan-steps.js';
import { retile, tileForCache } from '../../../src/passes/run/tile-for-cache.js';
import { tiled } from '../../../src/passes/update/tile-large-updates.js';
import { Session, sessionShapes } from '../../../src/runtime/session.js';
import { lastLevelCache } from '../../../src/runtime/tiles-of-cache.js';
import { spread } from '../../ops/vjp.js';
import { Sketch } from '../../sample.js';

const scanOf = (graph: Graph): Node => graph.nodes.find(node => node.opType === 'Scan')!;

describe('tiles of another size', () => {
  it.each([
    [2 ** 20, [1, 2 ** 19]],
    [2 ** 17, [4, 2 ** 17]],
    [2 ** 18, [2, 2 ** 18]],
  ])('of up to %i elements have the same bits', async (most, shape) => {
    const s = new Sketch();
    const y = s.add('Gemm', [s.input('x', ['batch', 1024]), s.weight('w', [1024, 512])], 'y');
    const { model } = await inject(s.model([y]), { loss: { kind: 'mse' } }, sessionShapes);
    const run = async (arrange?: (...graphs: readonly [Graph, Graph, Names]) => void) => {
      const { model: steps, hoisted } = scanSteps(model, { arrange });
      const session = await Session.create(steps);
      const state = steps.graph.inputs.filter(v => hoisted.has(v.name));
      const feeds = Object.fromEntries(
        state.map(({ name }) => [name, spread(hoisted.get(name)!, [0.001, 0.5], name.length)]),
      );
      const batch = { x: spread([3, 2, 1024]), target: spread([3, 2, 512]) };
      const results = await session.run({ ...batch, ...feeds });
      await session.release();
      return { hoisted, bits: Object.values(results).map(tensor => Buffer.from(tensor.bytes)) };
    };
    const [as, before] = [await run((...graphs) => retile(...graphs, most)), await run()];
    expect(before.hoisted.get('w')).toEqual([2, 2 ** 18]);
    expect(as.hoisted.get('w')).toEqual(shape);
    expect(as.bits.length).toBeGreaterThan(3);
    for (const [i, bits] of as.bits.entries()) expect(bits.equals(before.bits[i]!)).toBe(true);
  });
});

/** A graph with a tensor of 64 elements in tiles of 16, of which `compute` makes something. */
function graphOf(
  compute: (b: Builder, tile: Expr, scalar: Value, vector: Value) => Expr,
  more: (g: Builder, x: Expr, y: Expr) => Expr = (_, __, y) => y,
): { graph: Graph; names: Names } {
  const graph = new Graph('step');
  const value = (name: string, shape: number[]) =>
    new Value(name, { kind: 'tensor', dtype: 'float32', shape });
  const [x, scalar, vector] = [value('x', [8, 8]), value('scalar', []), value('vector', [16])] as const;
  graph.inputs = [x, scalar, vector];
  const names = Names.of(new Model(graph));
  const g = new Builder(graph, { names, opsets: new Map([['', 18]]) });
  const [y] = tiled(g, [g.of(x)], 16, (b, [tile]) => [compute(b, tile!, scalar, vector)]);
  graph.outputs = [more(g, g.of(x), y!).value];
  return { graph, names };
}

const shapeAfter = ({ graph, names }: ReturnType<typeof graphOf>) => {
  retile(graph, graph, names, 64);
  return scanOf(graph).inputs.at(-1)!.shape;
};

describe('what is cut into tiles of another size', () => {
  it('is computed from elements at the same place and scalars', () => {
    expect(shapeAfter(graphOf((b, x, scalar) => x.mul(b.of(scalar)).sqrt()))).toEqual([1, 64]);
  });

  it('is not what reads a tile as a whole, or a vector', () => {
    expect(shapeAfter(graphOf((_, x) => x.op('Softmax', [], { axis: 0 }).typed(x.type)))).toEqual([4, 16]);
    expect(shapeAfter(graphOf((b, x, _, vector) => x.mul(b.of(vector))))).toEqual([4, 16]);
    expect(shapeAfter(graphOf((b, x) => x.mul(b.tensor(spread([16]), 'factors'))))).toEqual([4, 16]);
  });

  it('is not a loop with a state', () => {
    const made = graphOf(
      (_, x) => x.neg(),
      (g, x, y) => {
        const sums = scan(g, {
          states: [g.scalar(0, 'float32')],
          inputs: [x.abs().reshape([-1, 16])],
          body: (_, [sum], [tile]) => ({ states: [sum!.add(tile!.sum([0]))], outputs: [tile!.add(sum!)] }),
        });
        return y.add(sums.outputs[0]!.reshape([8, 8]));
      },
    );
    retile(made.graph, made.graph, made.names, 64);
    const scans = made.graph.nodes.filter(node => node.opType === 'Scan');
    expect(scans.map(node => node.inputs.at(-1)!.shape)).toEqual([
      [1, 64],
      [4, 16],
    ]);
  });

  it('is not what others read as tiles', () => {
    for (const opType of ['Scan', 'Reshape']) {
      const made = graphOf((_, x) => x.neg());
      const tiles = made.graph.nodes.find(node => node.opType === opType)!.outputs[0]!;
      made.graph.outputs = [...made.graph.outputs, tiles];
      expect(shapeAfter(made)).toEqual([4, 16]);
    }
    const shared = graphOf(
      (_, x) => x.neg(),
      (_, x, y) => y.add(x.reshape([-1, 16]).reshape([8, 8])),
    );
    expect(shapeAfter(shared)).toEqual([4, 16]);
  });

  it('is not what runs backwards', () => {
    const made = graphOf((_, x) => x.neg());
    scanOf(made.graph).setAttr('scan_input_directions', { type: 'ints', value: [1] });
    expect(shapeAfter(made)).toEqual([4, 16]);
  });
});

it('tiles for a cache in which six tensors fit, within bounds', () => {
  const tile = (mebibytes: number) => Math.log2(tileForCache(mebibytes * 2 ** 20));
  expect([0.5, 4, 8, 16, 32, 256].map(tile)).toEqual([17, 17, 18, 19, 20, 20]);
});

it('finds the size of the last cache, where the system has it', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'cache-'));
  for (const [name, level, size] of [
    ['index0', '1', '32K'],
    ['index3', '3', '8M'],
    ['index2', '2', '1024K'],
  ] as const) {
    await mkdir(join(folder, name));
    await writeFile(join(folder, name, 'level'), `${level}\n`);
    await writeFile(join(folder, name, 'size'), `${size}\n`);
  }
  await writeFile(join(folder, 'uevent'), '');
  expect(await lastLevelCache(folder)).toBe(2 ** 23);
  await writeFile(join(folder, 'index3', 'size'), 'unknown\n');
  expect(await lastLevelCache(folder)).toBeUndefined();
  expect(await lastLevelCache(join(folder, 'none'))).toBeUndefined();
});
