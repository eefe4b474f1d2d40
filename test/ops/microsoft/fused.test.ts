import { describe, expect, it } from 'vitest';
import { Tensor } from '../../../src/graph/tensor.js';
import { type AttrInit, float, floats } from '../../../src/ops/core/builder.js';
import { checkVjp, floatsOf, type Input, ints, spread, type VjpCase, vjpOf } from '../vjp.js';

/** With extents that are known and, where `hidden` names inputs, with those of these unknown. */
const check = async (op: string, inputs: readonly Input[], attrs: AttrInit = {}, c: VjpCase = {}) => {
  const known: VjpCase = { domain: 'com.microsoft', attrs, ...c };
  await checkVjp(op, inputs, { ...known, symbolic: false });
  await checkVjp(op, inputs, { ...known, symbolic: c.symbolic ?? true });
};
const int32 = (values: readonly number[], dims: readonly number[] = [values.length]) =>
  Tensor.from('int32', dims, Int32Array.from(values));

describe('activations', () => {
  it('Gelu', () => check('Gelu', [[3, 4]]));
  it('FastGelu', () => check('FastGelu', [[3, 4]]));
  it('FastGelu with a bias', () => check('FastGelu', [[2, 3, 4], [4]]));
  it('BiasGelu', () => check('BiasGelu', [[2, 3, 4], [4]]));
  it('QuickGelu', () => check('QuickGelu', [[3, 4]]));
  it('QuickGelu with alpha', () => check('QuickGelu', [[3, 4]], { alpha: float(0.7) }));
});

describe('FusedMatMul', () => {
  it.each([
    [
      [2, 3],
      [3, 4],
    ],
    [
      [2, 2, 3],
      [3, 4],
    ],
    [[3], [3, 4]],
  ])('of %j and %j', (a, b) => check('FusedMatMul', [a, b], { alpha: float(0.5) }));
  it('transposed', () =>
    check(
      'FusedMatMul',
      [
        [2, 3, 2],
        [2, 4, 3],
      ],
      { transA: 1, transB: 1 },
    ));
  it('with the batch inside', () =>
    check(
      'FusedMatMul',
      [
        [2, 3, 4],
        [4, 3, 2],
      ],
      { transBatchA: 1, transBatchB: 1 },
    ));
  it('with the batch inside, transposed', () =>
    check(
      'FusedMatMul',
      [
        [4, 3, 2],
        [2, 3, 4],
      ],
      { transBatchA: 1, transBatchB: 1, transA: 1, transB: 1 },
    ));
});

describe('FusedGemm', () => {
  const sizes = [[2, 3], [4, 3], [4]];
  it('without an activation of its own slope', () =>
    check('FusedGemm', sizes, { transB: 1, alpha: float(0.5), beta: float(2), activation: 'Tanh' }));
  it('with a slope', () =>
    check('FusedGemm', sizes, { transB: 1, activation: 'LeakyRelu', activation_alpha: float(0.3) }));
});

describe('FusedConv', () => {
  const c: VjpCase = { symbolic: [0, 3] };
  const conv = [[1, 2, 4, 4], [3, 2, 3, 3], [3]];
  const pads = [1, 1, 1, 1];
  it.each<[string, AttrInit]>([
    ['Tanh', {}],
    ['Sigmoid', {}],
    ['LeakyRelu', { activation_params: floats([0.2]) }],
    ['HardSigmoid', { activation_params: floats([0.05, 0.5]) }],
    ['Clip', { activation_params: floats([-50, 50]) }],
  ])('with %s', (activation, attrs) =>
    check('FusedConv', conv, { pads, activation, ...attrs }, { ...c, range: [-0.7, 0.7], step: 2e-3 }),
  );
  it('with a summand', () =>
    check('FusedConv', [...conv, [1, 3, 4, 4]], { pads, activation: 'Tanh' }, { ...c, range: [-0.7, 0.7] }));
});

