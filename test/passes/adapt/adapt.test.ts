import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { checkGraph } from '../../../src/graph/check-graph.js';
import { loadModel } from '../../../src/graph/files.js';
import type { Model, Value } from '../../../src/graph/ir.js';
import { decodeModel, encodeModel } from '../../../src/graph/proto/codec.js';
import { Tensor } from '../../../src/graph/tensor.js';
import { type AdaptOptions, adapt } from '../../../src/index.js';
import { Session } from '../../../src/runtime/session.js';
import { floatsOf, spread } from '../../ops/vjp.js';
import { mlp, Sketch } from '../../sample.js';

/** The adapted model as it is read back, and what it gives for these inputs. */
async function adapted(model: Model, options: AdaptOptions, feeds: Record<string, Tensor>) {
  const { model: made, report } = await adapt(model, options);
  checkGraph(made.graph);
  const read = decodeModel(encodeModel(made));
  return { model: read, report, ...(await run(read, feeds)) };
}

async function run(model: Model, feeds: Record<string, Tensor>) {
  const session = await Session.create(model);
  const results = await session.run(feeds);
  await session.release();
  return { results };
}

const named = (model: Model, name: string) =>
  [...model.graph.initializers].find(([v]) => v.name === name)![1];
const shapes = (model: Model) => model.graph.outputs.map(v => v.shape);
const operators = (model: Model) => model.graph.nodes.map(n => n.opType);
const x = spread([6, 4], [-1, 1], 3);

