/**
 * Straight-through gradients of operators on integers: those of the operators in floating point, at the numbers that the
 * integers stand for. Gradients of these agree with differences.
 */
import { describe, expect, it } from 'vitest';
import { Graph, Model, Node, Value } from '../../src/graph/ir.js';
import { Tensor } from '../../src/graph/tensor.js';
import { type AttrInit, float, toAttrs } from '../../src/ops/core/builder.js';
import { Session } from '../../src/runtime/session.js';
import { bools, floatsOf, gradients, spread } from './vjp.js';

type Read = Tensor | { name: string };
type Step = [op: string, inputs: Read[], output: string, attrs?: AttrInit];

/** A model of these steps, whose inputs are float32; other tensors are initializers. */
function modelOf(inputs: Record<string, readonly number[]>, steps: readonly Step[]): Model {
  const graph = new Graph('test');
  const values = new Map<string, Value>();
  for (const [name, shape] of Object.entries(inputs)) {
    const v = new Value(name, { kind: 'tensor', dtype: 'float32', shape });
    graph.inputs.push(v);
    values.set(name, v);
  }
  const constant = (t: Tensor) => {
    const v = new Value(`c${graph.initializers.size}`, { kind: 'tensor', dtype: t.dtype, shape: t.dims });
    graph.initializers.set(v, t);
    return v;
  };
  for (const [op, read, output, attrs = {}] of steps) {
    const made = output.split(' ').map(name => new Value(name));
    for (const v of made) values.set(v.name, v);
    const dot = op.lastIndexOf('.');
    const ins = read.map(r => (r instanceof Tensor ? constant(r) : values.get(r.name)!));
    const node = new Node(op.slice(dot + 1), ins, made, toAttrs(attrs));
    node.domain = op.slice(0, Math.max(dot, 0));
    graph.append(node);
  }
  graph.outputs = [new Value('y')];
  const model = new Model(graph);
  model.irVersion = 10;
  model.opsetImports = new Map([
    ['', 18],
    ['com.microsoft', 1],
  ]);
  return model;
}

/** The gradients for all inputs of both models agree, and so do their outputs, up to what rounding makes of these. */
async function agree(
  inputs: Record<string, Tensor>,
  integer: readonly Step[],
  floating: readonly Step[],
  rounding: number,
  tolerance = 1e-5,
): Promise<void> {
  const shapes = Object.fromEntries(Object.entries(inputs).map(([name, t]) => [name, t.dims]));
  const found: number[][][] = [];
  const outputs: number[][] = [];
  for (const steps of [integer, floating]) {
    const model = modelOf(shapes, steps);
    const session = await Session.create(model, { optimize: false });
    const { y } = await session.run(inputs);
    await session.release();
    outputs.push(y!.numbers());
    const dys = { y: spread(y!.dims, [-1, 1], 7) };
    const grads = await gradients(model, [...model.graph.inputs], dys, inputs, {
      options: { straightThrough: true },
    });
    found.push(grads.map(t => t.numbers()));
  }
  const worst = (a: number[], b: number[]) => Math.max(...a.map((x, i) => Math.abs(x - b[i]!)));
  expect(worst(outputs[0]!, outputs[1]!)).toBeLessThanOrEqual(rounding);
  Object.keys(inputs).forEach((name, i) => {
    const [got, wanted] = [found[0]![i]!, found[1]![i]!];
    const scale = Math.max(1, ...wanted.map(Math.abs));
    expect(worst(got, wanted) / scale, `gradient of ${name}`).toBeLessThan(tolerance);
  });
}

const v = (name: string) => ({ name });
const int8 = (values: readonly number[], dims: readonly number[] = [values.length]) =>
  new Tensor('int8', dims, new Uint8Array(Int8Array.from(values).buffer));
const uint8 = (n: number) => new Tensor('uint8', [], Uint8Array.of(n));
const int32 = (values: readonly number[]) => Tensor.from('int32', [values.length], Int32Array.from(values));
const count = (dims: readonly number[]) => dims.reduce((n, d) => n * d, 1);
const weights = (dims: readonly number[]) =>
  int8(
    Array.from({ length: count(dims) }, (_, i) => ((53 * i + 7) % 121) - 60),
    dims,
  );