describe('normalizations', () => {
  const epsilon = float(1e-3);
  const layers = [[2, 3, 4], [2, 3, 4], [4]];
  it.each([[[4]], [[4], [4]]])('SkipLayerNormalization with %j', (...more) =>
    check('SkipLayerNormalization', [...layers, ...more], { epsilon }),
  );
  it('SkipLayerNormalization with its sum', () =>
    check(
      'SkipLayerNormalization',
      [...layers, null, [4]],
      { epsilon },
      { outputs: 4, cotangents: [0, 3], omitted: [1, 2] },
    ));
  it('SkipLayerNormalization of a skip that repeats', () =>
    check('SkipLayerNormalization', [[2, 3, 4], [1, 3, 4], [4]], { epsilon }));
  it('SimplifiedLayerNormalization', () =>
    checkVjp('SimplifiedLayerNormalization', [[2, 3, 4], [4]], {
      attrs: { epsilon, axis: -1 },
      symbolic: true,
    }));
  it('SimplifiedLayerNormalization with the reciprocal norm', () =>
    checkVjp('SimplifiedLayerNormalization', [[2, 4], [4]], { attrs: { epsilon }, outputs: 2 }));
  it('SkipSimplifiedLayerNormalization', () =>
    check('SkipSimplifiedLayerNormalization', layers, { epsilon }));
  it('SkipSimplifiedLayerNormalization with its sum', () =>
    check(
      'SkipSimplifiedLayerNormalization',
      [...layers, [4]],
      { epsilon },
      { outputs: 4, cotangents: [0, 3], omitted: [1, 2] },
    ));
});

describe('EmbedLayerNormalization', () => {
  const ids = int32([1, 0, 2, 2, 1, 1], [2, 3]);
  const segments = int32([0, 0, 1, 0, 1, 1], [2, 3]);
  const mask = int32([1, 1, 0, 1, 1, 1], [2, 3]);
  const c: VjpCase = { outputs: 2, cotangents: [0], symbolic: [] };
  const attrs = { epsilon: float(1e-3) };
  it('of words and positions', () =>
    check('EmbedLayerNormalization', [ids, null, [3, 4], [3, 4], null, [4], [4]], attrs, c));
  it('of segments too, with a mask', () =>
    check('EmbedLayerNormalization', [ids, segments, [3, 4], [3, 4], [2, 4], [4], [4], mask], attrs, c));
  it('with the positions given, and the sum', () =>
    check(
      'EmbedLayerNormalization',
      [ids, null, [3, 4], [3, 4], null, [4], [4], null, int32([2, 1, 0, 0, 0, 1], [2, 3])],
      attrs,
      { outputs: 3, cotangents: [0, 2], symbolic: [] },
    ));
});

describe('Attention', () => {
  const c: VjpCase = { symbolic: [0, 4, 5], range: [-1, 1] };
  const own = [[2, 3, 4], [4, 12], [12]];
  const attrs = { num_heads: 2 };
  it('of one sequence with itself', () => check('Attention', own, attrs, c));
  it('causal, with a scale', () =>
    check('Attention', own, { ...attrs, unidirectional: 1, scale: float(0.3) }, c));
  it('with explicit sizes', () =>
    check('Attention', [[1, 3, 4], [4, 14], [14]], { ...attrs, qkv_hidden_sizes: [4, 4, 6] }, c));
  it('with lengths', () => check('Attention', [...own, int32([2, 3])], attrs, c));
  it('with a mask of keys', () => check('Attention', [...own, int32([1, 0, 1, 1, 1, 0], [2, 3])], attrs, c));
  it('with a mask of pairs', () =>
    check(
      'Attention',
      [[1, 2, 4], [4, 12], [12], int32([1, 0, 1, 1], [1, 2, 2])],
      { ...attrs, mask_filter_value: float(-5) },
      c,
    ));
  it('with a bias of scores', () => check('Attention', [...own, null, null, [2, 2, 3, 3]], attrs, c));
  it('after a past', () =>
    check(
      'Attention',
      [[1, 2, 4], [4, 12], [12], null, [2, 1, 2, 3, 2]],
      { ...attrs, unidirectional: 1 },
      { ...c, outputs: 2 },
    ));
});

describe('MultiHeadAttention', () => {
  const c: VjpCase = { symbolic: [0, 1, 2], range: [-1, 1] };
  const attrs = { num_heads: 2 };
  const qkv = [
    [2, 2, 4],
    [2, 3, 4],
    [2, 3, 4],
  ];
  it('of two sequences', () => check('MultiHeadAttention', qkv, attrs, c));
  it('with a bias, values of another size and a scale', () =>
    check('MultiHeadAttention', [[1, 2, 4], [1, 3, 4], [1, 3, 6], [14]], { ...attrs, scale: float(0.4) }, c));
  it('with a mask of keys', () =>
    check('MultiHeadAttention', [...qkv, null, int32([1, 0, 1, 1, 1, 0], [2, 3])], attrs, c));
  it('with a mask of pairs', () =>
    check(
      'MultiHeadAttention',
      [[1, 2, 4], [1, 2, 4], [1, 2, 4], null, int32([1, 0, 1, 1], [1, 2, 2])],
      attrs,
      c,
    ));
  it('with lengths', () => check('MultiHeadAttention', [...qkv, null, int32([2, 3])], attrs, c));
  it('with a bias of scores', () =>
    check('MultiHeadAttention', [...qkv, null, null, [1, 2, 2, 3]], attrs, c));
  it('of keys with their heads apart', () =>
    check(
      'MultiHeadAttention',
      [
        [1, 2, 4],
        [1, 2, 3, 2],
        [1, 2, 3, 2],
      ],
      attrs,
      c,
    ));
  it('after a past, causal', () =>
    check(
      'MultiHeadAttention',
      [[1, 2, 4], [1, 2, 4], [1, 2, 4], null, null, null, [1, 2, 3, 2], [1, 2, 3, 2]],
      { ...attrs, unidirectional: 1 },
      { ...c, outputs: 3 },
    ));
});

