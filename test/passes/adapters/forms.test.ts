/** Adapters of every form of layer: gradients beside finite differences, and merged weights beside adapters left apart. */
import { describe, expect, it } from 'vitest';
import { type Graph, type Model, Node, Value } from '../../../src/graph/ir.js';
import { decodeModel, encodeModel } from '../../../src/graph/proto/codec.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { readAdapters } from '../../../src/passes/adapters/adapter-record.js';
import { addAdapters } from '../../../src/passes/adapters/add-adapters.js';
import { addScales } from '../../../src/passes/adapters/add-scales.js';
import { mergeAdapters } from '../../../src/passes/adapters/merge-adapters.js';
import { inject } from '../../../src/passes/inject.js';
import type { LoadedAdapters } from '../../../src/passes/options/adapters.js';
import { checkGradients } from '../../../src/runtime/check-gradients.js';
import { gradients } from '../../../src/runtime/gradients.js';
import { Session, sessionShapes } from '../../../src/runtime/session.js';
import { spread } from '../../ops/vjp.js';
import { mlp, Sketch } from '../../sample.js';

const bytes = (dtype: 'uint8' | 'int8', dims: readonly number[]) =>
  new Tensor(
    dtype,
    dims,
    Uint8Array.from({ length: dims.reduce((n, d) => n * d, 1) }, (_, i) => (97 * i + 31) % 256),
  );

/** An adapter of rank 2, with values that are not zero. */
const adapterOf = (
  kind: 'linear' | 'conv' | 'embedding',
  inputs: number,
  outputs: number,
  kernel: number[] = [],
): LoadedAdapters => ({
  name: 'values',
  adapters: [
    {
      ...{ module: 'w', kind, r: 2, alpha: 3, dropout: 0, rslora: false },
      a: spread([2, inputs, ...kernel], [-1, 1], 1),
      b: spread([outputs, 2, ...kernel.map(() => 1)], [-1, 1], 2),
    },
  ],
});

type Form = { model: Model; adapters: LoadedAdapters; feeds: Record<string, Tensor>; merges: boolean };

function linear(write: (s: Sketch, x: Value) => Value, merges: boolean, [k, n] = [32, 3], opset = 18): Form {
  const s = new Sketch();
  const model = s.model([write(s, s.input('x', ['batch', k]))], opset);
  model.opsetImports.set('com.microsoft', 1);
  return { model, adapters: adapterOf('linear', k, n), feeds: { x: spread([4, k], [-1, 1], 3) }, merges };
}

function embedding(write: (s: Sketch, ids: Value) => Value, merges: boolean): Form {
  const s = new Sketch();
  const model = s.model([write(s, s.input('ids', ['batch'], 'int64'))], 18);
  model.opsetImports.set('com.microsoft', 1);
  const ids = Tensor.from('int64', [4], BigInt64Array.of(1n, 0n, 4n, 1n));
  return { model, adapters: adapterOf('embedding', 5, 32), feeds: { ids }, merges };
}

const microsoft = (s: Sketch) => {
  s.graph.nodes.at(-1)!.domain = 'com.microsoft';
};

/** Levels, scale and zero point of x. */
function dynamic(s: Sketch, x: Value): [Value, Value, Value] {
  const outputs: [Value, Value, Value] = [new Value('x_levels'), new Value('x_scale'), new Value('x_zero')];
  s.graph.append(new Node('DynamicQuantizeLinear', [x], outputs));
  return outputs;
}