/** Numbers that are levels of uint8 around `zero` in steps of 1/16. */
const onGrid = (dims: readonly number[], seed = 1) =>
  Tensor.from(
    'float32',
    dims,
    Float32Array.from(spread(dims, [-2, 2], seed).numbers(), x => Math.round(x * 16) / 16),
  );
const scale = floatsOf([1 / 16], []);
const zero = uint8(120);
const quantize = (name: string): Step => ['QuantizeLinear', [v(name), scale, zero], `${name}_q`];

/** The numbers of int8 weights, per tensor or along an axis. */
function numbersOf(w: Tensor, scales: readonly number[], zeros: readonly number[], axis = 0): Tensor {
  const inner = count(w.dims.slice(axis + 1));
  const data = w.numbers().map((q, i) => {
    const at = scales.length > 1 ? Math.floor(i / inner) % w.dims[axis]! : 0;
    return (q - (zeros[at] ?? 0)) * scales[at]!;
  });
  return Tensor.from('float32', w.dims, Float32Array.from(data));
}

describe('MatMulInteger', () => {
  it.each([
    ['one zero point', int8([3], []), [3, 3, 3]],
    ['one for each column', int8([3, -5, 0]), [3, -5, 0]],
  ])('%s, of what is quantized as it comes', async (_, zeros, each) => {
    const w = weights([4, 3]);
    const integer: Step[] = [
      ['DynamicQuantizeLinear', [v('x')], 'q s z'],
      ['MatMulInteger', [v('q'), w, v('z'), zeros], 'sums'],
      ['Cast', [v('sums')], 'wide', { to: 1 }],
      ['Mul', [v('s'), floatsOf([0.02, 0.03, 0.01])], 'steps'],
      ['Mul', [v('wide'), v('steps')], 'y'],
    ];
    const dense = numbersOf(w, [0.02, 0.03, 0.01], each, 1);
    await agree({ x: spread([2, 5, 4]) }, integer, [['MatMul', [v('x'), dense], 'y']], 0.2);
  });
  it('of two that are computed', async () => {
    const integer: Step[] = [
      ['DynamicQuantizeLinear', [v('a')], 'qa sa za'],
      ['DynamicQuantizeLinear', [v('b')], 'qb sb zb'],
      ['MatMulInteger', [v('qa'), v('qb'), v('za'), v('zb')], 'sums'],
      ['Cast', [v('sums')], 'wide', { to: 1 }],
      ['Mul', [v('sa'), v('sb')], 'steps'],
      ['Mul', [v('wide'), v('steps')], 'y'],
    ];
    // Gradients are taken at the levels: those of the other operand are rounded.
    await agree(
      { a: spread([2, 4]), b: spread([4, 3], [-2, 2], 2) },
      integer,
      [['MatMul', [v('a'), v('b')], 'y']],
      0.1,
      2e-2,
    );
  });
});

it('ConvInteger', async () => {
  const w = weights([3, 2, 2, 3]);
  const attrs = { strides: [2, 1], pads: [1, 0, 0, 1] };
  const integer: Step[] = [
    ['DynamicQuantizeLinear', [v('x')], 'q s z'],
    ['ConvInteger', [v('q'), w, v('z'), int8([3], [])], 'sums', attrs],
    ['Cast', [v('sums')], 'wide', { to: 1 }],
    ['Mul', [v('wide'), v('s')], 'y'],
  ];
  const dense = numbersOf(w, [1], [3]);
  await agree({ x: spread([2, 2, 5, 6]) }, integer, [['Conv', [v('x'), dense], 'y', attrs]], 5);
});