// Packed forms have no kernel on the CPU: they equal the one that is not packed.
describe('MultiHeadAttention of packed', () => {
  const [batch, length, heads, size] = [2, 3, 2, 4];
  const parts = [1, 2, 3].map(seed => spread([batch, length, heads * size], [-1, 1], seed));
  const bias = spread([3 * heads * size], [-1, 1], 4);
  const pack = (tensors: Tensor[]) => {
    const values = tensors.map(t => t.numbers());
    const rows = Array.from({ length: batch * length * heads }, (_, i) =>
      values.map(v => v.slice(i * size, (i + 1) * size)),
    );
    return floatsOf(rows.flat(2), [batch, length, heads, tensors.length, size]);
  };
  const dy = spread([batch, length, heads * size], [-1, 1], 5);
  const c: VjpCase = { domain: 'com.microsoft', attrs: { num_heads: heads, unidirectional: 1 } };
  const reference = () => vjpOf('MultiHeadAttention', [...parts, bias], dy, { ...c, wrt: [0, 1, 2, 3] });
  it('queries, keys and values', async () => {
    const [dq, dk, dv, dbias] = await reference();
    const [packed, ofBias] = await vjpOf('MultiHeadAttention', [pack(parts), null, null, bias], dy, {
      ...c,
      wrt: [0, 3],
    });
    expect(largestDifference(packed!, pack([dq!, dk!, dv!]))).toBeLessThan(1e-5);
    expect(largestDifference(ofBias!, dbias!)).toBeLessThan(1e-5);
  });
  it('keys and values', async () => {
    const [dq, dk, dv] = await reference();
    const inputs = [parts[0]!, pack(parts.slice(1)), null, bias];
    const [queries, packed] = await vjpOf('MultiHeadAttention', inputs, dy, { ...c, wrt: [0, 1] });
    expect(largestDifference(queries!, dq!)).toBeLessThan(1e-5);
    expect(largestDifference(packed!, pack([dk!, dv!]))).toBeLessThan(1e-5);
  });
});

describe('RotaryEmbedding', () => {
  const table = [5, 2];
  it('of [B, S, N * H] by position', () =>
    check('RotaryEmbedding', [[2, 3, 8], ints([0, 1, 2, 4, 2, 3], [2, 3]), table, table]));
  it('from a position on', () => check('RotaryEmbedding', [[2, 3, 8], ints([2]), table, table]));
  it('of [B, N, S, H], interleaved', () =>
    check('RotaryEmbedding', [[1, 2, 3, 4], ints([1]), table, table], { interleaved: 1 }));
  it('of some of the features', () =>
    check('RotaryEmbedding', [[1, 3, 12], ints([1]), table, table], {
      num_heads: 2,
      rotary_embedding_dim: 4,
    }));
});