const FORMS: Record<string, () => Form> = {
  MatMul: () => linear((s, x) => s.add('MatMul', [x, s.weight('w', [32, 3])], 'y'), true),
  'MatMul by a transposed weight': () =>
    linear(
      (s, x) =>
        s.add('MatMul', [x, s.add('Transpose', [s.weight('w', [3, 32])], 't', { perm: [1, 0] })], 'y'),
      true,
    ),
  'Gemm with transB and alpha': () =>
    linear(
      (s, x) =>
        s.add('Gemm', [x, s.weight('w', [3, 32]), s.weight('bias', [3])], 'y', {
          transB: 1,
          alpha: { type: 'float', value: 0.5 },
        }),
      true,
    ),
  'MatMul with a sum': () =>
    linear(
      (s, x) => s.add('Add', [s.add('MatMul', [x, s.weight('w', [32, 3])], 'h'), s.weight('bias', [3])], 'y'),
      true,
    ),
  'MatMul by a weight that another node reads': () =>
    linear((s, x) => {
      const w = s.weight('w', [32, 3]);
      return s.add('Add', [s.add('MatMul', [x, w], 'h'), s.add('ReduceMax', [w], 'm', { keepdims: 0 })], 'y');
    }, true),
  'two layers with one weight': () =>
    linear(
      (s, x) => {
        const w = s.weight('w', [32, 32]);
        return s.add('MatMul', [s.add('Tanh', [s.add('MatMul', [x, w], 'h')], 't'), w], 'y');
      },
      true,
      [32, 32],
    ),
  'MatMul behind DequantizeLinear': () =>
    linear((s, x) => {
      const scale = s.weight('w.scale', Tensor.filled('float32', [], 0.01));
      return s.add(
        'MatMul',
        [x, s.add('DequantizeLinear', [s.weight('w', bytes('int8', [32, 3])), scale], 'd')],
        'y',
      );
    }, false),
  MatMulNBits: () =>
    linear((s, x) => {
      const inputs = [x, s.weight('w', bytes('uint8', [3, 2, 8])), s.weight('w.scales', [6])];
      const y = s.add('MatMulNBits', inputs, 'y', { K: 32, N: 3, bits: 4, block_size: 16 });
      microsoft(s);
      return y;
    }, false),
  MatMulBnb4: () =>
    linear((s, x) => {
      const inputs = [x, s.weight('w', bytes('uint8', [48])), s.weight('w.absmax', [6])];
      const y = s.add('MatMulBnb4', inputs, 'y', { K: 32, N: 3, block_size: 16, quant_type: 1 });
      microsoft(s);
      return y;
    }, false),
  'a dynamically quantized product': () =>
    linear((s, x) => {
      const rounded = dynamic(s, x);
      const product = s.add(
        'MatMulInteger',
        [rounded[0], s.weight('w', bytes('uint8', [32, 3])), rounded[2]],
        'p',
      );
      const scale = s.add(
        'Mul',
        [rounded[1], s.weight('w.scale', Tensor.filled('float32', [], 0.01))],
        'scale',
      );
      return s.add('Mul', [s.add('Cast', [product], 'c', { to: 1 }), scale], 'y');
    }, false),
  Conv: () => {
    const s = new Sketch();
    const w = s.weight('w', [3, 2, 3, 3]);
    const y = s.add('Conv', [s.input('x', ['batch', 2, 5, 5]), w, s.weight('bias', [3])], 'y', {
      kernel_shape: [3, 3],
      strides: [2, 2],
      pads: [1, 1, 1, 1],
    });
    const feeds = { x: spread([2, 2, 5, 5], [-1, 1], 3) };
    return { model: s.model([y]), adapters: adapterOf('conv', 2, 3, [3, 3]), feeds, merges: true };
  },
  Gather: () => embedding((s, ids) => s.add('Gather', [s.weight('w', [5, 32]), ids], 'y'), true),
  GatherBlockQuantized: () =>
    embedding((s, ids) => {
      const inputs = [s.weight('w', bytes('uint8', [5, 16])), ids, s.weight('w.scales', [5, 2])];
      const y = s.add('GatherBlockQuantized', inputs, 'y', { bits: 4, block_size: 16, quantize_axis: 1 });
      microsoft(s);
      return y;
    }, false),
};

/** An adapter of the queries and one of the values of a layer. */
function ofParts(form: Form, inputs: number, [q, v]: [number, number]): Form {
  const [
    {
      adapters: [a],
    },
    {
      adapters: [b],
    },
  ] = [adapterOf('linear', inputs, q), adapterOf('linear', inputs, v)];
  const adapters = [
    { ...a!, module: 'q_proj' },
    { ...b!, module: 'v_proj' },
  ];
  return { ...form, adapters: { name: 'values', adapters } };
}

/** Attention of two heads by one weight; values are half as wide as queries and keys. */
const attention = (transposed = false, [k, n] = [8, 20]) => {
  const form = linear(
    (s, x) => {
      const w = transposed
        ? s.add('Transpose', [s.weight('w', [n, k])], 't', { perm: [1, 0] })
        : s.weight('w', [k, n]);
      const y = s.add('Attention', [x, w, s.weight('bias', [n])], 'y', {
        num_heads: 2,
        qkv_hidden_sizes: [8, 8, 4],
      });
      microsoft(s);
      return y;
    },
    true,
    [k, n],
  );
  form.model.graph.inputs[0]!.type = { kind: 'tensor', dtype: 'float32', shape: ['batch', 3, k] };
  return { ...form, feeds: { x: spread([2, 3, k], [-1, 1], 3) } };
};

