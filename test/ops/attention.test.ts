import { describe, expect, it } from 'vitest';
import type { Tensor } from '../../src/graph/tensor.js';
import { float } from '../../src/ops/core/builder.js';
import { bools, checkVjp, floatsOf, type Input, ints, spread, type VjpCase, vjpOf } from './vjp.js';

/** The runtime's own kernel is the reference of the values, differences of it that of the gradients. */
const both = async (inputs: readonly Input[], c: VjpCase = {}, opType = 'Attention') => {
  const opset = c.opset ?? 23;
  await checkVjp(opType, inputs, { ...c, opset });
  await checkVjp(opType, inputs, { ...c, opset, symbolic: true });
};

const Q = [2, 2, 3, 4];
const K = [2, 2, 5, 4];
const V = [2, 2, 5, 3];
const PAST = [
  [2, 2, 2, 4],
  [2, 2, 2, 3],
] as const;

/** Every query keeps a key that it may see. */
const visible = (dims: readonly number[]) => {
  const keys = dims.at(-1)!;
  const size = dims.reduce((n, d) => n * d, 1);
  return bools(
    Array.from({ length: size }, (_, i) => (i % keys === 0 || i % 3 ? 1 : 0)),
    dims,
  );
};

describe('Attention', () => {
  it('attends to all keys', () => both([Q, K, V]));
  it('takes a scale', () => both([Q, K, V], { attrs: { scale: float(0.3) } }));
  it('takes heads that are merged into the last axis', () =>
    both(
      [
        [2, 3, 8],
        [2, 5, 8],
        [2, 5, 6],
      ],
      { attrs: { q_num_heads: 2, kv_num_heads: 2 } },
    ));
  it('shares keys and values between heads of queries', async () => {
    await both([
      [1, 4, 2, 3],
      [1, 2, 3, 3],
      [1, 2, 3, 2],
    ]);
    await both(
      [
        [2, 2, 12],
        [2, 3, 6],
        [2, 3, 4],
      ],
      { attrs: { q_num_heads: 4, kv_num_heads: 2 } },
    );
  });
  it.each([[[3, 5]], [[2, 1, 3, 5]], [[2, 2, 3, 5]]])('adds a mask of numbers, of %j', mask =>
    both([Q, K, V, mask]),
  );
  it.each([[[3, 5]], [[2, 1, 3, 5]]])('heeds a mask of truths, of %j', mask =>
    both([Q, K, V, visible(mask)]),
  );
  it('is causal', async () => {
    await both([Q, K, V], { attrs: { is_causal: 1 } });
    await both([Q, K, V, visible([3, 5])], { attrs: { is_causal: 1 } });
  });
  it('caps scores', () => both([Q, K, V, [3, 5]], { attrs: { softcap: float(0.7) } }));
  it('puts keys and values after those of the past', async () => {
    const inputs = [Q, [2, 2, 3, 4], [2, 2, 3, 3], null, ...PAST];
    await both(inputs, { outputs: 3 });
    await both(inputs, { outputs: 3, attrs: { is_causal: 1 } });
    await both([Q, [2, 2, 3, 4], [2, 2, 3, 3], [3, 5], ...PAST], { outputs: 3 });
  });
  it.each([0, 1, 2, 3])('gives scores of stage %i', mode =>
    both([Q, [2, 2, 3, 4], [2, 2, 3, 3], [3, 5], ...PAST], {
      outputs: 4,
      attrs: { qk_matmul_output_mode: mode, softcap: float(0.8) },
    }),
  );
  it('sees as many keys as each sample has', async () => {
    const inputs = [Q, K, V, null, null, null, ints([5, 3])];
    await both(inputs, { opset: 24 });
    await both(inputs, { opset: 24, attrs: { is_causal: 1 } });
    await both([Q, K, V, [3, 5], null, null, ints([2, 4])], { opset: 24 });
  });
  // The runtime's kernel refuses such a mask, so that the padded one is the reference.
  it('sees no key beyond a mask that is shorter than the keys', async () => {
    const shared = [Q, K, V].map((dims, i) => spread(dims, [-2, 2], i + 1));
    const dy = spread([2, 2, 3, 3], [-1, 1], 9);
    const vjp = (mask: Tensor) =>
      vjpOf('Attention', [...shared, mask, null, null, ints([4, 3])], dy, { opset: 24, wrt: [0, 1, 2] });
    const row = (last: readonly number[]) => [1, 0, 1, 1, ...last];
    const rows = (last: readonly number[]) => Array(3).fill(row(last)).flat();
    const [short, padded] = [await vjp(bools(rows([]), [3, 4])), await vjp(bools(rows([0]), [3, 5]))];
    expect(short.map(t => t.numbers())).toEqual(padded.map(t => t.numbers()));
  });
  it('gives zeros for a query that sees no key', async () => {
    const mask = bools([0, 0, 1, 1], [2, 2]);
    const dims = [1, 1, 2, 2];
    const [dq, dk] = await vjpOf(
      'Attention',
      [...[1, 2, 3].map(seed => spread(dims, [-2, 2], seed)), mask],
      floatsOf([1, 2, 3, 4], dims),
      { opset: 23, wrt: [0, 1] },
    );
    expect(dq!.numbers().slice(0, 2)).toEqual([0, 0]);
    expect(dk!.numbers().every(Number.isFinite)).toBe(true);
  });
});

describe('RotaryEmbedding', () => {
  const positions = ints([0, 1, 2, 3, 2, 0], [2, 3]);
  const rotary = (inputs: readonly Input[], attrs: VjpCase['attrs'] = {}) =>
    both(inputs, { attrs, wrt: [0] }, 'RotaryEmbedding');
  it.each([0, 1])('turns pairs of features, interleaved = %i', async interleaved => {
    const attrs = { interleaved };
    await rotary([[2, 2, 3, 4], [5, 2], [5, 2], positions], attrs);
    await rotary(
      [
        [2, 2, 3, 4],
        [2, 3, 2],
        [2, 3, 2],
      ],
      attrs,
    );
    await rotary([[2, 3, 8], [5, 2], [5, 2], positions], { ...attrs, num_heads: 2 });
  });
  it.each([0, 1])('leaves the features beyond its width, interleaved = %i', async interleaved => {
    const attrs = { interleaved, rotary_embedding_dim: 4, num_heads: 2 };
    await rotary([[2, 2, 3, 6], [5, 2], [5, 2], positions], attrs);
    await rotary([[2, 3, 12], [5, 2], [5, 2], positions], attrs);
    await rotary(
      [
        [2, 2, 3, 6],
        [2, 3, 2],
        [2, 3, 2],
      ],
      attrs,
    );
  });
  it('has gradients for its tables', () =>
    both([[2, 2, 3, 4], [5, 2], [5, 2], positions], {}, 'RotaryEmbedding'));
});
