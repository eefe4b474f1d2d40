import { availableParallelism } from 'node:os';
import { expect, it } from 'vitest';
import { localCollectives } from '../../../src/runtime/collective/local.js';
import { describeRanks } from '../../../src/runtime/collective/ranks.js';

const threadsOf = async (...cores: string[]) =>
  Promise.all(localCollectives(cores.length).map((c, i) => describeRanks(c, cores[i]))).then(ranks =>
    ranks.map(({ threads }) => threads),
  );

it('ranks divide the threads of the cores that they share, and no others', async () => {
  const n = availableParallelism();
  const half = Math.max(1, Math.floor(n / 2));
  expect(await threadsOf('0-1', '0-1')).toEqual([half, half]);
  expect(await threadsOf('0-1', '2-3')).toEqual([n, n]);
  expect(await threadsOf('0-1', '2-3', '0-1')).toEqual([half, n, half]);
  const [{ text }] = await Promise.all(localCollectives(2).map(c => describeRanks(c)));
  expect(text).toBe('2 ranks on 1 host (localhost), in-process');
});
