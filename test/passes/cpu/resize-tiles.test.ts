import { afterEach, expect, it, vi } from 'vitest';
import { allGraphs, type Model, type Node, Value } from '../../../src/graph/ir.js';
import { decodeModel, encodeModel } from '../../../src/graph/proto/codec.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { resizeTiles } from '../../../src/passes/cpu/resize-tiles.js';
import { inject } from '../../../src/passes/inject.js';
import { inferShapes } from '../../../src/passes/normalize/infer-shapes.js';
import type { InjectOptions } from '../../../src/passes/options.js';
import { Session, sessionShapes } from '../../../src/runtime/session.js';
import { Trainer } from '../../../src/runtime/train/trainer.js';
import { spread } from '../../ops/vjp.js';
import { Sketch } from '../../sample.js';

/** What the system says of the second-level cache. */
const system = vi.hoisted(() => ({ size: '' }));
vi.mock('node:fs', async original => {
  const fs = await original<typeof import('node:fs')>();
  const readFileSync = (path: string, ...rest: []) => {
    if (!String(path).startsWith('/sys/')) return fs.readFileSync(path, ...rest);
    if (!system.size) throw new Error('ENOENT');
    return path.endsWith('/level') ? '2\n' : `${system.size}\n`;
  };
  return { ...fs, readFileSync };
});

afterEach(() => {
  system.size = '';
  vi.restoreAllMocks();
});

const MEGABYTE = 2 ** 20;

/** A step of x[batch, 600] by a weight of 600,000 elements, as read from its file: in three tiles. */
async function step(optimizer: InjectOptions['optimizer'] = { name: 'agd' }): Promise<Model> {
  const s = new Sketch();
  const y = s.add('MatMul', [s.input('x', ['batch', 600]), s.weight('w', [600, 1000])], 'y');
  const { model } = await inject(s.model([y]), { loss: { kind: 'mse' }, optimizer }, sessionShapes);
  const read = decodeModel(encodeModel(model));
  await inferShapes(read, sessionShapes);
  return read;
}

const scans = ({ graph }: Model): Node[] => graph.nodes.filter(node => node.opType === 'Scan');
const extents = (model: Model) => scans(model).flatMap(node => node.inputs.map(v => v!.shape));

/** All values after one step. */
async function run(model: Model): Promise<number[][]> {
  const session = await Session.create(model, { threads: 1 });
  const [x, target] = [spread([2, 600], [-1, 1], 1), spread([2, 1000], [-1, 1], 2)];
  const given = {
    x,
    target,
    ...(session.inputs.includes('lr') ? { lr: Tensor.filled('float32', [], 0.1) } : {}),
  };
  const results = await session.run(given);
  await session.release();
  return Object.values(results).map(t => t.numbers());
}

it.each([
  ['one thread', 1, 2 * MEGABYTE, [20, 30_000]],
  ['two threads', 2, 2 * MEGABYTE, [5, 120_000]],
  ['eight threads', 8, 2 * MEGABYTE, [3, 200_000]],
  ['a smaller cache', 1, MEGABYTE, [20, 30_000]],
])('gives tiles the size for %s', async (_, threads, cache, shape) => {
  const model = await step();
  expect(extents(model)).toEqual(Array(4).fill([3, 200_000]));
  resizeTiles(model, { threads, cache });
  expect(extents(model)).toEqual(Array(4).fill(shape));
});

it.each(['agd', 'adamw', 'lion', 'adafactor', 'rmsprop'] as const)(
  'does not change a step of %s',
  async name => {
    const [before, after] = [await step({ name }), await step({ name })];
    const count = scans(before).length;
    resizeTiles(after, { threads: 1, cache: 2 * MEGABYTE });
    if (count) expect(extents(after)).not.toEqual(extents(before));
    expect(await run(after)).toEqual(await run(before));
  },
);

it('leaves tiles where cores have small caches', async () => {
  const model = await step();
  resizeTiles(model, { threads: 1, cache: MEGABYTE / 2 });
  expect(extents(model)).toEqual(Array(4).fill([3, 200_000]));
});

it('leaves a Scan that does more than elements one by one', async () => {
  const model = await step();
  const [scan] = scans(model);
  const [body] = scan!.subgraphs();
  const last = body!.nodes.at(-1)!;
  last.opType = 'CumSum';
  resizeTiles(model, { threads: 1, cache: 2 * MEGABYTE });
  expect(extents(model)).toEqual(Array(4).fill([3, 200_000]));
});

it('leaves a Scan with numbers of its own for each place in a tile', async () => {
  const model = await step();
  const [body] = scans(model)[0]!.subgraphs();
  const own = new Value('own', { kind: 'tensor', dtype: 'float32', shape: [200_000] });
  body!.initializers.set(own, Tensor.filled('float32', [200_000], 1));
  body!.nodes.find(node => node.opType === 'Mul')!.setInput(1, own);
  resizeTiles(model, { threads: 1, cache: 2 * MEGABYTE });
  expect(extents(model)).toEqual(Array(4).fill([3, 200_000]));
});

it.each([
  ['of that size', '2048K', [20, 30_000]],
  ['of a small cache', '512K', [3, 200_000]],
  ['of an unknown one', '', [3, 200_000]],
])('lets a trainer have tiles for a processor %s', async (_, size, shape) => {
  system.size = size;
  const create = vi.spyOn(Session, 'create');
  const trainer = await Trainer.create(await step(), { threads: 1 });
  const models = create.mock.calls.map(([model]) => model as Model);
  const inner = [...allGraphs(models.at(-1)!.graph)].flatMap(graph => scans({ graph } as Model));
  expect(inner.flatMap(node => node.inputs.map(v => v!.shape))).toContainEqual(shape);
  const batch = { x: spread([2, 600], [-1, 1], 1), target: spread([2, 1000], [-1, 1], 2) };
  await trainer.step(batch, { lr: 0.1 });
  const [w] = [...trainer.state.values()].filter(t => t.dims.join() === '600,1000');
  const results = await run(await step());
  expect(results).toContainEqual(w!.numbers());
  await trainer.release();
});