describe('QLinearMatMul', () => {
  const w = weights([4, 3]);
  const out = [floatsOf([0.1], []), uint8(128)];
  it.each([
    ['per tensor', floatsOf([0.02], []), int8([3], []), [0.02], [3]],
    ['per column', floatsOf([0.02, 0.03, 0.01]), int8([3, -5, 0]), [0.02, 0.03, 0.01], [3, -5, 0]],
  ])('%s', (_, scales, zeros, s, z) =>
    agree(
      { x: onGrid([2, 4]) },
      [
        quantize('x'),
        ['QLinearMatMul', [v('x_q'), scale, zero, w, scales, zeros, ...out], 'y_q'],
        ['DequantizeLinear', [v('y_q'), ...out], 'y'],
      ],
      [['MatMul', [v('x'), numbersOf(w, s, z, 1)], 'y']],
      0.051,
    ),
  );
  it('stops where y saturates', async () => {
    const narrow = [floatsOf([1e-5], []), uint8(128)];
    const model = modelOf({ x: [2, 4] }, [
      quantize('x'),
      ['QLinearMatMul', [v('x_q'), scale, zero, w, floatsOf([0.02], []), int8([3], []), ...narrow], 'y_q'],
      ['DequantizeLinear', [v('y_q'), ...narrow], 'y'],
    ]);
    const dys = { y: spread([2, 3]) };
    const options = { options: { straightThrough: true } };
    const [dx] = await gradients(model, [...model.graph.inputs], dys, { x: onGrid([2, 4]) }, options);
    expect(dx!.numbers()).toEqual(Array(8).fill(0));
  });
});

it.each([
  ['per tensor', floatsOf([0.02], []), int8([3], []), [0.02], [3]],
  ['per channel', floatsOf([0.02, 0.03, 0.01]), int8([0, 0, 0]), [0.02, 0.03, 0.01], [0, 0, 0]],
])('QLinearConv, %s, with a bias', (_, scales, zeros, s, z) => {
  const w = weights([3, 1, 2, 2]);
  const out = [floatsOf([0.2], []), uint8(128)];
  const bias = [700, -900, 333];
  const b = floatsOf(bias.map((x, i) => (x / 16) * (s[i] ?? s[0]!)));
  const attrs = { group: 3, dilations: [1, 2] };
  return agree(
    { x: onGrid([2, 3, 4, 5]) },
    [
      quantize('x'),
      ['QLinearConv', [v('x_q'), scale, zero, w, scales, zeros, ...out, int32(bias)], 'y_q', attrs],
      ['DequantizeLinear', [v('y_q'), ...out], 'y'],
    ],
    [['Conv', [v('x'), numbersOf(w, s, z), b], 'y', attrs]],
    0.11,
  );
});