describe('GroupQueryAttention', () => {
  const c: VjpCase = { symbolic: [0, 1, 2], range: [-1, 1], outputs: 3, constants: [5, 6] };
  const attrs = { num_heads: 2, kv_num_heads: 1 };
  const sizes = (length: number) => [int32([length - 1]), int32([length], [])];
  const qkv = [
    [1, 3, 16],
    [1, 3, 8],
    [1, 3, 8],
  ];
  it('without a past', () => check('GroupQueryAttention', [...qkv, null, null, ...sizes(3)], attrs, c));
  it('with a cap and a scale', () =>
    check(
      'GroupQueryAttention',
      [...qkv, null, null, ...sizes(3)],
      { ...attrs, softcap: float(2), scale: float(0.7) },
      c,
    ));
  it.each([1, 2])('of the last %i keys', local_window_size =>
    check('GroupQueryAttention', [...qkv, null, null, ...sizes(3)], { ...attrs, local_window_size }, c),
  );
  it('that is not causal', () =>
    check('GroupQueryAttention', [...qkv, null, null, ...sizes(3)], { ...attrs, causal: 0 }, c));
  it('packed', () =>
    check('GroupQueryAttention', [[1, 3, 32], null, null, null, null, ...sizes(3)], attrs, c));
  describe('of turned queries and keys', () => {
    // The runtime turns heads of 16 features, and of multiples.
    const wide = [
      [1, 2, 32],
      [1, 2, 16],
      [1, 2, 16],
    ];
    const tables = [
      [5, 8],
      [5, 8],
    ];
    it.each([0, 1])('(interleaved: %i)', rotary_interleaved =>
      check(
        'GroupQueryAttention',
        [...wide, null, null, ...sizes(2), ...tables],
        { ...attrs, do_rotary: 1, rotary_interleaved },
        { ...c, wrt: [0, 1, 2] },
      ),
    );
    it('after a past', () =>
      check(
        'GroupQueryAttention',
        [...wide, [1, 1, 2, 16], [1, 1, 2, 16], ...sizes(4), ...tables],
        { ...attrs, do_rotary: 1 },
        { ...c, wrt: [0, 1, 2, 3, 4] },
      ));
  });
});

describe('GroupQueryAttention of decoders as they ship', () => {
  const c: VjpCase = { symbolic: [0, 1, 2], range: [-1, 1], outputs: 3 };
  const attrs = { num_heads: 2, kv_num_heads: 1 };
  const three = [
    [2, 3, 16],
    [2, 3, 8],
    [2, 3, 8],
  ];
  const padded = [int32([2, 0]), int32([3], [])];
  const none = (count: number) => Array<Input>(count).fill(null);
  it('reads no keys beyond the length of a sample', async () => {
    await check('GroupQueryAttention', [...three, null, null, ...padded], attrs, c);
    const empty = floatsOf([], [2, 1, 0, 8]);
    await check('GroupQueryAttention', [...three, empty, empty, ...padded], attrs, { ...c, wrt: [0, 1, 2] });
  });
  const wide = [
    [2, 1, 32],
    [2, 1, 16],
    [2, 1, 16],
  ];
  const tables = [
    [7, 8],
    [7, 8],
  ];
  it.each([
    ['as long as the longest', 3],
    ['longer than what it holds', 6],
  ])('continues samples of different lengths, in a cache %s', (_, slots) =>
    check(
      'GroupQueryAttention',
      [...wide, [2, 1, slots, 16], [2, 1, slots, 16], int32([3, 1]), int32([4], []), ...tables],
      { ...attrs, do_rotary: 1 },
      { ...c, wrt: [0, 1, 2, 3, 4] },
    ),
  );
  it('begins in a cache that holds nothing yet, at the position that is given first', () =>
    check(
      'GroupQueryAttention',
      [
        ...[
          [1, 3, 32],
          [1, 3, 16],
          [1, 3, 16],
          [1, 1, 5, 16],
          [1, 1, 5, 16],
        ],
        ...[int32([2]), int32([3], []), ...tables, ints([2, 0, 0], [1, 3])],
      ],
      { ...attrs, do_rotary: 1 },
      { ...c, wrt: [0, 1, 2], cotangents: [0] },
    ));
  it('reads the last keys of a cache that keeps only these', () =>
    check(
      'GroupQueryAttention',
      [[1, 4, 16], [1, 4, 8], [1, 4, 8], [1, 1, 3, 8], [1, 1, 3, 8], int32([8]), int32([9], [])],
      { ...attrs, local_window_size: 3, sliding_window_cache: 1 },
      c,
    ));
  it.each<[string, Input | undefined, AttrInit]>([
    ['a sink of each head', [2], {}],
    ['a sink, a cap and a window', [2], { softcap: float(2), local_window_size: 2 }],
    ['a smooth softmax', undefined, { smooth_softmax: 1 }],
  ])('with %s', (_, sink, more) =>
    check(
      'GroupQueryAttention',
      [...three, null, null, int32([2, 2]), int32([3], []), ...none(4), ...(sink ? [sink] : [])],
      { ...attrs, ...more },
      c,
    ),
  );
  // The runtime has no kernel of its own for these on the CPU.
  it('normalizes heads before it turns them', async () => {
    const shapes = [
      [1, 3, 32],
      [1, 3, 16],
      [1, 3, 16],
    ];
    const [q, k, v] = shapes.map((shape, i) => spread(shape, [-1, 1], i + 1));
    const [cos, sin] = [spread([5, 8], [-1, 1], 4), spread([5, 8], [-1, 1], 5)];
    const [queryScale, keyScale] = [spread([16], [0.5, 1.5], 6), spread([16], [0.5, 1.5], 7)];
    const lengths = [int32([2]), int32([3], [])];
    const dy = spread([1, 3, 32]);
    const normalize = (x: Tensor, scale: Tensor) => {
      const [values, weights] = [x.numbers(), scale.numbers()];
      const rms = (row: number[]) => Math.sqrt(row.reduce((n, d) => n + d * d, 0) / 16 + 1e-6);
      const head = (i: number) => values.slice(16 * Math.floor(i / 16), 16 * Math.floor(i / 16) + 16);
      return floatsOf(
        values.map((d, i) => (d / rms(head(i))) * weights[i % 16]!),
        x.dims,
      );
    };
    const at = { domain: 'com.microsoft', attrs: { ...attrs, do_rotary: 1 }, outputs: 3 };
    const inputs = [null, null, ...lengths, cos!, sin!];
    const [dv] = await vjpOf(
      'GroupQueryAttention',
      [q!, k!, v!, ...inputs, ...Array(5).fill(null), queryScale!, keyScale!],
      dy,
      { ...at, wrt: [2] },
    );
    const [expected] = await vjpOf(
      'GroupQueryAttention',
      [normalize(q!, queryScale!), normalize(k!, keyScale!), v!, ...inputs],
      dy,
      { ...at, wrt: [2] },
    );
    expect(largestDifference(dv!, expected!)).toBeLessThan(1e-5);
  });
});

