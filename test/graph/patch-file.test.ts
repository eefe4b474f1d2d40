import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { loadModel, saveModel } from '../../src/graph/files.js';
import { Graph, Model, Value } from '../../src/graph/ir.js';
import { patchModelFile } from '../../src/graph/patch-file.js';
import { encodeModel } from '../../src/graph/proto/codec.js';
import { Tensor } from '../../src/graph/tensor.js';

let folder: string;
const at = (...parts: string[]) => join(folder, ...parts);
const ones = (value: number) => Tensor.from('float32', [1000], new Float32Array(1000).fill(value));
const small = (value: number) => Tensor.from('float32', [1], Float32Array.of(value));

/** m.onnx with `inside`, and with `a` and `b` in m.onnx.data. */
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'agd-patch-'));
  const graph = new Graph('g');
  graph.initializers.set(new Value('inside'), small(1));
  graph.initializers.set(new Value('a'), ones(2));
  graph.initializers.set(new Value('b'), ones(3));
  const model = new Model(graph);
  model.opsetImports.set('', 17);
  await saveModel(model, at('m.onnx'), { externalData: 'always' });
});

afterEach(() => rm(folder, { recursive: true }));

const trained = () =>
  new Map([
    ['inside', small(7)],
    ['b', ones(8)],
  ]);

async function firsts(path: string): Promise<number[]> {
  const model = await loadModel(path);
  return [...model.graph.initializers.values()].map(t => t.numbers()[0]!);
}

/** How many bytes two files differ in; they must have one length. */
async function differences(a: string, b: string): Promise<number> {
  const [x, y] = [await readFile(a), await readFile(b)];
  expect(x.length).toBe(y.length);
  return x.reduce((n, byte, i) => n + (byte === y[i] ? 0 : 1), 0);
}

it('a patched copy differs in the new values only, in its external data too', async () => {
  await mkdir(at('out'));
  await patchModelFile(at('m.onnx'), at('out', 'm.onnx'), trained());
  expect(await firsts(at('out', 'm.onnx'))).toEqual([7, 2, 8]);
  expect(await differences(at('m.onnx'), at('out', 'm.onnx'))).toBeLessThanOrEqual(4);
  expect(await differences(at('m.onnx.data'), at('out', 'm.onnx.data'))).toBeLessThanOrEqual(4000);
  expect(await firsts(at('m.onnx'))).toEqual([1, 2, 3]);
});

it('a copy beside its source has its own data file, and does not depend on the source', async () => {
  await patchModelFile(at('m.onnx'), at('n.onnx'), new Map([['inside', small(6)]]));
  await patchModelFile(at('m.onnx'), at('o.onnx'), trained());
  expect((await readdir(folder)).sort()).toEqual(
    ['m', 'n', 'o'].flatMap(name => [`${name}.onnx`, `${name}.onnx.data`]),
  );
  expect(await firsts(at('m.onnx'))).toEqual([1, 2, 3]);
  for (const file of ['m.onnx', 'm.onnx.data']) await rm(at(file));
  expect(await firsts(at('n.onnx'))).toEqual([6, 2, 3]);
  expect(await firsts(at('o.onnx'))).toEqual([7, 2, 8]);
});

it('a copy does not touch the data of other models in its folder, but replaces its own', async () => {
  await mkdir(at('out'));
  await patchModelFile(at('m.onnx'), at('out', 'first.onnx'), new Map([['b', ones(5)]]));
  await patchModelFile(at('m.onnx'), at('out', 'second.onnx'), trained());
  expect(await firsts(at('out', 'first.onnx'))).toEqual([1, 2, 5]);
  expect(await firsts(at('out', 'second.onnx'))).toEqual([7, 2, 8]);
  await patchModelFile(at('m.onnx'), at('out', 'first.onnx'), new Map([['b', ones(6)]]));
  expect(await firsts(at('out', 'first.onnx'))).toEqual([1, 2, 6]);
  expect((await readdir(at('out'))).sort()).toEqual(
    ['first', 'second'].flatMap(name => [`${name}.onnx`, `${name}.onnx.data`]),
  );
});

it.each([
  ['in files of their own, in folders', { a: 'w/a.bin', b: 'w/b.bin' }],
  ['in the same bytes of one file', { a: 'both.bin', b: 'both.bin' }],
])('tensors %s each get their place', async (_, locations: Record<string, string>) => {
  await mkdir(at('w'));
  const model = await loadModel(at('m.onnx'));
  for (const [value, t] of model.graph.initializers) {
    const location = locations[value.name];
    if (location === undefined) continue;
    await writeFile(at(location), t.bytes);
    t.external = { location, offset: 0, length: t.byteLength, folder };
  }
  await writeFile(at('s.onnx'), encodeModel(model));
  const bytes = await readFile(at('s.onnx'));
  await patchModelFile(at('s.onnx'), at('n.onnx'), new Map([['a', ones(9)]]));
  expect(await firsts(at('n.onnx'))).toEqual([1, 9, 3]);
  expect(await readFile(at('s.onnx'))).toEqual(bytes);
});

it('tensors that share a file without overlapping keep their places in it', async () => {
  const model = await loadModel(at('m.onnx'));
  const tensors = [...model.graph.initializers.values()].slice(1);
  await writeFile(at('all.bin'), Buffer.concat([Buffer.alloc(12), ...tensors.map(t => t.bytes)]));
  for (const [i, t] of tensors.entries())
    t.external = { location: 'all.bin', offset: 12 + 4000 * i, length: t.byteLength, folder };
  await writeFile(at('s.onnx'), encodeModel(model));
  await patchModelFile(at('s.onnx'), at('n.onnx'), new Map([['a', ones(9)]]));
  expect(await firsts(at('n.onnx'))).toEqual([1, 9, 3]);
  expect(await differences(at('all.bin'), at('n.onnx.data'))).toBeLessThanOrEqual(4000);
});

it('a model can be patched in place', async () => {
  const before = await readFile(at('m.onnx'));
  await patchModelFile(at('m.onnx'), at('m.onnx'), trained());
  expect(await firsts(at('m.onnx'))).toEqual([7, 2, 8]);
  expect((await readFile(at('m.onnx'))).length).toBe(before.length);
  expect((await readdir(folder)).sort()).toEqual(['m.onnx', 'm.onnx.data']);
});

it('a value of another shape is refused, naming file and tensor, and nothing is written', async () => {
  const patch = patchModelFile(at('m.onnx'), at('n.onnx'), new Map([['a', small(1)]]));
  const error = { code: 'bad-shape', message: expect.stringMatching(/m\.onnx.*'a'.*\[1000\].*\[1\]/) };
  await expect(patch).rejects.toMatchObject(error);
  expect(await readdir(folder)).not.toContain('n.onnx');
});
