import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as ort from 'onnxruntime-node';
import { expect, it } from 'vitest';
import { Node, Value } from '../../src/graph/ir.js';
import { encodeModel, inline } from '../../src/graph/proto/codec.js';
import { runOrder } from '../../src/graph/run-order.js';
import { Sketch } from '../sample.js';

/** Nodes that are computed in this order, which is depth first: b is read last, long after a is. */
function sketched() {
  const s = new Sketch();
  const x = s.input('x', [4]);
  const a = s.add('Neg', [x], 'a');
  const b = s.add('Abs', [a], 'b');
  const c = s.add('Exp', [a], 'c');
  const d = s.add('Sin', [x], 'd');
  const e = s.add('Sub', [c, d], 'e');
  const f = s.add('Cos', [e], 'f');
  const g = s.add('Div', [b, f], 'g');
  return s.model([g, b]);
}

const named = (nodes: readonly Node[]) => nodes.map(node => node.outputs[0]!.name).join('');

/** The order in which the runtime ran the nodes of a model, by its profile. */
async function profiled(model: ReturnType<typeof sketched>): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'run-order-'));
  for (const node of model.graph.nodes) node.name = node.outputs[0]!.name;
  const session = await ort.InferenceSession.create(encodeModel(model, inline), {
    graphOptimizationLevel: 'disabled',
    enableProfiling: true,
    profileFilePrefix: join(folder, 'run'),
  });
  await session.run({ x: new ort.Tensor('float32', [1, 2, 3, 4], [4]) });
  session.endProfiling();
  const [file] = await readdir(folder);
  const events = JSON.parse(await readFile(join(folder, file!), 'utf8')) as { name: string; ts: number }[];
  await rm(folder, { recursive: true });
  return events
    .filter(({ name }) => /^\w_kernel_time$/.test(name))
    .sort((first, second) => first.ts - second.ts)
    .map(({ name }) => name[0])
    .join('');
}

it('tells in which order the runtime runs nodes', async () => {
  const model = sketched();
  expect(named(model.graph.nodes)).toBe('abcdefg');
  expect(named(runOrder(model.graph.nodes))).toBe('dacefbg');
  expect(await profiled(model)).toBe('dacefbg');
});

it('lists nodes so that the runtime runs them in a given order', async () => {
  const model = sketched();
  model.graph.nodes = runOrder(model.graph.nodes);
  expect(named(runOrder(model.graph.nodes))).toBe('abcdefg');
  expect(await profiled(model)).toBe('abcdefg');
});

it('orders nodes that are in no graph yet, and that read a value twice', () => {
  const [x, p, q, r] = ['x', 'p', 'q', 'r'].map(name => new Value(name)) as [Value, Value, Value, Value];
  const nodes = [new Node('Neg', [x], [p]), new Node('Mul', [p, p], [q]), new Node('Add', [q, p], [r])];
  expect(named(runOrder(nodes))).toBe('pqr');
});