/** Queries of four heads, keys and values of two, from one product. */
const grouped = (write: (s: Sketch, x: Value) => Value, merges: boolean) => {
  const form = linear(
    (s, x) => {
      const scalar = (name: string, n: number, dims: number[]) =>
        s.weight(name, Tensor.from('int32', dims, Int32Array.from(Array(dims[0] ?? 1).fill(n))));
      const inputs = [write(s, x), null, null, null, null, scalar('lengths', 2, [2]), scalar('total', 3, [])];
      const y = s.add('GroupQueryAttention', inputs, 'y', { num_heads: 4, kv_num_heads: 2 });
      microsoft(s);
      return y;
    },
    merges,
    [32, 64],
  );
  form.model.graph.inputs[0]!.type = { kind: 'tensor', dtype: 'float32', shape: [2, 3, 32] };
  return ofParts({ ...form, feeds: { x: spread([2, 3, 32], [-1, 1], 3) } }, 32, [32, 16]);
};

type IntegerForm = {
  mask?: Tensor;
  past?: Tensor;
  present?: boolean;
  unidirectional?: number;
  scale?: number;
  perColumn?: boolean;
  isStatic?: boolean;
  /** The levels of x are an input. */
  isFed?: boolean;
  opset?: number;
};

/** Attention of two heads by one weight of integers. */
function integers(options: IntegerForm = {}): Form {
  const { mask, past, present, unidirectional = 0, scale, perColumn, isStatic, isFed, opset } = options;
  // Kernels of processors without dot products of bytes saturate sums of two products.
  const narrow = new Tensor(
    'int8',
    [8, 24],
    bytes('int8', [8, 24]).bytes.map(b => ((b << 24) >> 25) & 255),
  );
  const number = (s: Sketch, name: string, n: number) => s.weight(name, Tensor.filled('float32', [], n));
  const form = linear(
    (s, x) => {
      const zero = Tensor.filled('uint8', [], 120);
      const fixed = () => {
        const [step, from] = [number(s, 'x_scale', 0.01), s.weight('x_zero', zero)];
        return [s.add('QuantizeLinear', [x, step, from], 'x_levels'), step, from] as const;
      };
      const fed = () => [s.input('levels', [2, 3, 8], 'uint8'), number(s, 'x_scale', 0.01), null] as const;
      const [levels, step, from] = isFed ? fed() : isStatic ? fixed() : dynamic(s, x);
      const scales = perColumn
        ? s.weight('w.scale', spread([24], [0.005, 0.02], 8))
        : number(s, 'w.scale', 0.01);
      const inputs = [
        ...[levels, s.weight('w', narrow), s.weight('bias', [24]), step, scales],
        ...[mask ? s.weight('mask', mask) : null, from, null],
        ...(past ? [s.weight('past', past)] : []),
      ];
      const y = s.add('QAttention', inputs, 'y', {
        ...{ num_heads: 2, unidirectional },
        scale: scale === undefined ? undefined : { type: 'float', value: scale },
      });
      microsoft(s);
      if (past || present) s.graph.nodes.at(-1)!.outputs = [y, new Value('present')];
      return y;
    },
    false,
    [8, 24],
    opset,
  );
  const { graph } = form.model;
  graph.inputs[0]!.type = { kind: 'tensor', dtype: 'float32', shape: ['batch', 3, 8] };
  if (past || present) {
    const made = graph.nodes.at(-1)!.outputs[1]!;
    made.type = { kind: 'tensor', dtype: 'float32', shape: [2, 'batch', 2, 'total', 4] };
    graph.addOutputs(made);
  }
  return { ...form, feeds: { x: spread([2, 3, 8], [-1, 1], 3) } };
}

const INNER: Record<string, () => Form> = {
  Attention: attention,
  'Attention by a transposed weight': () => attention(true),
  QAttention: integers,
  'QAttention with a static scale': () => integers({ isStatic: true }),
};

