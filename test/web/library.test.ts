/** The bundle for browsers trains as Node does, on WebAssembly, with files in memory. */
import { mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { encodeModel } from '../../src/graph/proto/codec.js';
import * as node from '../../src/index.js';
import { spread } from '../ops/vjp.js';
import { Sketch } from '../sample.js';

const ROOT = join(import.meta.dirname, '../..');
const LENET = join(ROOT, 'models/lenet.onnx');

let web: typeof import('../../src/web/index.js');
beforeAll(async () => {
  const { bundle } = (await import(
    join(ROOT, 'dist/cli/build-web.js')
  )) as typeof import('../../cli/build-web.js');
  const folder = mkdtempSync(join(tmpdir(), 'agd-onnx-web-'));
  await bundle(join(ROOT, 'dist/src/web/index.js'), folder);
  web = await import(join(folder, 'index.js'));
}, 60_000);

const arrays = (count: number) => ({
  input: spread([count, 1, 28, 28], [0, 1], 3),
  target: node.Tensor.from(
    'int64',
    [count],
    BigInt64Array.from({ length: count }, (_, i) => BigInt(i % 10)),
  ),
});
const plain = (tensor: node.Tensor) => ({ type: tensor.dtype, dims: [...tensor.dims], data: tensor.data });

it('says that a runtime has to be chosen', async () => {
  await web.files.write('/lenet.onnx', readFileSync(LENET));
  await expect(web.inject(await web.loadModel('/lenet.onnx'), { loss: { kind: 'mse' } })).rejects.toThrow(
    "No runtime was chosen: call setRuntime(await import('onnxruntime-web')) first.",
  );
});

describe('on WebAssembly', () => {
  beforeAll(async () => {
    web.setRuntime((await import('onnxruntime-web')) as never);
    await web.files.write('/lenet.onnx', readFileSync(LENET));
  });

  it('fits a model as Node does, and exports the same weights', async () => {
    const options = { loss: 'cross-entropy', batchSize: 8, epochs: 2 } as const;
    const { input, target } = arrays(24);
    const expected = await node.fit(LENET, { input, target }, options);
    const data = { input: plain(input), target: plain(target) };
    const found = await web.fit('/lenet.onnx', data as never, options);
    for (const [i, loss] of found.history.losses.entries())
      expect(loss).toBeCloseTo(expected.history.losses[i]!, 5);
    await web.saveModel(found.model, '/out/../trained.onnx');
    const back = await web.loadModel('/trained.onnx');
    const weights = new Map([...expected.model.graph.initializers].map(([v, tensor]) => [v.name, tensor]));
    for (const [{ name }, tensor] of back.graph.initializers)
      if (tensor.dtype === 'float32')
        expect(spreadOf(tensor.data as Float32Array, weights.get(name)!.data as Float32Array)).toBeLessThan(
          1e-5,
        );
    const { outputs } = await web.predict(back, data as never);
    expect(outputs.logits!.dims).toEqual([24, 10]);
  });

  it('hands weights over beside the model, which would take memory several times in it', async () => {
    const ort = await import('onnxruntime-web');
    const seen: { model: number; beside: number }[] = [];
    const create = (model: Uint8Array, options: { externalData?: { data: Uint8Array }[] }) => {
      const beside = (options.externalData ?? []).reduce((n, { data }) => n + data.length, 0);
      seen.push({ model: model.length, beside });
      return ort.InferenceSession.create(model, options as never);
    };
    web.setRuntime({ ...ort, InferenceSession: { create } } as never);
    const session = await web.Session.create(await web.loadModel('/lenet.onnx'));
    await session.release();
    web.setRuntime(ort as never);
    // The largest weight is fc1's: 120 x 256 numbers.
    expect(seen).toEqual([{ model: expect.any(Number), beside: 4 * 120 * 256 }]);
    expect(seen[0]!.model).toBeLessThan(64_000);
  });

  it('injects the bytes that Node injects', async () => {
    const options = { loss: { kind: 'cross-entropy' }, optimizer: { name: 'adamw' } } as const;
    const [here, there] = await Promise.all([
      node.loadModel(LENET).then(model => node.inject(model, options)),
      web.loadModel('/lenet.onnx').then(model => web.inject(model, options)),
    ]);
    await web.saveModel(there.model, '/step.onnx');
    const saved = join(import.meta.dirname, '../../dist/step.web-test.onnx');
    await node.saveModel(here.model, saved);
    expect(Buffer.compare(web.files.read('/step.onnx'), readFileSync(saved))).toBe(0);
  });

  it('takes batches of any size where their extent has no name', async () => {
    const s = new Sketch();
    const x = s.input('x', [null, 4]);
    const model = s.model([s.add('Gemm', [x, s.weight('w', [4, 3]), s.weight('b', [3])], 'y')]);
    await web.files.write('/open.onnx', encodeModel(model));
    const data = { x: plain(spread([8, 4], [-1, 1], 1)), target: plain(spread([8, 3], [-1, 1], 2)) };
    const { history } = await web.fit('/open.onnx', data as never, { loss: 'mse', batchSize: 4 });
    expect(history.losses).toHaveLength(2);
  });

  it('finds images in the folders of their classes', async () => {
    for (const name of ['cats/1.png', 'cats/old/2.png', 'dogs/1.png'])
      await web.files.write(`/pets/${name}`, Uint8Array.of(1));
    const columns = await web.describeColumns('/pets');
    expect(columns.map(({ column, rows, distinct }) => [column, rows, distinct])).toEqual([
      ['image', 3, undefined],
      ['label', 3, 2],
    ]);
  });

  it('reads tables, compressed ones too', async () => {
    const rows = Array.from({ length: 40 }, (_, i) => `${i},${(i * 7) % 5},${i % 2 ? 'yes' : 'no'}`);
    const csv = `a,b,answer\n${rows.join('\n')}\n`;
    const zipped = new Blob([csv]).stream().pipeThrough(new CompressionStream('gzip'));
    await web.files.write('/table.csv', csv);
    await web.files.write('/table.csv.gz', new Uint8Array(await new Response(zipped).arrayBuffer()));
    const [own, compressed] = await Promise.all(
      ['/table.csv', '/table.csv.gz'].map(async path => {
        const data = await web.openData(path, { label: 'answer' });
        return ['a', 'b', 'answer', 'c'].map(name => data.has(name));
      }),
    );
    expect(compressed).toEqual(own);
    await web.files.write('/bad.csv.gz', Uint8Array.of(0x1f, 0x8b, 8, 0, 1, 2, 3));
    await expect(web.openData('/bad.csv.gz', { label: 'answer' })).rejects.toThrow('not a sound gzip file');
    await expect(web.openData('/none.csv', {})).rejects.toThrow('no such file');
  });
});

it('trains on a runtime that calls the processor cpu, as that of React Native does', async () => {
  web.setRuntime((await import('onnxruntime-node')) as never);
  await web.files.write('/lenet.onnx', readFileSync(LENET));
  const options = { loss: 'cross-entropy', batchSize: 8 } as const;
  const { input, target } = arrays(16);
  const data = { input: plain(input), target: plain(target) };
  const [expected, found] = [
    await node.fit(LENET, { input, target }, options),
    await web.fit('/lenet.onnx', data as never, options),
  ];
  expect(found.history.losses).toHaveLength(2);
  for (const [i, loss] of found.history.losses.entries())
    expect(loss).toBeCloseTo(expected.history.losses[i]!, 5);
});

const spreadOf = (a: Float32Array, b: Float32Array) =>
  a.reduce((most, x, i) => Math.max(most, Math.abs(x - b[i]!)), 0);
