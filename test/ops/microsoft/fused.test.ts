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

it('GroupQueryAttention does not normalize heads', () => {
  const shapes = [
    [1, 3, 16],
    [1, 3, 8],
    [1, 3, 8],
    null,
    null,
    int32([2]),
    int32([3], []),
    ...Array(7).fill(null),
  ];
  const tensors = [...shapes, [8], [8]].map(x => (Array.isArray(x) ? spread(x) : x));
  const c = { domain: 'com.microsoft', attrs: { num_heads: 2, kv_num_heads: 1 }, outputs: 3 };
  return expect(vjpOf('GroupQueryAttention', tensors, spread([1, 3, 16]), c)).rejects.toThrow(
    'a quantized past or normalized heads',
  );
});

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
    ["'fc3_experts_weights'", [...experts([6, 3]), [4, 5, 3]], {}],
    ['weights other than [experts, outputs, inputs] of known extents', experts([6, 3]), { symbolic: [2] }],
  ])('does not know %s', (what, inputs, c) => {
    const tensors = inputs.map(x => (x instanceof Tensor || !x ? x : spread(x)));
    return expect(vjpOf('MoE', tensors, spread([6, 3]), { domain: 'com.microsoft', ...c })).rejects.toThrow(
      `No gradient for 'com.microsoft.MoE' (node 'node') with ${what}`,
    );
  });
});