const PARTS: Record<string, () => Form> = {
  Attention: () => ofParts(attention(), 8, [8, 4]),
  QAttention: () => ofParts(integers(), 8, [8, 8]),
  'a MatMul before GroupQueryAttention': () =>
    grouped((s, x) => s.add('MatMul', [x, s.weight('qkv_proj.weight', [32, 64])], 'qkv'), true),
  'a MatMulNBits before GroupQueryAttention': () =>
    grouped((s, x) => {
      const inputs = [x, s.weight('qkv_proj.weight', bytes('uint8', [64, 2, 8])), s.weight('scales', [128])];
      const y = s.add('MatMulNBits', inputs, 'qkv', { K: 32, N: 64, bits: 4, block_size: 16 });
      microsoft(s);
      return y;
    }, false),
};

async function outputsOf(model: Model, feeds: Record<string, Tensor>): Promise<Record<string, Tensor>> {
  const session = await Session.create(decodeModel(encodeModel(model)));
  const outputs = await session.run(feeds);
  await session.release();
  return outputs;
}

async function outputOf(model: Model, feeds: Record<string, Tensor>): Promise<Tensor> {
  const { y } = await outputsOf(model, feeds);
  return y!;
}

const run = async (model: Model, feeds: Record<string, Tensor>) => (await outputOf(model, feeds)).numbers();

const farthest = (a: readonly number[], b: readonly number[]) =>
  Math.max(...a.map((x, i) => Math.abs(x - b[i]!)));

describe.each(Object.entries({ ...FORMS, ...INNER }))('an adapter of %s', (_, make) => {
  it('has the gradients of finite differences', async () => {
    const { model, adapters, feeds } = make();
    const options = { cotangents: ['y'], adapters, wrt: ['*.lora_[AB]'] };
    const dims = (await outputOf(model, feeds)).dims;
    const fed = { ...feeds, y_cotangent: spread([...dims], [-1, 1], 7) };
    const found = await gradients(model, options, fed);
    const checks = await checkGradients(model, options, fed, found);
    expect(checks.map(c => c.unchecked ?? c.passed)).toEqual([true, true]);
  });

  it('is merged where the weight is in floating point', async () => {
    const { model, adapters, feeds, merges } = make();
    const adapted = addAdapters(model, [], adapters);
    const { model: result, merged, kept } = mergeAdapters(adapted);
    expect({ merged: merged.length, kept }).toEqual(
      merges ? { merged: 1, kept: [] } : { merged: 0, kept: ['w'] },
    );
    const [before, apart, after] = [
      await run(model, feeds),
      await run(adapted, feeds),
      await run(result, feeds),
    ];
    expect(farthest(before, apart)).toBeGreaterThan(0.1);
    expect(farthest(apart, after)).toBeLessThan(1e-4);
    if (merges) expect(result.graph.nodes.length).toBe(model.graph.nodes.length);
  });
});

describe.each(Object.entries(PARTS))('adapters of queries and values in %s', (_, make) => {
  it('have the gradients of finite differences', async () => {
    const { model, adapters, feeds } = make();
    const options = { cotangents: ['y'], adapters, wrt: ['*.lora_[AB]'] };
    const dims = (await outputOf(model, feeds)).dims;
    const fed = { ...feeds, y_cotangent: spread([...dims], [-1, 1], 7) };
    const found = await gradients(model, options, fed);
    const checks = await checkGradients(model, options, fed, found);
    expect(checks.map(c => c.unchecked ?? c.passed)).toEqual(Array(4).fill(true));
  });

  it('are merged where the weight is in floating point', async () => {
    const { model, adapters, feeds, merges } = make();
    const adapted = addAdapters(model, [], adapters);
    const { model: result, merged, kept } = mergeAdapters(adapted);
    expect({ merged: merged.length, kept: kept.length }).toEqual(
      merges ? { merged: 2, kept: 0 } : { merged: 0, kept: 2 },
    );
    const [before, apart, after] = [
      await run(model, feeds),
      await run(adapted, feeds),
      await run(result, feeds),
    ];
    expect(farthest(before, apart)).toBeGreaterThan(0.01);
    expect(farthest(apart, after)).toBeLessThan(1e-4);
    if (merges) expect(result.graph.nodes.length).toBe(model.graph.nodes.length);
  });
});