describe('a new head', () => {
  it('is initialized as PyTorch does, in the place of the old one', async () => {
    const { model, report, results } = await adapted(mlp(), { classes: 5 }, { x });
    expect(report).toEqual({
      heads: [{ name: 'fc2', operator: 'Gemm', before: 3, after: 5 }],
      parameters: ['fc2.weight', 'fc2.bias'],
      removed: [],
      outputs: [{ name: 'logits', type: 'float32[batch,5]' }],
    });
    expect(named(model, 'fc2.weight').dims).toEqual([8, 5]);
    expect(results.logits!.dims).toEqual([6, 5]);
    expect(model.metadata.get('agd.head')).toBe('["fc2.weight","fc2.bias"]');
    const values = [...named(model, 'fc2.weight').numbers(), ...named(model, 'fc2.bias').numbers()];
    const bound = 1 / Math.sqrt(8);
    expect(Math.max(...values.map(Math.abs))).toBeLessThanOrEqual(bound);
    expect(new Set(values).size).toBe(45);
    const mean = values.reduce((n, v) => n + v * v, 0) / values.length;
    expect(mean).toBeGreaterThan(bound ** 2 / 3 / 2);
    expect(mean).toBeLessThan((bound ** 2 / 3) * 2);
    const again = await adapt(mlp(), { classes: 5 });
    expect(named(again.model, 'fc2.weight').numbers()).toEqual(named(model, 'fc2.weight').numbers());
    const other = await adapt(mlp(), { classes: 5, seed: 1 });
    expect(named(other.model, 'fc2.weight').numbers()).not.toEqual(named(model, 'fc2.weight').numbers());
  });

  it('leaves the model that was given', async () => {
    const model = mlp();
    const before = encodeModel(model);
    await adapt(model, { classes: 5, headMlp: [3] });
    expect(encodeModel(model)).toEqual(before);
  });

  it('keeps the rows that are named, in their order', async () => {
    const { results } = await adapted(mlp(), { classes: 4, keep: [2, 0] }, { x });
    const { results: old } = await run(mlp(), { x });
    const [now, before] = [results.logits!.numbers(), old.logits!.numbers()];
    for (let i = 0; i < 6; i++) {
      expect(now[4 * i]).toBeCloseTo(before[3 * i + 2]!, 6);
      expect(now[4 * i + 1]).toBeCloseTo(before[3 * i]!, 6);
    }
  });

  it('has hidden layers where they are asked for', async () => {
    const { model, report, results } = await adapted(mlp(), { classes: 5, headMlp: [7, 6] }, { x });
    expect(operators(model)).toEqual(['Gemm', 'Tanh', 'Gemm', 'Relu', 'Gemm', 'Relu', 'Gemm']);
    expect(report.parameters).toEqual([
      ...['fc2.hidden.0.weight', 'fc2.hidden.0.bias', 'fc2.hidden.1.weight', 'fc2.hidden.1.bias'],
      ...['fc2.weight', 'fc2.bias'],
    ]);
    expect(named(model, 'fc2.hidden.0.weight').dims).toEqual([7, 8]);
    expect(named(model, 'fc2.weight').dims).toEqual([6, 5]);
    expect(results.logits!.dims).toEqual([6, 5]);
  });

  it('takes the names, the sum and the Softmax of Keras', async () => {
    const s = new Sketch();
    const input = s.input('input_1', ['N', 4]);
    const kernel = s.weight('sequential/dense_1/MatMul/ReadVariableOp:0', [4, 3]);
    const bias = s.weight('sequential/dense_1/BiasAdd/ReadVariableOp:0', [3]);
    const sum = s.add('Add', [s.add('MatMul', [input, kernel], 'product'), bias], 'sum');
    const model = s.model([s.add('Softmax', [sum], 'Identity:0', { axis: -1 })]);
    const { results, report } = await adapted(model, { classes: 2 }, { input_1: x });
    expect(report.heads[0]).toMatchObject({ name: 'sequential.dense_1', before: 3, after: 2 });
    expect(results['Identity:0']!.dims).toEqual([6, 2]);
    const rows = results['Identity:0']!.numbers();
    expect(rows[0]! + rows[1]!).toBeCloseTo(1, 5);
    const plain = await adapted(model, { outputs: 1, regression: true, headMlp: [5] }, { input_1: x });
    expect(plain.report.removed).toEqual(['Softmax']);
    expect(operators(plain.model)).toEqual(['MatMul', 'Add', 'Relu', 'MatMul', 'Add']);
    expect(plain.report.outputs).toEqual([{ name: 'Identity:0', type: 'float32[N,1]' }]);
    expect(plain.results['Identity:0']!.dims).toEqual([6, 1]);
  });

  it.each([[[1, 1, 1, 1]], [[1]]])(
    'has one bias per channel where a convolution of one output had %j',
    async dims => {
      const s = new Sketch();
      const product = s.add(
        'Conv',
        [s.input('x', ['N', 2, 3, 4]), s.weight('fc.weight', [1, 2, 1, 1])],
        'product',
      );
      const model = s.model([s.add('Add', [product, s.weight('fc.bias', dims)], 'y')]);
      const { results } = await adapted(model, { classes: 5 }, { x: spread([2, 2, 3, 4], [-1, 1], 3) });
      expect(results.y!.dims).toEqual([2, 5, 3, 4]);
    },
  );

  it('returns the logits twice where a Softmax between two outputs is removed', async () => {
    const s = new Sketch();
    const logits = s.add(
      'Gemm',
      [s.input('x', ['N', 4]), s.weight('fc.weight', [4, 3]), s.weight('fc.bias', [3])],
      'logits',
    );
    const model = s.model([logits, s.add('Softmax', [logits], 'probabilities')]);
    const { results } = await adapted(model, { outputs: 2, regression: true }, { x });
    expect(results.probabilities!.numbers()).toEqual(results.logits!.numbers());
    const { results: classes } = await adapted(model, { classes: 2 }, { x });
    expect(classes.probabilities!.dims).toEqual([6, 2]);
  });

  it('is a convolution before pooling, with the shape after it', async () => {
    const s = new Sketch();
    const image = s.input('image', ['N', 2, 4, 4]);
    const conv = s.add(
      'Conv',
      [image, s.weight('last.weight', [10, 2, 1, 1]), s.weight('last.bias', [10])],
      'conv',
    );
    const pooled = s.add('GlobalAveragePool', [s.add('Relu', [conv], 'relu')], 'pooled');
    const shape = s.weight('shape', Tensor.ints([-1, 10]));
    const model = s.model([s.add('Softmax', [s.add('Reshape', [pooled, shape], 'flat')], 'y')]);
    model.graph.outputs[0]!.type = { kind: 'tensor', dtype: 'float32', shape: ['N', 10] };
    const feeds = { image: spread([3, 2, 4, 4]) };
    const { results, report } = await adapted(model, { classes: 4, headMlp: [5] }, feeds);
    expect(results.y!.dims).toEqual([3, 4]);
    expect(report.outputs).toEqual([{ name: 'y', type: 'float32[N,4]' }]);
    expect(named((await adapt(model, { classes: 4 })).model, 'last.weight').dims).toEqual([4, 2, 1, 1]);
  });

  it('is found behind a resize to sizes that are written out, and a shape that is computed', async () => {
    const s = new Sketch();
    const image = s.input('image', ['N', 2, 4, 4]);
    const conv = s.add('Conv', [image, s.weight('last.weight', [10, 2, 1, 1])], 'conv');
    const sizes = s.weight('sizes', Tensor.ints([3, 10, 8, 8]));
    const large = s.add('Resize', [conv, null, null, sizes], 'large');
    const batch = s.add(
      'Gather',
      [s.add('Shape', [image], 'dims'), s.weight('zero', Tensor.ints([0]))],
      'batch',
    );
    const shape = s.add('Concat', [batch, s.weight('rest', Tensor.ints([10, 64]))], 'shape', { axis: 0 });
    const model = s.model([s.add('Reshape', [large, shape], 'y')]);
    const { results } = await adapted(model, { classes: 4 }, { image: spread([3, 2, 4, 4]) });
    expect(results.y!.dims).toEqual([3, 4, 64]);
  });

  it.each(['float16', 'bfloat16', 'float64'] as const)(
    'has the element type of the old one: %s',
    async dtype => {
      const s = new Sketch();
      const input = s.input('x', ['N', 4], dtype);
      const weight = s.weight('fc.weight', Tensor.ofNumbers(dtype, [3, 4], spread([3, 4]).numbers()));
      const bias = s.weight('fc.bias', Tensor.ofNumbers(dtype, [3], [1, 2, 3]));
      const model = s.model([s.add('Gemm', [input, weight, bias], 'y', { transB: 1 })]);
      const { model: made } = await adapt(model, { classes: 2, keep: [1], headMlp: undefined });
      expect([named(made, 'fc.weight').dtype, named(made, 'fc.bias').dtype]).toEqual([dtype, dtype]);
      expect(named(made, 'fc.bias').numbers()[0]).toBe(2);
      expect(made.graph.outputs[0]!.dtype).toBe(dtype);
      const deep = await adapt(model, { classes: 2, headMlp: [3] });
      expect(named(deep.model, 'fc.hidden.0.weight').dtype).toBe(dtype);
    },
  );

  it('is read through a Transpose, a Cast or a Constant node', async () => {
    const s = new Sketch();
    const stored = s.add('Constant', [], 'fc.weight', {
      value: Tensor.ofNumbers('float16', [3, 4], spread([3, 4]).numbers()),
    });
    const exact = s.add('Cast', [stored], 'exact', { to: 1 });
    const turned = s.add('Transpose', [exact], 'turned', { perm: [1, 0] });
    const model = s.model([s.add('MatMul', [s.input('x', ['N', 4]), turned], 'y')]);
    const { results, model: made } = await adapted(model, { classes: 5, keep: [2] }, { x });
    expect(named(made, 'fc.weight')).toMatchObject({ dtype: 'float16', dims: [5, 4] });
    const { results: old } = await run(model, { x });
    expect(results.y!.numbers()[5]).toBe(old.y!.numbers()[5]);
  });

  it('leaves a weight that another layer reads to it', async () => {
    const s = new Sketch();
    const weight = s.weight('shared', [4, 4]);
    const hidden = s.add('MatMul', [s.input('x', ['N', 4]), weight], 'hidden');
    const model = s.model([s.add('MatMul', [s.add('Relu', [hidden], 'r'), weight], 'y')]);
    const { model: made, report, results } = await adapted(model, { classes: 3 }, { x });
    expect(named(made, 'shared').dims).toEqual([4, 4]);
    expect(report.parameters).toEqual(['shared.weight']);
    expect(results.y!.dims).toEqual([6, 3]);
  });

  it('keeps types of inner values that files declare in step', async () => {
    const { model } = await adapt(await loadModel(join(import.meta.dirname, 'squeezenet-dynamo.onnx')), {
      classes: 4,
    });
    const read = decodeModel(encodeModel(model));
    const declared = read.graph.nodes.at(-3)!.outputs[0]!;
    expect(declared.shape?.[1]).toBe(4);
    expect(shapes(read)).toEqual([['batch', 4]]);
  });
});