describe('SparseAttention', () => {
  // Blocks of 16 tokens: two layouts, of which the first has only the diagonal.
  const rows = int32([0, 1, 2, 0, 1, 3], [2, 3]);
  const columns = int32([0, 1, -1, 0, 0, 1], [2, 3]);
  const attrs = { num_heads: 2, kv_num_heads: 1, sparse_block_size: 16, scale: float(0.3) };
  // The kernel takes a cache only that is its output too, which no file can tell: its results, run from Python with bound
  // buffers, equal those of dense attention where scores outside the blocks are masked.
  it('reads the blocks of each layout', async () => {
    const qkv = [16, 8, 8].map((width, i) => spread([1, 20, width], [-1, 1], i + 1));
    const cache = floatsOf(Array(256).fill(0), [1, 1, 32, 8]);
    const dy = spread([1, 20, 16]);
    const c: VjpCase = { domain: 'com.microsoft', outputs: 3, wrt: [0, 1, 2] };
    const ends = [int32([20], []), int32([20])];
    const sparse = await vjpOf('SparseAttention', [...qkv, cache, cache, rows, columns, ...ends], dy, {
      ...c,
      attrs,
    });
    const masked = (head: number, query: number, key: number) =>
      head === 0 && Math.floor(query / 16) !== Math.floor(key / 16) ? -1e9 : 0;
    const bias = floatsOf(
      [0, 1].flatMap(n => Array.from({ length: 400 }, (_, i) => masked(n, Math.floor(i / 20), i % 20))),
      [1, 2, 20, 20],
    );
    const { sparse_block_size: _, ...dense } = attrs;
    const lengths = [int32([19]), int32([20], [])];
    const whole = await vjpOf(
      'GroupQueryAttention',
      [...qkv, null, null, ...lengths, null, null, null, bias],
      dy,
      { ...c, attrs: dense },
    );
    sparse.forEach((d, i) => {
      expect(largestDifference(d, whole[i]!)).toBeLessThan(1e-5);
    });
  });
});

/** The largest difference of two tensors' elements. */
const largestDifference = (a: Tensor, b: Tensor) => {
  const other = b.numbers();
  return Math.max(...a.numbers().map((x, i) => Math.abs(x - other[i]!)));
};

