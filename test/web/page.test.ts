/** A page of headless Chromium trains as Node does, on WebAssembly and on WebGPU. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import * as node from '../../src/index.js';
import type * as InPage from '../conformance/in-page.js';
import { spread } from '../ops/vjp.js';

const ROOT = join(import.meta.dirname, '../..');
const LENET = join(ROOT, 'models/lenet.onnx');
const { hasChromium, openPage } = (await import(
  join(ROOT, 'dist/test/conformance/browser.js')
)) as typeof import('../conformance/browser.js');
if (!hasChromium())
  console.log('skipped: a page trains: there is no Chromium (Debian: apt-get install chromium)');

describe.skipIf(!hasChromium())('a page', () => {
  const [count, batchSize] = [32, 16];
  const input = spread([count, 1, 28, 28], [0, 1], 3);
  const target = node.Tensor.from(
    'int64',
    [count],
    BigInt64Array.from({ length: count }, (_, i) => BigInt(i % 10)),
  );
  let expected: readonly number[];
  beforeAll(async () => {
    const { history } = await node.fit(
      LENET,
      { input, target },
      { loss: 'cross-entropy', batchSize, epochs: 2 },
    );
    expected = history.losses;
  }, 120_000);

  it.each(['cpu', 'webgpu'] as const)('trains on %s', { timeout: 180_000 }, async device => {
    const given = {
      device,
      batchSize,
      model: readFileSync(LENET, 'base64'),
      pixels: [...(input.data as Float32Array)],
      labels: [...(target.data as BigInt64Array)].map(Number),
    };
    const page = await openPage(device);
    const found = await page.tab.evaluate(async ({ model, pixels, labels, ...options }) => {
      const { inPage } = globalThis as unknown as { inPage: typeof InPage };
      await inPage.files.write(
        '/lenet.onnx',
        Uint8Array.from(atob(model), c => c.charCodeAt(0)),
      );
      const n = labels.length;
      const data = {
        input: inPage.Tensor.from('float32', [n, 1, 28, 28], Float32Array.from(pixels)),
        target: inPage.Tensor.from('int64', [n], BigInt64Array.from(labels, BigInt)),
      };
      const how = { loss: 'cross-entropy', epochs: 2, ...options } as const;
      return (await inPage.fit('/lenet.onnx', data, how)).history.losses;
    }, given);
    await page.close();
    expect(found).toHaveLength(expected.length);
    for (const [i, loss] of found.entries()) expect(loss).toBeCloseTo(expected[i]!, 4);
  });
});