describe('a quantized head', () => {
  it('behind DequantizeLinear becomes one in floating point, and loses the rounding of its outputs', async () => {
    const s = new Sketch();
    const [scale, zero] = [s.weight('s', floatsOf([0.05], [])), s.weight('z', Tensor.filled('int8', [], 0))];
    const q = (v: Value, name: string) =>
      s.add(
        'DequantizeLinear',
        [s.add('QuantizeLinear', [v, scale, zero], `${name}_q`), scale, zero],
        `${name}_dq`,
      );
    const integers = s.weight(
      'w',
      Tensor.from(
        'int8',
        [4, 3],
        Int8Array.from({ length: 12 }, (_, i) => i),
      ),
    );
    const weight = s.add('DequantizeLinear', [integers, scale, zero], 'w_dq');
    const product = s.add(
      'Gemm',
      [q(s.input('x', ['N', 4]), 'x'), weight, s.weight('fc.bias', [3])],
      'logits',
    );
    const model = s.model([q(product, 'logits')]);
    const { model: made, report, results } = await adapted(model, { classes: 5 }, { x });
    expect(report.removed).toEqual(['QuantizeLinear', 'DequantizeLinear']);
    expect(operators(made)).toEqual(['QuantizeLinear', 'DequantizeLinear', 'Gemm']);
    expect(results.logits_dq!.dims).toEqual([6, 5]);
    expect([...made.graph.initializers.keys()].map(v => v.name)).not.toContain('w');
    await expect(adapt(model, { classes: 5, keep: [1] })).rejects.toMatchObject({
      code: 'unsupported-op',
      message: expect.stringContaining('quantized (DequantizeLinear)'),
    });
  });

  it('of dynamically quantized models becomes a product in floating point', async () => {
    const s = new Sketch();
    const input = s.input('x', ['N', 4]);
    const model = dynamic(s, input);
    const { model: made, results } = await adapted(model, { classes: 5 }, { x });
    expect(operators(made)).toEqual(['MatMul', 'Add']);
    expect(results.y!.dims).toEqual([6, 5]);
  });

  it('of 4-bit blocks becomes one, too', async () => {
    const s = new Sketch();
    const input = s.input('x', ['N', 32]);
    const packed = s.weight('lm.weight', Tensor.filled('uint8', [8, 1, 16], 0x5a));
    const scales = s.weight('scales', spread([8], [0.1, 0.2]));
    const y = s.add('MatMulNBits', [input, packed, scales], 'y', { K: 32, N: 8, bits: 4, block_size: 32 });
    y.producer!.domain = 'com.microsoft';
    const model = s.model([y]);
    model.opsetImports.set('com.microsoft', 1);
    const { model: made, results, report } = await adapted(model, { classes: 5 }, { x: spread([2, 32]) });
    expect(operators(made)).toEqual(['MatMul']);
    expect(report.heads[0]).toMatchObject({ operator: 'MatMulNBits', before: 8, after: 5 });
    expect(results.y!.dims).toEqual([2, 5]);
  });

  it('is refused by name where nothing is left in floating point', async () => {
    const s = new Sketch();
    const zero = s.weight('z', Tensor.filled('uint8', [], 0));
    const scale = s.weight('s', floatsOf([0.1], []));
    const q = s.add('QuantizeLinear', [s.input('x', ['N', 4]), scale, zero], 'q');
    const weight = s.weight('w', Tensor.filled('uint8', [4, 3], 1));
    const product = s.add('QLinearMatMul', [q, scale, zero, weight, scale, zero, scale, zero], 'p');
    const model = s.model([s.add('DequantizeLinear', [product, scale, zero], 'y')]);
    await expect(adapt(model, { classes: 2 })).rejects.toThrow(
      "Head 'p_node' is computed on integers by QLinearMatMul: adapt the model before it is quantized.",
    );
  });
});