describe('a layer of queries, keys and values', () => {
  const make = () => PARTS['a MatMul before GroupQueryAttention']!().model;
  const chosen = (...lora: { match: string; r: number }[]) =>
    readAdapters(addAdapters(make(), lora, undefined)).map(({ module, r }) => [module, r]);

  it('is chosen by its own name, its parts by theirs, and the last one counts', () => {
    expect(chosen({ match: '*', r: 2 })).toEqual([['qkv_proj', 2]]);
    expect(chosen({ match: '*qkv*', r: 2 })).toEqual([['qkv_proj', 2]]);
    expect(chosen({ match: '*v_proj', r: 2 })).toEqual([['v_proj', 2]]);
    const [whole, part] = [
      { match: '*', r: 2 },
      { match: 'k_proj', r: 3 },
    ];
    expect(chosen(whole, part)).toEqual([['k_proj', 3]]);
    expect(chosen(part, whole)).toEqual([['qkv_proj', 2]]);
  });

  it('takes each method in whole, its parts LoRA alone', () => {
    const { model } = attention();
    const why = /: it is part of an operator that computes more.*\.$/;
    expect(() => addAdapters(model, [{ match: 'w', r: 2, dora: true }], undefined)).toThrow(why);
    expect(() => addAdapters(make(), [{ match: 'v_proj', r: 2, dora: true }], undefined)).toThrow(why);
    expect(() => addScales(model, [{ match: 'w' }], undefined)).toThrow(why);
    expect(() => addScales(make(), [{ match: 'v_proj' }], undefined)).toThrow(why);
    expect(() => addAdapters(model, [{ match: 'w', r: 2, dropout: 0.1 }], undefined)).toThrow(
      "No dropout for layer 'w' (Attention, 8 to 20): the adapter is added to its weight; leave out dropout.",
    );
    expect(() => addAdapters(model, [{ match: 'w.v_proj', r: 5 }], undefined)).toThrow(
      "--lora: rank 5 is above that of layer 'w.v_proj' (Attention, 8 to 4), which is at most 4.",
    );
  });
});

/** Forms whose activations stay as they are, and whose weight has columns. */
const WITH_MAGNITUDES = Object.entries(FORMS).filter(([name]) => !/GatherBlock|dynamically|Bnb4/.test(name));

/** The adapter with DoRA's magnitudes, which are not the norms of the weight. */
function withMagnitudes({ model, adapters: { name, adapters }, ...rest }: Form): Form {
  const dora = adapters.map(each => {
    const [outputs, , ...kernel] = each.b.dims;
    const dims = each.kind === 'conv' ? [1, outputs!, ...kernel] : [outputs!];
    return { ...each, magnitude: spread(dims, [0.5, 2], 9) };
  });
  return { model, adapters: { name, adapters: dora }, ...rest };
}

describe.each(WITH_MAGNITUDES)('an adapter with magnitudes of %s', (_, make) => {
  it('has the gradients of finite differences where its norms are no constants', async () => {
    const { model, adapters, feeds } = withMagnitudes(make());
    const options = { cotangents: ['y'], adapters, wrt: ['*.lora_[AB]', '*.lora_magnitude_vector'] };
    const dims = (await outputOf(model, feeds)).dims;
    const fed = { ...feeds, y_cotangent: spread([...dims], [-1, 1], 7) };
    const found = await gradients(model, options, fed);
    const checks = await checkGradients(model, options, fed, found);
    expect(checks.map(c => c.unchecked ?? c.passed)).toEqual([true, true, true]);
  });

  it('gives each column of the weight its norm', async () => {
    const { model, adapters, feeds, merges } = withMagnitudes(make());
    const adapted = addAdapters(model, [], adapters);
    const { model: result, merged } = mergeAdapters(adapted);
    expect(merged.length).toBe(merges ? 1 : 0);
    const [before, apart, after] = [
      await run(model, feeds),
      await run(adapted, feeds),
      await run(result, feeds),
    ];
    expect(farthest(before, apart)).toBeGreaterThan(0.1);
    expect(farthest(apart, after)).toBeLessThan(1e-4);
  });

  it('changes nothing at the start', async () => {
    const { model, feeds } = make();
    const adapted = addAdapters(model, [{ match: 'w', r: 2, dora: true }], undefined);
    expect(farthest(await run(model, feeds), await run(adapted, feeds))).toBeLessThan(1e-4);
    const dropped = addAdapters(model, [{ match: 'w', r: 2, dora: true, dropout: 0.5 }], undefined);
    expect(farthest(await run(model, feeds), await run(dropped, feeds))).toBeLessThan(1e-4);
  });
});

