import { describe, expect, it, vi } from 'vitest';
import { demandAgreement, demandSameState, hashJson } from '../../../src/runtime/collective/agreement.js';
import { localCollectives } from '../../../src/runtime/collective/local.js';
import { watched } from '../../../src/runtime/collective/watched.js';
import { floatsOf } from '../../ops/vjp.js';
import { expected, operate } from './operations.js';

describe('a watched collective', () => {
  it('does what the collective does', async () => {
    const ranks = localCollectives(3).map(c => watched(c, { timeout: 60 }));
    const results = await Promise.all(ranks.map(operate));
    results.forEach((result, rank) => {
      expect(result.sum.map(x => x + 0)).toEqual(expected(rank, 3).sum);
      expect(result.gathered).toEqual(expected(rank, 3).gathered);
    });
  });

  it('waits however long the timeout is', async () => {
    const [a, b] = localCollectives(2).map(c => watched(c, { timeout: 1e9 }));
    const waiting = a!.barrier();
    await new Promise(resolve => setTimeout(resolve, 20));
    await b!.barrier();
    await waiting;
  });

  it('warns of a slow rank, and ends the run of a hung one on all ranks', async () => {
    vi.useFakeTimers();
    try {
      const warn = vi.fn();
      const [a, b] = localCollectives(2).map(c => watched(c, { timeout: 30, warn }));
      const waiting = expect(a!.allReduce(Float32Array.of(1))).rejects.toThrow(
        'rank 0 of 2 (localhost) has waited 30 s for the other ranks in allReduce: one of them is lost, hung or unreachable.',
      );
      await vi.advanceTimersByTimeAsync(15_000);
      expect(warn).toHaveBeenCalledExactlyOnceWith(expect.stringContaining('has waited 15 s'));
      await vi.advanceTimersByTimeAsync(15_000);
      await waiting;
      await expect(a!.barrier()).rejects.toThrow('has waited 30 s');
      await expect(b!.barrier()).rejects.toThrow('has waited 30 s');
    } finally {
      vi.useRealTimers();
    }
  });

  it('forgets an operation that is done', async () => {
    vi.useFakeTimers();
    try {
      const ranks = localCollectives(2).map(c => watched(c, { timeout: 30 }));
      await Promise.all(ranks.map(c => c.barrier()));
      await vi.advanceTimersByTimeAsync(60_000);
      await Promise.all(ranks.map(c => c.barrier()));
    } finally {
      vi.useRealTimers();
    }
  });
});

describe('ranks', () => {
  const each = <T>(size: number, run: (c: ReturnType<typeof localCollectives>[number]) => Promise<T>) =>
    Promise.allSettled(localCollectives(size).map(run));

  it('that agree go on', async () => {
    const facts = { options: hashJson({ a: 1, b: 2 }), data: 'x' };
    const results = await each(3, c =>
      demandAgreement(c, { ...facts, options: hashJson(c.rank ? { b: 2, a: 1 } : { a: 1, b: 2 }) }),
    );
    expect(results.map(r => r.status)).toEqual(Array(3).fill('fulfilled'));
  });

  it.each([
    [[0, 0, 1], 'The data of rank 2 (localhost) differs from that of rank 0.'],
    [[0, 1, 2], 'The data of 2 ranks, such as 1 (localhost), differ from that of rank 0.'],
  ])('that have different data are all told which: %j', async (data, message) => {
    const results = await each(3, c => demandAgreement(c, { options: '', data: `${data[c.rank]}` }));
    for (const result of results)
      expect(result).toMatchObject({
        status: 'rejected',
        reason: { code: 'collective', message: expect.stringContaining(message) },
      });
  });

  it('with different bits are told', async () => {
    const state = (rank: number) => new Map([['w', floatsOf([1, rank ? 1 + 2 ** -23 : 1])]]);
    const results = await each(2, c => demandSameState(c, state(c.rank), 'after epoch 3'));
    for (const result of results)
      expect(result).toMatchObject({
        reason: { message: expect.stringContaining('The state after epoch 3 of rank 1 (localhost) differs') },
      });
    const same = await each(2, c => demandSameState(c, state(0), 'after epoch 3'));
    expect(same.map(r => r.status)).toEqual(['fulfilled', 'fulfilled']);
  });
});
