import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { readNpz } from '../../src/runtime/data/npz.js';

const read = (name: string) =>
  readNpz(fileURLToPath(new URL(`../../models/mnist/${name}.npz`, import.meta.url)));

test('9,000 digits to train on and 1,000 others to test on, 100 of each', async () => {
  const [train, held] = await Promise.all([read('train'), read('test')]);
  const describe = (arrays: Map<string, { dtype: string; dims: readonly number[] }>) =>
    [...arrays].map(([name, { dtype, dims }]) => `${name}: ${dtype} [${dims}]`);
  expect(describe(train)).toEqual(['x: uint8 [9000,28,28]', 'y: uint8 [9000]']);
  expect(describe(held)).toEqual(['x: uint8 [1000,28,28]', 'y: uint8 [1000]']);

  const counts = new Array(10).fill(0);
  for (const digit of held.get('y')!.bytes) counts[digit]++;
  expect(counts).toEqual(new Array(10).fill(100));

  const images = [train, held].flatMap(arrays => {
    const { bytes, dims } = arrays.get('x')!;
    return Array.from({ length: dims[0]! }, (_, i) =>
      Buffer.from(bytes.subarray(i * 784, (i + 1) * 784)).toString('base64'),
    );
  });
  expect(new Set(images).size).toBe(10_000);
});