/** x W + b as ONNX Runtime's dynamic quantization writes it. */
function dynamic(s: Sketch, input: Value): Model {
  const rounded = s.add('DynamicQuantizeLinear', [input], 'x_q');
  const node = rounded.producer!;
  const [scale, zero] = ['x_scale', 'x_zero'].map(name =>
    Object.assign(s.input(name, []), { type: undefined }),
  );
  s.graph.inputs = [input];
  node.outputs = [rounded, scale!, zero!];
  const weight = s.weight('fc.weight_quantized', Tensor.filled('int8', [4, 3], 3));
  const product = s.add('MatMulInteger', [rounded, weight, zero!], 'p');
  const cast = s.add('Cast', [product], 'c', { to: 1 });
  const factor = s.add('Mul', [scale!, s.weight('fc.scale', floatsOf([0.1], []))], 'factor');
  const scaled = s.add('Mul', [cast, factor], 'scaled');
  return s.model([s.add('Add', [scaled, s.weight('fc.bias', [3])], 'y')]);
}

describe('which layer is the head', () => {
  function two(): Model {
    const s = new Sketch();
    const hidden = s.add(
      'Tanh',
      [s.add('MatMul', [s.input('x', ['N', 4]), s.weight('body.weight', [4, 8])], 'h')],
      't',
    );
    const age = s.add('Gemm', [hidden, s.weight('age.weight', [8, 1]), s.weight('age.bias', [1])], 'age_out');
    const kind = s.add(
      'Gemm',
      [hidden, s.weight('kind.weight', [8, 3]), s.weight('kind.bias', [3])],
      'kind_out',
    );
    return s.model([s.add('Sigmoid', [age], 'years'), kind]);
  }

  it('is asked for where there are several', async () => {
    await expect(adapt(two(), { classes: 4 })).rejects.toThrow(
      "The model has 2 heads: choose one with --head: 'age' (Gemm, 1 outputs before 'years'), 'kind' (Gemm, 3 outputs before 'kind_out').",
    );
    for (const head of ['kind', 'kind.weight', 'kind_out', 'kind_out_node']) {
      const { model } = await adapt(two(), { classes: 4, head });
      expect(shapes(model)[1]).toEqual(['N', 4]);
    }
  });

  it('is said where the name is none', () =>
    expect(adapt(two(), { classes: 4, head: 'kinds' })).rejects.toThrow(
      "--head 'kinds' names no linear layer; there are 'age' (Gemm, 1 outputs before 'years'), 'kind'",
    ));

  it('is not told where something else comes last', async () => {
    const s = new Sketch();
    const hidden = s.add('MatMul', [s.input('x', ['N', 4]), s.weight('enc.weight', [4, 8])], 'h');
    const norm = s.add('LayerNormalization', [hidden, s.weight('n', [8]), s.weight('b', [8])], 'features');
    const model = s.model([norm]);
    await expect(adapt(model, { classes: 4 })).rejects.toMatchObject({
      code: 'no-such-value',
      message: expect.stringMatching(/No linear layer leads to 'features'.*'enc' \(MatMul, 8 outputs\)/),
    });
  });
});