describe('of ONNX Runtime', () => {
  const w = weights([4, 3]);
  const [scales, zeros] = [floatsOf([0.02, 0.03, 0.01]), int8([3, -5, 0])];
  const dense = numbersOf(w, [0.02, 0.03, 0.01], [3, -5, 0], 1);
  const bias = floatsOf([0.5, -1, 2]);
  const out = [floatsOf([0.05], []), uint8(128)];

  it('DynamicQuantizeMatMul', () =>
    agree(
      { x: spread([2, 4]) },
      [['com.microsoft.DynamicQuantizeMatMul', [v('x'), w, scales, zeros, bias], 'y']],
      [
        ['MatMul', [v('x'), dense], 'p'],
        ['Add', [v('p'), bias], 'y'],
      ],
      0.2,
    ));
  it('MatMulIntegerToFloat', () =>
    agree(
      { x: spread([2, 4]) },
      [
        ['DynamicQuantizeLinear', [v('x')], 'q s z'],
        ['com.microsoft.MatMulIntegerToFloat', [v('q'), w, v('s'), scales, v('z'), zeros, bias], 'y'],
      ],
      [
        ['MatMul', [v('x'), dense], 'p'],
        ['Add', [v('p'), bias], 'y'],
      ],
      0.2,
    ));
  it.each([0, 1])('QAttention (causal: %i)', unidirectional => {
    const [rows, all] = [weights([4, 12]), spread([12], [-0.5, 0.5], 4)];
    const [s, z] = [Array.from({ length: 12 }, (_, i) => 0.02 + 0.001 * i), Array(12).fill(0)];
    const mask = int32([3, 2]);
    const attrs = { num_heads: 2, unidirectional };
    const attention = 'com.microsoft.Attention';
    return agree(
      { x: onGrid([2, 3, 4]) },
      [
        quantize('x'),
        [
          'com.microsoft.QAttention',
          [v('x_q'), rows, all, scale, floatsOf(s), mask, zero, int8(z)],
          'y',
          attrs,
        ],
      ],
      [[attention, [v('x'), numbersOf(rows, s, z, 1), all, mask], 'y', attrs]],
      1e-4,
    );
  });
  it.each([true, false])('QGemm (quantized: %s)', isQuantized => {
    const rows = weights([3, 4]);
    const b = [160, -70, 11];
    const wide = [floatsOf([0.1], []), uint8(128)];
    const inputs = [v('x_q'), scale, zero, rows, floatsOf([0.02], []), int8([0], []), int32(b)];
    const attrs = { transB: 1, alpha: float(0.5) };
    const end: Step[] = isQuantized
      ? [
          ['com.microsoft.QGemm', [...inputs, ...wide], 'y_q', attrs],
          ['DequantizeLinear', [v('y_q'), ...wide], 'y'],
        ]
      : [['com.microsoft.QGemm', inputs, 'y', attrs]];
    const c = floatsOf(b.map(x => (x / 16) * 0.02 * 0.5));
    return agree(
      { x: onGrid([2, 4]) },
      [quantize('x'), ...end],
      [['Gemm', [v('x'), numbersOf(rows, [0.02], [0]), c], 'y', attrs]],
      0.051,
    );
  });
  it.each(['Add', 'Mul'])('QLinear%s, broadcast', op =>
    agree(
      { a: onGrid([2, 3, 4]), b: onGrid([3, 1], 2) },
      [
        quantize('a'),
        quantize('b'),
        [`com.microsoft.QLinear${op}`, [v('a_q'), scale, zero, v('b_q'), scale, zero, ...out], 'y_q'],
        ['DequantizeLinear', [v('y_q'), ...out], 'y'],
      ],
      [[op, [v('a'), v('b')], 'y']],
      0.051,
    ),
  );
  it.each<[string, AttrInit, AttrInit?]>([
    ['Sigmoid', {}],
    ['LeakyRelu', { alpha: float(0.2) }],
    ['Softmax', { axis: -1, opset: 13 }, { axis: -1 }],
    ['AveragePool', { kernel_shape: [2, 2], strides: [1, 2], pads: [0, 1, 0, 1] }],
    ['GlobalAveragePool', {}],
  ])('QLinear%s', (op, attrs, plain = attrs) => {
    const fine = [floatsOf([1 / 32], []), uint8(128)];
    return agree(
      { x: onGrid([1, 2, 4, 4]) },
      [
        quantize('x'),
        [`com.microsoft.QLinear${op}`, [v('x_q'), scale, zero, ...fine], 'y_q', attrs],
        ['DequantizeLinear', [v('y_q'), ...fine], 'y'],
      ],
      [[op, [v('x')], 'y', plain]],
      0.1,
    );
  });
  it('QLinearConcat', () =>
    agree(
      { a: onGrid([2, 3]), b: onGrid([1, 3], 2) },
      [
        quantize('a'),
        quantize('b'),
        [
          'com.microsoft.QLinearConcat',
          [...out, v('a_q'), scale, zero, v('b_q'), scale, zero],
          'y_q',
          { axis: 0 },
        ],
        ['DequantizeLinear', [v('y_q'), ...out], 'y'],
      ],
      [['Concat', [v('a'), v('b')], 'y', { axis: 0 }]],
      0.051,
    ));
  it('QLinearWhere', () => {
    const chosen = bools([1, 0, 1]);
    return agree(
      { a: onGrid([2, 3]), b: onGrid([1, 3], 2) },
      [
        quantize('a'),
        quantize('b'),
        ['com.microsoft.QLinearWhere', [chosen, v('a_q'), scale, zero, v('b_q'), scale, zero, ...out], 'y_q'],
        ['DequantizeLinear', [v('y_q'), ...out], 'y'],
      ],
      [['Where', [chosen, v('a'), v('b')], 'y']],
      0.051,
    );
  });
});