describe('products with quantized weights', () => {
  const packed = (count: number, dims: readonly number[]) =>
    new Tensor(
      'uint8',
      dims,
      Uint8Array.from({ length: count }, (_, i) => (53 * i + 7) % 256),
    );
  const c: VjpCase = { symbolic: [0], range: [0.1, 0.4] };
  it.each([2, 4, 8])('of %i bits', bits =>
    check(
      'MatMulNBits',
      [[2, 1, 20], packed(12 * bits, [3, 2, 2 * bits]), [3, 2]],
      { N: 3, K: 20, block_size: 16, bits },
      { ...c, constants: [1] },
    ),
  );
  it('of bits with zero points in bytes, and with some in floating point', async () => {
    const inputs = [[2, 40], packed(48, [2, 3, 8]), [2, 3]];
    const attrs = { N: 2, K: 40, block_size: 16, bits: 4 };
    await check('MatMulNBits', [...inputs, packed(4, [2, 2])], attrs, { ...c, constants: [1, 3] });
    await check('MatMulNBits', [...inputs, floatsOf([7, 8, 9, 6, 8, 7.5], [2, 3])], attrs, {
      ...c,
      constants: [1],
    });
  });
  it('of bits whose columns share scales in another order', () =>
    check(
      'MatMulNBits',
      [
        ...[[2, 40], packed(72, [3, 3, 8]), [3, 3], null],
        int32(Array.from({ length: 40 }, (_, i) => (7 * i) % 3)),
        [3],
      ],
      { N: 3, K: 40, block_size: 16, bits: 4 },
      { ...c, constants: [1, 4] },
    ));
  it.each([0, 1])('of quant_type %i', quant_type =>
    check(
      'MatMulBnb4',
      [[2, 16], packed(24, [24]), [3]],
      { N: 3, K: 16, block_size: 16, quant_type },
      { ...c, constants: [1] },
    ),
  );
});

describe.each(['euclidean', 'sqeuclidean'])('CDist, %s', metric => {
  it('of points apart', () =>
    check(
      'CDist',
      [
        [2, 3],
        [4, 3],
      ],
      { metric },
    ));
});
it('CDist of equal points has the gradient 0', async () => {
  const x = floatsOf([1, 2, 3], [1, 3]);
  const [da, db] = await vjpOf('CDist', [x, x], floatsOf([1], [1, 1]), {
    domain: 'com.microsoft',
    attrs: { metric: 'euclidean' },
    wrt: [0, 1],
  });
  expect([da!.numbers(), db!.numbers()]).toEqual([
    [0, 0, 0],
    [0, 0, 0],
  ]);
});

describe('CausalConvWithState', () => {
  const c: VjpCase = { outputs: 2, symbolic: [0] };
  it('without a past or a bias', () =>
    check(
      'CausalConvWithState',
      [
        [2, 3, 4],
        [3, 1, 3],
      ],
      {},
      c,
    ));
  it('with the channels last, on one axis or two', async () => {
    const taps = [[4, 1, 3], [4]];
    const last = { channels_last: 1, activation: 'silu' };
    await check('CausalConvWithState', [[2, 3, 4], ...taps, [2, 2, 4]], last, c);
    await check('CausalConvWithState', [[2, 3, 2, 2], ...taps], last, c);
  });
  it('dilated, of one tap, and of an input shorter than its reach', async () => {
    await check('CausalConvWithState', [[1, 2, 5], [2, 1, 3], [2]], { dilation: 2 }, c);
    await check('CausalConvWithState', [[1, 2, 1], [2, 1, 3], [2]], { activation: 'swish' }, c);
    await check(
      'CausalConvWithState',
      [
        [1, 2, 3],
        [2, 1, 1],
      ],
      {},
      { ...c, cotangents: [0] },
    );
  });
});

describe('LinearAttention', () => {
  const c: VjpCase = { outputs: 2, symbolic: [0], range: [-0.7, 0.7] };
  const attrs = (update_rule: string, q_num_heads = 2, kv_num_heads = 2) => ({
    ...{ update_rule, q_num_heads, kv_num_heads },
  });
  const qkv = [
    [2, 3, 6],
    [2, 3, 6],
    [2, 3, 4],
  ];
  const past = [2, 2, 3, 2];
  it('adds keys and values up', async () => {
    await check('LinearAttention', qkv, attrs('linear'), c);
    await check('LinearAttention', [...qkv, past], { ...attrs('linear'), scale: float(0.4) }, c);
  });
  it('forgets by the gate of each head, or of each feature', async () => {
    await check('LinearAttention', [...qkv, past, [2, 3, 2]], attrs('gated'), c);
    await check('LinearAttention', [...qkv, null, [2, 3, 6]], attrs('gated'), c);
  });
  it('replaces by the delta rule', async () => {
    await check('LinearAttention', [...qkv, past, null, [2, 3, 2]], attrs('delta'), c);
    await check('LinearAttention', [...qkv, past, [2, 3, 2], [2, 3, 1]], attrs('gated_delta'), c);
  });
  it.each([
    [2, 1],
    [1, 2],
  ])('with %i heads of queries and %i of keys', (queries, keys) =>
    check(
      'LinearAttention',
      [
        [2, 3, 3 * queries],
        [2, 3, 3 * keys],
        [2, 3, 2 * keys],
      ],
      attrs('linear', queries, keys),
      c,
    ),
  );
});