it.each<[AdaptOptions, string]>([
  [{}, 'Choose a new form for the model: --classes N'],
  [{ classes: 0 }, 'classes must be a whole number of at least 1, not 0.'],
  [{ classes: 2, outputs: 2 }, 'classes cannot be combined with outputs.'],
  [{ classes: 2, vocabulary: 2 }, 'classes cannot be combined with vocabulary.'],
  [{ classes: 2, keep: [0, 1, 2] }, 'keep names 3 old classes, but the new head has 2 outputs.'],
  [{ classes: 2, keep: [3] }, "keep: head 'fc2' has no class 3, only 0 to 2."],
  [{ classes: 2, keep: [0], headMlp: [4] }, 'keep cannot be combined with headMlp.'],
  [{ vocabulary: 9 }, "No table is looked up by an integer input of the model ('x'): it has no vocabulary."],
  [{ clases: 2 } as AdaptOptions, "Unknown option 'clases'; did you mean 'classes'?"],
])('%j is refused', (options, message) => expect(adapt(mlp(), options)).rejects.toThrow(message));

describe('a longer vocabulary', () => {
  /** Tokens and their kinds, and logits over the tokens: by the embedding itself, a copy of it, or another matrix. */
  function language(form: 'tied' | 'copy' | 'other'): Model {
    const s = new Sketch();
    const table = s.weight('embed.weight', [7, 4]);
    const tokens = s.add('Gather', [table, s.input('input_ids', ['N', 'T'], 'int64')], 'e');
    const kinds = s.add(
      'Gather',
      [s.weight('kind.weight', [2, 4]), s.input('kind_ids', ['N', 'T'], 'int64')],
      'k',
    );
    const numbers = s.graph.initializers.get(table)!.numbers();
    const turned = floatsOf(
      Array.from({ length: 28 }, (_, i) => numbers[(i % 7) * 4 + Math.floor(i / 7)]!),
      [4, 7],
    );
    const matrix =
      form === 'tied'
        ? s.add('Transpose', [table], 'turned', { perm: [1, 0] })
        : s.weight('lm_head.weight', form === 'copy' ? turned : [4, 7]);
    const product = s.add('MatMul', [s.add('Add', [tokens, kinds], 'sum'), matrix], 'product');
    const logits = s.add('Add', [product, s.weight('lm_head.bias', [7])], 'logits');
    return s.model([s.add('Reshape', [logits, s.weight('flat', Tensor.ints([-1, 7]))], 'y')]);
  }
  const ids = (top: number) => ({
    input_ids: Tensor.from('int64', [2, 3], BigInt64Array.of(0n, 1n, 2n, 3n, 4n, BigInt(top))),
    kind_ids: Tensor.from('int64', [2, 3], BigInt64Array.of(0n, 1n, 0n, 1n, 0n, 1n)),
  });

  it.each(['tied', 'copy', 'other'] as const)(
    'has rows like the mean of the old ones, which stay: %s',
    async form => {
      const model = language(form);
      const { model: made, results, report } = await adapted(model, { vocabulary: 9 }, ids(8));
      expect(results.y!.dims).toEqual([6, 9]);
      expect(report.embedding).toEqual({ name: 'embed.weight', before: 7, after: 9 });
      const table = named(made, 'embed.weight').numbers();
      const old = named(model, 'embed.weight').numbers();
      expect(table.slice(0, 28)).toEqual(old);
      for (let c = 0; c < 4; c++) {
        const mean = [0, 1, 2, 3, 4, 5, 6].reduce((n, r) => n + old[4 * r + c]! / 7, 0);
        expect(table[28 + c]).not.toBe(table[32 + c]);
        expect(table[28 + c]).toBeCloseTo(mean, 1);
      }
      const { results: before } = await run(model, ids(6));
      const { results: after } = await run(made, ids(6));
      const kept = after.y!.numbers().filter((_, i) => i % 9 < 7);
      for (const [i, value] of kept.entries()) expect(value).toBeCloseTo(before.y!.numbers()[i]!, 5);
      expect(named(made, 'lm_head.bias').dims).toEqual([9]);
      if (form === 'copy') {
        const lm = named(made, 'lm_head.weight').numbers();
        for (let r = 0; r < 9; r++) for (let c = 0; c < 4; c++) expect(lm[c * 9 + r]).toBe(table[4 * r + c]);
      }
    },
  );

  it('can only grow', () =>
    expect(adapt(language('tied'), { vocabulary: 7 })).rejects.toThrow(
      "vocabulary: 'embed.weight' has 7 rows: choose a larger number, not 7.",
    ));
});
