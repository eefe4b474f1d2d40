import { describe, expect, it, vi } from 'vitest';
import { onFirstRank, partOfRank } from '../../../src/runtime/collective/collective.js';
import { localCollectives } from '../../../src/runtime/collective/local.js';
import { expected, operate } from './operations.js';

describe('ranks of one process', () => {
  it.each([1, 2, 4])('exchange arrays: %i', async size => {
    const results = await Promise.all(localCollectives(size).map(operate));
    results.forEach((result, rank) => {
      const wanted = expected(rank, size);
      expect({
        ...result,
        sum: result.sum.map(x => x + 0),
        greatest: result.greatest.map(x => x + 0),
      }).toEqual(wanted);
    });
  });

  it('throw on all ranks if these do not call the same operation', async () => {
    const [a, b] = localCollectives(2);
    const results = await Promise.allSettled([a!.barrier(), b!.allReduce(Float32Array.of(1))]);
    for (const result of results)
      expect(result).toMatchObject({
        status: 'rejected',
        reason: { code: 'collective', message: expect.stringContaining('rank 1 called allReduce') },
      });
  });

  it('throw on all ranks after one aborts', async () => {
    const [a, b] = localCollectives(2);
    const waiting = a!.barrier();
    b!.abort('its data cannot be read');
    await expect(waiting).rejects.toThrow('its data cannot be read');
    await expect(a!.barrier()).rejects.toThrow('its data cannot be read');
  });

  it('hear from the first one while it works alone', async () => {
    const [first, other] = localCollectives(2);
    const heard = vi.spyOn(other!, 'broadcast');
    const work = () => vi.waitUntil(() => heard.mock.calls.length > 2, { timeout: 10_000 });
    const idle = vi.fn();
    const results = await Promise.all([onFirstRank(first!, work), onFirstRank(other!, idle)]);
    expect(results).toEqual([true, undefined]);
    expect(idle).not.toHaveBeenCalled();
  });

  it('learn of an error of the first one by its abort', async () => {
    const [first, other] = localCollectives(2);
    const waiting = onFirstRank(other!, async () => {});
    const failing = onFirstRank(first!, async () => {
      throw new Error('no space left');
    });
    await expect(failing).rejects.toThrow('no space left');
    first!.abort('no space left');
    await expect(waiting).rejects.toThrow('no space left');
  });

  it('leave nothing of what is divided among ranks out', () => {
    for (const count of [0, 1, 3, 7, 8]) {
      const parts = [0, 1, 2, 3].map(rank => partOfRank(count, { rank, size: 4 }));
      expect(parts[0]![0]).toBe(0);
      expect(parts[3]![1]).toBe(count);
      parts.slice(1).forEach(([from], i) => {
        expect(from).toBe(parts[i]![1]);
      });
    }
  });
});