it.each(['GatherBlockQuantized', 'a dynamically quantized product'])('%s has no magnitudes', form => {
  const { model } = FORMS[form]!();
  expect(() => addAdapters(model, [{ match: 'w', r: 2, dora: true }], undefined)).toThrow(
    /^No DoRA adapter for layer 'w' \(.*, \d+ to \d+\): .*without dora\.$/,
  );
});

it('reads norms of every layout of integers behind DequantizeLinear', async () => {
  const forms = {
    'by row': [spread([32, 1], [0.01, 0.02], 4), { axis: 0 }],
    'by column': [spread([3], [0.01, 0.02], 4), { axis: -1 }],
    'in blocks': [spread([4, 3], [0.01, 0.02], 4), { axis: 0, block_size: 8 }],
  } as const;
  for (const [name, [scales, attrs]] of Object.entries(forms)) {
    const { model, feeds } = linear(
      (s, x) => {
        const dims = name === 'by row' ? [32] : scales.dims;
        const scale = s.weight('w.scale', new Tensor('float32', dims, scales.bytes));
        const zero = s.weight('w.zero', bytes('int8', dims));
        const w = s.add('DequantizeLinear', [s.weight('w', bytes('int8', [32, 3])), scale, zero], 'd', attrs);
        return s.add('MatMul', [x, w], 'y');
      },
      false,
      [32, 3],
      21,
    );
    const adapted = addAdapters(model, [{ match: 'w', r: 2, dora: true }], undefined);
    expect(farthest(await run(model, feeds), await run(adapted, feeds))).toBeLessThan(1e-4);
  }
});

it('keeps the weight of an adapter with magnitudes as it was', async () => {
  const lora = [{ match: 'fc1', r: 2, dora: true }];
  const options = { loss: { kind: 'cross-entropy' }, lora, train: ['fc1.weight'] } as const;
  await expect(inject(mlp(), options, sessionShapes)).rejects.toThrow(
    "'fc1.weight' cannot train: the DoRA adapter of 'fc1' keeps the norm that it had. Leave it out of --train.",
  );
});

it.each([
  ['MatMulNBits', 'MatMulNBits'],
  ['DequantizeLinear', 'MatMul behind DequantizeLinear'],
])('keeps the scales of %s below an adapter with magnitudes as they were', async (opType, form) => {
  const { model } = FORMS[form]!();
  const node = model.graph.nodes.find(n => n.opType === opType)!;
  const scale = node.inputs[opType === 'MatMulNBits' ? 2 : 1]!.name;
  const adapted = addAdapters(model, [{ match: 'w', r: 2, dora: true }], undefined);
  const options = { loss: { kind: 'mse', output: 'y' }, train: [scale] } as const;
  await expect(inject(adapted, options, sessionShapes)).rejects.toThrow(`'${scale}' cannot train: the DoRA`);
});

it('computes the norms of a MatMulNBits that rounds its input exactly', () => {
  const { model } = FORMS.MatMulNBits!();
  const [node] = model.graph.nodes.filter(n => n.opType === 'MatMulNBits');
  node!.attrs = new Map([...node!.attrs, ['accuracy_level', { type: 'int', value: 4n }]]);
  const adapted = addAdapters(model, [{ match: 'w', r: 2, dora: true }], undefined);
  const levels = adapted.graph.nodes
    .filter(n => n.opType === 'MatMulNBits')
    .map(n => [n.inputs[0]!.name === 'x', n.attrs.has('accuracy_level')]);
  expect(levels).toHaveLength(2);
  for (const [isOfInput, rounds] of levels) expect(rounds).toBe(isOfInput);
});

it('leaves MatMulNBits in a training step, and dequantizes in a loop', async () => {
  const { model, adapters } = FORMS.MatMulNBits!();
  const options = { loss: { kind: 'mse', output: 'y' }, adapters } as const;
  // Something before the layer trains, so that a gradient passes it.
  const { inputs, nodes } = model.graph;
  const scale = new Value('before', { kind: 'tensor', dtype: 'float32', shape: [32] });
  model.graph.initializers.set(scale, spread([32], [0.5, 1], 4));
  const scaled = new Value('scaled');
  model.graph.insertBefore(nodes[0]!, new Node('Mul', [inputs[0]!, scale], [scaled]));
  model.graph.nodes.at(-1)!.setInput(0, scaled);
  const { model: step } = await inject(model, { ...options, train: ['before'] }, sessionShapes);
  const operators = (graph: Graph) => graph.nodes.map(n => n.opType);
  expect(operators(step.graph)).toEqual(expect.arrayContaining(['MatMulNBits', 'Loop']));
  expect(operators(step.graph)).not.toContain('BitShift');
  const [body] = step.graph.nodes.find(n => n.opType === 'Loop')!.subgraphs();
  expect(operators(body!)).toContain('BitShift');
});