it.each([-1, 0])('UnfoldTensor along %i', dim => check('UnfoldTensor', [[5, 4]], { dim, size: 2, step: 3 }));
it('a TransposeMatMul is a FusedMatMul', () =>
  check(
    'TransposeMatMul',
    [
      [3, 2],
      [3, 4],
    ],
    { transA: 1 },
  ));
it('com.microsoft.Pad reflects', () => check('Pad', [[3, 4], ints([1, 0, 2, 1])], { mode: 'reflect' }));

describe('MoE', () => {
  // Far enough apart for no step to change which are the largest.
  const router = floatsOf(
    [
      ...[0.5, 0.1, 0.9, 0.3],
      ...[0.2, 0.8, 0.4, 0.6],
      ...[0.7, 0.3, 0.1, 0.9],
      ...[0.4, 0.2, 0.6, 0.8],
      ...[0.9, 0.5, 0.7, 0.1],
      ...[0.3, 0.7, 0.5, 0.1],
    ],
    [6, 4],
  );
  // Small steps, as Relu and limits have kinks.
  const hidden: VjpCase = { symbolic: [0, 1], range: [-1, 1], step: 1e-3 };
  const experts = (x: number[], inner = 5, from = router) =>
    [x, from, [4, inner, 3], [4, inner], [4, 3, 5], [4, 3]] as Input[];

  it.each<[string, AttrInit]>([
    ['one expert', {}],
    ['two', { k: 2, activation_type: 'silu' }],
    ['two, by their share', { k: 2, activation_type: 'gelu', normalize_routing_weights: 1 }],
    ['all, without an activation', { k: 4, activation_type: 'identity' }],
  ])('%s', async (_, attrs) => {
    await check('MoE', experts([2, 3, 3]), attrs, hidden);
    await check('MoE', experts([6, 3]), attrs, hidden);
  });
  it('without biases', () => {
    const [x, from, w1, , w2] = experts([6, 3]);
    return check('MoE', [x!, from!, w1!, null, w2!], { k: 2 }, hidden);
  });
  it.each<[string, AttrInit]>([
    ['', { activation_alpha: float(1.702), activation_beta: float(1) }],
    [', limited', { swiglu_limit: float(0.7) }],
  ])('with gates%s', (_, attrs) => {
    const gated = { k: 2, activation_type: 'swiglu', swiglu_fusion: 1, ...attrs };
    return check('MoE', experts([6, 3], 10), gated, hidden);
  });
  it.each<[string, Input[], VjpCase]>([
    ["'use_sparse_mixer'", experts([6, 3]), { attrs: { k: 2, use_sparse_mixer: 1 } }],
    ['weights other than [experts, outputs, inputs] of known extents', experts([6, 3]), { symbolic: [2] }],
  ])('does not know %s', (what, inputs, c) => {
    const tensors = inputs.map(x => (x instanceof Tensor || !x ? x : spread(x)));
    return expect(vjpOf('MoE', tensors, spread([6, 3]), { domain: 'com.microsoft', ...c })).rejects.toThrow(
      `No gradient for 'com.microsoft.MoE' (node 'node') with ${what}`,
    );
  });
});

/** Rows of two weights [experts, rows, columns] in turn, or the ones after the others. */
function fused(a: Tensor, b: Tensor, isInterleaved: boolean): Tensor {
  const [experts, rows, ...columns] = a.dims as [number, number, ...number[]];
  const width = columns[0] ?? 1;
  const [left, right] = [a.numbers(), b.numbers()];
  const row = (from: number[], e: number, i: number) =>
    from.slice((e * rows + i) * width, (e * rows + i + 1) * width);
  const each = Array.from({ length: experts }, (_, e) => {
    const [all, others] = [left, right].map(from => Array.from({ length: rows }, (_, i) => row(from, e, i)));
    return isInterleaved ? all!.flatMap((r, i) => [r, others![i]!]) : [...all!, ...others!];
  });
  return floatsOf(each.flat(2), [experts, 2 * rows, ...columns]);
}

