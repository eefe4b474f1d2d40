/** A page of headless Chromium trains as Node does, on WebAssembly and on WebGPU. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { decodeModel, encodeModel } from '../../src/graph/proto/codec.js';
import * as node from '../../src/index.js';
import type * as InPage from '../conformance/in-page.js';
import { spread } from '../ops/vjp.js';
import { Sketch } from '../sample.js';

const ROOT = join(import.meta.dirname, '../..');
const LENET = join(ROOT, 'models/lenet.onnx');
const { hasChromium, openPage } = (await import(
  join(ROOT, 'dist/test/conformance/browser.js')
)) as typeof import('../conformance/browser.js');
if (!hasChromium())
  console.log('skipped: a page trains: there is no Chromium (Debian: apt-get install chromium)');

/** x[batch,4] -> Dropout -> logits[batch,3]: builds for browsers have no kernel for Dropout. */
function withDropout(): Uint8Array {
  const s = new Sketch();
  const h = s.add('MatMul', [s.input('x', ['batch', 4]), s.weight('w1', [4, 8])], 'h');
  const kept = s.add('Dropout', [h], 'kept');
  return encodeModel(s.model([s.add('MatMul', [kept, s.weight('w2', [8, 3])], 'logits')]));
}

const numbered = (count: number, classes: number) =>
  node.Tensor.from(
    'int64',
    [count],
    BigInt64Array.from({ length: count }, (_, i) => BigInt(i % classes)),
  );
const CASES = {
  LeNet: {
    model: readFileSync(LENET),
    data: { input: spread([32, 1, 28, 28], [0, 1], 3), target: numbered(32, 10) },
  },
  'a model with Dropout': {
    model: withDropout(),
    data: { x: spread([32, 4], [-1, 1], 3), target: numbered(32, 3) },
  },
};

describe.skipIf(!hasChromium())('a page', () => {
  it.each([
    ['LeNet', 'cpu'],
    ['LeNet', 'webgpu'],
    ['a model with Dropout', 'webgpu'],
  ] as const)('trains %s on %s', { timeout: 180_000 }, async (name, device) => {
    const { model, data } = CASES[name];
    const how = { loss: 'cross-entropy', batchSize: 16, epochs: 2 } as const;
    const { history } = await node.fit(decodeModel(new Uint8Array(model)), data, how);
    const given = {
      ...{ how, device, model: Buffer.from(model).toString('base64') },
      data: Object.entries(data).map(
        ([input, { dtype, dims, data: values }]) =>
          [input, dtype, dims, [...(values as Float32Array)].map(Number)] as const,
      ),
    };
    const page = await openPage(device);
    const found = await page.tab.evaluate(
      async ({ model: bytes, data: arrays, how: options, device: on }) => {
        const { inPage } = globalThis as unknown as { inPage: typeof InPage };
        await inPage.files.write(
          '/model.onnx',
          Uint8Array.from(atob(bytes), c => c.charCodeAt(0)),
        );
        const tensors = arrays.map(([input, dtype, dims, values]) => [
          input,
          inPage.Tensor.from(
            dtype,
            dims,
            dtype === 'int64' ? BigInt64Array.from(values, BigInt) : Float32Array.from(values),
          ),
        ]);
        return (await inPage.fit('/model.onnx', Object.fromEntries(tensors), { ...options, device: on }))
          .history.losses;
      },
      given,
    );
    await page.close();
    expect(found).toHaveLength(history.losses.length);
    for (const [i, loss] of found.entries()) expect(loss).toBeCloseTo(history.losses[i]!, 4);
  });

  it('stops where it is asked to between two steps', { timeout: 120_000 }, async () => {
    const { model, data } = CASES['a model with Dropout'];
    const page = await openPage();
    const { reason, steps } = await page.tab.evaluate(
      async ({ model: bytes, x, target }) => {
        const { inPage } = globalThis as unknown as { inPage: typeof InPage };
        await inPage.files.write(
          '/model.onnx',
          Uint8Array.from(atob(bytes), c => c.charCodeAt(0)),
        );
        const arrays = {
          x: inPage.Tensor.from('float32', [32, 4], Float32Array.from(x)),
          target: inPage.Tensor.from('int64', [32], BigInt64Array.from(target, BigInt)),
        };
        const signal = { aborted: false };
        const onEvent = ({ type }: { type: string }) => {
          if (type === 'start')
            setTimeout(() => {
              signal.aborted = true;
            });
        };
        const how = { loss: 'cross-entropy', batchSize: 1, epochs: 1000, signal, onEvent } as const;
        const found = await inPage.fit('/model.onnx', arrays, how);
        return { reason: found.reason, steps: found.history.losses.length };
      },
      {
        model: Buffer.from(model).toString('base64'),
        x: [...(data.x.data as Float32Array)],
        target: [...(data.target.data as BigInt64Array)].map(Number),
      },
    );
    await page.close();
    expect(reason).toBe('signal');
    expect(steps).toBeLessThan(32_000);
  });

  it('goes on from a state that it kept in the storage of the browser', { timeout: 120_000 }, async () => {
    const { model, data } = CASES['a model with Dropout'];
    const given = {
      model: Buffer.from(model).toString('base64'),
      x: [...(data.x.data as Float32Array)],
      target: [...(data.target.data as BigInt64Array)].map(Number),
    };
    const page = await openPage();
    /** Trains up to so many epochs, from the state that is there. */
    const train = (epochs: number) =>
      page.tab.evaluate(
        async ({ model: bytes, x, target, epochs: all }) => {
          const { inPage } = globalThis as unknown as { inPage: typeof InPage };
          const storage = (globalThis as unknown as { navigator: { storage: { getDirectory(): unknown } } })
            .navigator.storage;
          await inPage.files.mount('/kept', (await storage.getDirectory()) as InPage.Directory);
          const isBegun = (await inPage.files.list('/kept')).includes('state.agd.onnx');
          await inPage.files.write(
            '/model.onnx',
            Uint8Array.from(atob(bytes), c => c.charCodeAt(0)),
          );
          const arrays = {
            x: inPage.Tensor.from('float32', [32, 4], Float32Array.from(x)),
            target: inPage.Tensor.from('int64', [32], BigInt64Array.from(target, BigInt)),
          };
          const how = isBegun ? {} : { loss: 'cross-entropy' as const };
          const from = isBegun ? '/kept/state.agd.onnx' : '/model.onnx';
          const { state, history } = await inPage.fit(from, arrays, { ...how, batchSize: 16, epochs: all });
          await inPage.saveModel(state, '/kept/state.agd.onnx');
          return { isBegun, losses: history.losses };
        },
        { ...given, epochs },
      );
    const begun = await train(1);
    await page.tab.reload();
    await page.tab.waitForFunction(() => 'inPage' in globalThis);
    const whole = await train(2);
    await page.close();
    expect([begun.isBegun, whole.isBegun]).toEqual([false, true]);
    const both = whole.losses;
    const { history } = await node.fit(decodeModel(new Uint8Array(model)), data, {
      ...{ loss: 'cross-entropy', batchSize: 16, epochs: 2 },
    });
    expect(both.slice(0, begun.losses.length)).toEqual(begun.losses);
    for (const [i, loss] of both.entries()) expect(loss).toBeCloseTo(history.losses[i]!, 4);
    expect(both).toHaveLength(history.losses.length);
  });
});