it('dequantizes the rows of a large weight of 4 bits in parts', async () => {
  const [n, k] = [1100, 1024];
  const s = new Sketch();
  const x = s.input('x', ['batch', k]);
  const scales = spread([n, k / 32], [0.001, 0.002], 5);
  const packed = bytes('uint8', [n, k / 32, 16]);
  const y = s.add('MatMulNBits', [x, s.weight('w', packed), s.weight('s', scales)], 'y', {
    K: k,
    N: n,
    bits: 4,
    block_size: 32,
  });
  microsoft(s);
  const model = s.model([y]);
  model.opsetImports.set('com.microsoft', 1);
  const dy = spread([2, n], [-1, 1], 7);
  const fed = { x: spread([2, k], [-1, 1], 3), y_cotangent: dy };
  const found = await gradients(model, { cotangents: ['y'], wrt: ['x'] }, fed);
  const [levels, scale, cotangent] = [packed.bytes, scales.numbers(), dy.numbers()];
  const wanted = Array.from({ length: 2 * k }, (_, at) => {
    const [row, column] = [Math.floor(at / k), at % k];
    let sum = 0;
    for (let o = 0; o < n; o++) {
      const level = (levels[(o * k + column) >> 1]! >> (column % 2 ? 4 : 0)) & 15;
      sum += cotangent[row * n + o]! * (level - 8) * scale[(o * k + column) >> 5]!;
    }
    return sum;
  });
  const [gradient] = found.gradients.values();
  expect(farthest(gradient!.numbers(), wanted)).toBeLessThan(1e-4);
});

it('refuses a file with two adapters for one layer', () => {
  const [adapter] = adapterOf('linear', 4, 8).adapters;
  const adapters = ['encoder.fc1', 'decoder.fc1'].map(module => ({ ...adapter!, module }));
  expect(() => addAdapters(mlp(), [], { name: 'adapter.safetensors', adapters })).toThrow(
    "adapter.safetensors has two adapters for layer 'fc1' (Gemm, 4 to 8): 'encoder.fc1' and 'decoder.fc1'.",
  );
});