// The runtime has no kernel for these forms on the CPU: they equal the one that it has, with the same weights in its order.
describe('MoE with gates', () => {
  const router = spread([3, 2], [-1, 1], 9);
  const x = spread([3, 4], [-1, 1], 1);
  const [gate, value] = [spread([2, 5, 4], [-1, 1], 2), spread([2, 5, 4], [-1, 1], 3)];
  const [gateBias, valueBias] = [spread([2, 5], [-1, 1], 4), spread([2, 5], [-1, 1], 5)];
  const [down, downBias] = [spread([2, 4, 5], [-1, 1], 6), spread([2, 4], [-1, 1], 7)];
  const dy = spread([3, 4], [-1, 1], 8);
  const dx = (inputs: Tensor[], attrs: AttrInit) =>
    vjpOf('MoE', inputs, dy, { domain: 'com.microsoft', attrs: { k: 2, ...attrs }, wrt: [0, 1] });
  const swiglu = { activation_type: 'swiglu', swiglu_limit: float(0.7), activation_beta: float(1) };
  const reference = () =>
    dx([x, router, fused(gate, value, true), fused(gateBias, valueBias, true), down, downBias], {
      ...swiglu,
      swiglu_fusion: 1,
    });
  it('one after the other in one weight', async () => {
    const inputs = [x, router, fused(gate, value, false), fused(gateBias, valueBias, false), down, downBias];
    const got = await dx(inputs, { ...swiglu, swiglu_fusion: 2 });
    for (const [i, d] of (await reference()).entries())
      expect(largestDifference(d, got[i]!)).toBeLessThan(1e-5);
  });
  it('in a weight of their own', async () => {
    const got = await dx([x, router, gate, gateBias, down, downBias, value, valueBias], swiglu);
    for (const [i, d] of (await reference()).entries())
      expect(largestDifference(d, got[i]!)).toBeLessThan(1e-5);
  });
  it('in a weight of their own, of another activation', async () => {
    const got = await dx([x, router, gate, gateBias, down, downBias, value, valueBias], {
      activation_type: 'silu',
    });
    const unlimited = await dx(
      [x, router, fused(gate, value, true), fused(gateBias, valueBias, true), down, downBias],
      { activation_type: 'swiglu', swiglu_fusion: 1 },
    );
    for (const [i, d] of unlimited.entries()) expect(largestDifference(d, got[i]!)).toBeLessThan(1e-5);
  });
});

describe('QMoE', () => {
  const router = floatsOf([0.9, 0.1, 0.5, 0.2, 0.8, 0.4], [2, 3]);
  const bytes = (dims: number[], seed: number) => {
    const count = dims.reduce((n, d) => n * d, 1);
    return new Tensor(
      'uint8',
      dims,
      Uint8Array.from({ length: count }, (_, i) => (53 * i + 97 * seed) % 256),
    );
  };
  const scales = (dims: number[], seed: number) => spread(dims, [0.01, 0.05], seed);
  const c: VjpCase = { symbolic: [0, 1], wrt: [0, 1, 4, 7], constants: [2, 3, 5, 6, 11, 12], step: 1e-3 };
  const gated = {
    k: 2,
    activation_type: 'swiglu',
    swiglu_fusion: 1,
    swiglu_limit: float(2),
    activation_alpha: float(1.702),
    activation_beta: float(1),
  };
  it.each([2, 4, 8])('of %i bits in blocks', bits =>
    check(
      'QMoE',
      [
        ...[
          spread([2, 32], [-0.3, 0.3]),
          router,
          bytes([3, 32, 4 * bits], 1),
          scales([3, 32, 2], 1),
          [3, 32],
        ],
        ...[bytes([3, 32, 2 * bits], 2), scales([3, 32, 1], 2), [3, 32]],
      ],
      { ...gated, expert_weight_bits: bits, block_size: 16 },
      c,
    ),
  );
  it('in rows with zero points, of another activation', () =>
    check(
      'QMoE',
      [
        ...[spread([2, 1, 32], [-0.3, 0.3]), router, bytes([3, 16, 16], 1), scales([3, 16], 1), [3, 16]],
        ...[bytes([3, 32, 8], 2), scales([3, 32], 2), [3, 32], null, null, null],
        ...[bytes([3, 8], 3), bytes([3, 16], 4)],
      ],
      { k: 2, activation_type: 'silu', expert_weight_bits: 4 },
      c,
    ));
  it('with weights of the experts apart from what they are chosen by', () =>
    check(
      'QMoE',
      [
        ...[spread([2, 32], [-0.3, 0.3]), router, bytes([3, 16, 16], 1), scales([3, 16], 1), null],
        ...[bytes([3, 32, 8], 2), scales([3, 32], 2), null, null, null, null, null, null, null],
        spread([2, 3], [0.2, 1]),
      ],
      { k: 2, activation_type: 'silu', expert_weight_bits: 4 },
      { ...c, wrt: [0, 14] },
    ));
});