describe('an adapter of QAttention', () => {
  it('adds its product to that of the integers, as computed in float64', async () => {
    const { model, adapters, feeds } = integers();
    const { a, b } = adapters.adapters[0]!;
    const x = feeds.x!.numbers();
    const stored = (name: string) =>
      [...model.graph.initializers].find(([v]) => v.name === name)![1].numbers();
    const [w, bias] = [stored('w'), stored('bias')];
    // DynamicQuantizeLinear, as ONNX defines it.
    const [low, high] = [Math.min(0, ...x), Math.max(0, ...x)];
    const scale = Math.fround((high - low) / 255);
    const zero = Math.round(-low / scale);
    const level = (v: number) => (Math.min(255, Math.max(0, Math.round(v / scale) + zero)) - zero) * scale;
    const row = (i: number) =>
      bias.map((start, o) => {
        let sum = start;
        for (let c = 0; c < 8; c++) sum += level(x[8 * i + c]!) * w[24 * c + o]! * Math.fround(0.01);
        for (let k = 0; k < 2; k++) {
          let low = 0;
          for (let c = 0; c < 8; c++) low += x[8 * i + c]! * a.numbers()[8 * k + c]!;
          sum += 1.5 * low * b.numbers()[2 * o + k]!;
        }
        return sum;
      });
    const wanted = [0, 1].flatMap(batch => {
      const rows = [0, 1, 2].map(t => row(3 * batch + t));
      return rows.flatMap(q =>
        [0, 1].flatMap(head => {
          const part = (r: number[], from: number) => r.slice(8 * from + 4 * head, 8 * from + 4 * head + 4);
          const scores = rows.map(r => part(q, 0).reduce((n, v, i) => n + v * part(r, 1)[i]!, 0) / 2);
          const weights = scores.map(s => Math.exp(s - Math.max(...scores)));
          const total = weights.reduce((n, v) => n + v, 0);
          return [0, 1, 2, 3].map(i =>
            rows.reduce((n, r, t) => n + (weights[t]! / total) * part(r, 2)[i]!, 0),
          );
        }),
      );
    });
    expect(farthest(await run(addAdapters(model, [], adapters), feeds), wanted)).toBeLessThan(1e-5);
  });

  const lengths = Tensor.from('int32', [2], Int32Array.of(3, 2));
  const shown = Tensor.from('int32', [2, 3], Int32Array.of(1, 1, 0, 1, 1, 1));
  const past = spread([2, 2, 2, 4, 4], [-1, 1], 5);
  it.each<[string, IntegerForm]>([
    ['a mask of lengths', { mask: lengths }],
    ['a mask of positions', { mask: shown }],
    ['a causal mask', { unidirectional: 1 }],
    ['a scale and an older operator set', { scale: 0.3, opset: 11 }],
    ['scales of columns', { perColumn: true }],
    ['a static scale', { isStatic: true }],
    ['a past', { past, unidirectional: 1 }],
    ['a present without a past', { present: true }],
  ])('leaves the numbers as they are at first, with %s', async (_, form) => {
    const { model, feeds } = integers(form);
    const adapted = addAdapters(model, [{ match: 'w', r: 2 }], undefined);
    const weights = ({ graph }: Model) => [...graph.initializers].find(([v]) => v.name === 'w')![1];
    expect(weights(adapted)).toBe(weights(model));
    expect(adapted.graph.nodes.some(node => node.opType === 'QAttention')).toBe(false);
    const [before, after] = [await outputsOf(model, feeds), await outputsOf(adapted, feeds)];
    expect(Object.keys(after)).toEqual(Object.keys(before));
    for (const [name, { dims }] of Object.entries(before)) {
      expect(after[name]!.dims).toEqual(dims);
      expect(farthest(before[name]!.numbers(), after[name]!.numbers())).toBeLessThan(2e-6);
    }
  });

  it('is refused where the features before rounding are not in the graph, and as IA3 and DoRA', () => {
    const { model } = integers();
    const take = (spec: object) => () => addAdapters(model, [{ match: 'w', r: 2, ...spec }], undefined);
    expect(take({ dora: true })).toThrow('its activations are quantized');
    expect(() => addScales(model, [{ match: 'w' }], undefined)).toThrow('an operator that computes more');
    const { model: other } = integers({ isFed: true });
    expect(() => addAdapters(other, [{ match: 'w', r: 2 }], undefined)).toThrow(
      "No adapter for QAttention 'y_node': the graph does not compute the features that it multiplies before they are rounded.",
    );
    expect(take({ r: 9 })).toThrow("rank 9 is above that of layer 'w' (QAttention, 8 to 24)");
  });
});

it('refuses magnitudes of blocks of 4-bit floats', () => {
  const { model } = FORMS.MatMulBnb4!();
  expect(() => addAdapters(model, [{ match: '*', r: 1, dora: true }], undefined)).toThrow(
    /its weights are 4-bit floats; use an adapter without dora/,
  );
});

describe('merging beside another layer that reads the same transposed weight', () => {
  const make = () => {
    const s = new Sketch();
    const t = s.add('Transpose', [s.weight('w', [8, 8])], 't');
    const first = s.add('MatMul', [s.input('x', ['batch', 8]), t], 'first');
    return s.model([s.add('MatMul', [s.add('Tanh', [first], 'a'), t], 'y')]);
  };
  const feeds = { x: spread([4, 8], [-1, 1], 3) };

  it.each([
    ['without an adapter', [{ match: 'first_node', r: 2 }]],
    [
      'with an adapter of another rank',
      [
        { match: 'first_node', r: 2 },
        { match: 'y_node', r: 3 },
      ],
    ],
  ])('%s', async (_, specs) => {
    const adapted = addAdapters(make(), specs, undefined);
    for (const [value, tensor] of adapted.graph.initializers)
      if (value.name.includes('.lora_B') || value.name.includes('lora_B_'))
        adapted.graph.initializers.set(value, spread(tensor.dims, [-1, 1], value.name.length));
    const { model: result, merged } = mergeAdapters(adapted);
    expect(merged.length).toBe(specs.length);
    const [before, apart, after] = [
      await run(make(), feeds),
      await run(adapted, feeds),
      await run(result, feeds),
    ];
    expect(farthest(before, apart)).toBeGreaterThan(0.01);
    expect(farthest(apart, after)).toBeLessThan(1e-4);
  });
});
